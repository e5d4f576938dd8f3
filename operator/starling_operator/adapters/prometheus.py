"""Loads as Prometheus measured them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from starling.core.ids import ShardId

from starling_operator.plan.values import ShardLoads

log = logging.getLogger(__name__)

TIMEOUT: Final = 5.0

BUSY: Final = 'sum by (shard) (rate(starling_busy_seconds_total{{namespace="{namespace}",pool="{pool}"}}[{window}s]))'
LAG: Final = 'sum by (shard) (starling_mailbox_lag{{namespace="{namespace}",pool="{pool}"}})'
AGE: Final = 'time() - max(timestamp(starling_shards_owned{{namespace="{namespace}",pool="{pool}"}}))'


class PrometheusLoads:
    """Asks one Prometheus. A query that fails, is empty or answers NaN is no measurement."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self.last_success: float | None = None
        """The loop's time of the last answer."""

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def loads(self, namespace: str, pool: str, window: float) -> ShardLoads | None:
        """Return the loads of a pool; None when Prometheus does not have them."""
        names = {"namespace": namespace, "pool": pool, "window": f"{window:g}"}
        try:
            busy, lag, age = await asyncio.gather(
                self._by_shard(BUSY.format(**names)),
                self._by_shard(LAG.format(**names)),
                self._one(AGE.format(**names)),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
            log.debug("no loads", extra={"pool": pool, "error": repr(error)})
            return None
        if not busy or age is None:
            return None
        self.last_success = asyncio.get_running_loop().time()
        return ShardLoads(busy, lag, age)

    async def _by_shard(self, query: str) -> dict[ShardId, float]:
        found: dict[ShardId, float] = {}
        for series in await self._query(query):
            value = float(series["value"][1])
            if not math.isnan(value):
                found[ShardId(int(series["metric"]["shard"]))] = value
        return found

    async def _one(self, query: str) -> float | None:
        result = await self._query(query)
        return float(result[0]["value"][1]) if result else None

    async def _query(self, query: str) -> list[Mapping[str, Any]]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT))
        async with self._session.get(f"{self._url}/api/v1/query", params={"query": query}) as answer:
            answer.raise_for_status()
            result: list[Mapping[str, Any]] = (await answer.json())["data"]["result"]
            return result
