"""Loads read from the workers' own metrics: what `starling dev` uses in place of Prometheus."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from starling.core.ids import ShardId
from starling.core.membership import Member

from starling_operator.plan.values import ShardLoads

log = logging.getLogger(__name__)

INTERVAL: Final = 1.0
TIMEOUT: Final = 2.0
KEPT: Final = 300.0


class Sample(NamedTuple):
    """One scrape of one process. Counters by shard, gauges by shard."""

    time: float
    busy: dict[ShardId, float]
    lag: dict[ShardId, float]
    owned: frozenset[ShardId]


class ScrapeLoads:
    """Scrapes all workers once a second; `run` must run. members: the present members by pool."""

    def __init__(self, members: Callable[[], Iterable[tuple[str, Member]]]) -> None:
        self._members = members
        self._samples: dict[tuple[str, str, str], deque[Sample]] = {}

    async def run(self) -> None:
        """Scrape until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await asyncio.gather(*(self._scrape(pool, member) for pool, member in list(self._members())))
            self._forget(asyncio.get_running_loop().time())

    async def _scrape(self, pool: str, member: Member) -> None:
        host, _, port = member.metrics.rpartition(":")
        try:
            async with asyncio.timeout(TIMEOUT):
                text = await fetch(host, int(port), "/metrics")
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            log.debug("worker not scraped", extra={"pod": member.pod, "error": str(error)})
            return
        sample = read_sample(text, asyncio.get_running_loop().time(), frozenset(member.shards))
        self._samples.setdefault((pool, member.pod, member.start), deque()).append(sample)

    def _forget(self, now: float) -> None:
        for key, samples in list(self._samples.items()):
            while samples and now - samples[0].time > KEPT:
                samples.popleft()
            if not samples:
                del self._samples[key]

    async def loads(self, namespace: str, pool: str, window: float) -> ShardLoads | None:
        """Return busy seconds a second over the window, and the lag as last read; None before there are two scrapes."""
        now = asyncio.get_running_loop().time()
        busy: dict[ShardId, float] = {}
        lag: dict[ShardId, float] = {}
        newest = 0.0
        for (name, _, _), samples in self._samples.items():
            inside = [sample for sample in samples if now - sample.time <= window + INTERVAL]
            if name != pool or len(inside) < 2:
                continue
            newest = max(newest, inside[-1].time)
            seconds = inside[-1].time - inside[0].time
            for shard, value in inside[-1].busy.items():
                grown = value - inside[0].busy.get(shard, 0.0)
                busy[shard] = busy.get(shard, 0.0) + max(0.0, grown) / seconds
            if now - inside[-1].time <= TIMEOUT + 2 * INTERVAL:
                for shard, waiting in inside[-1].lag.items():
                    lag[shard] = lag.get(shard, 0.0) + waiting
        return ShardLoads(busy, lag, now - newest) if newest else None


def read_sample(text: str, now: float, owned: frozenset[ShardId]) -> Sample:
    """Read what we need of a worker's metrics."""
    busy: dict[ShardId, float] = {}
    lag: dict[ShardId, float] = {}
    for family in text_string_to_metric_families(text):
        wanted = (
            busy if family.name == "starling_busy_seconds" else lag if family.name == "starling_mailbox_lag" else None
        )
        if wanted is None:
            continue
        for sample in family.samples:
            if sample.name in ("starling_busy_seconds_total", "starling_mailbox_lag"):
                shard = ShardId(int(sample.labels["shard"]))
                wanted[shard] = wanted.get(shard, 0.0) + sample.value
    return Sample(now, busy, lag, owned)


async def fetch(host: str, port: int, path: str) -> str:
    """Return the body of an HTTP GET on a worker. Raises OSError, ValueError for another answer than 200."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        if head.split(b" ", 2)[1] != b"200":
            raise ValueError(f"{host}:{port}{path} answered {head[:64]!r}")
        return (await reader.read()).decode()
    finally:
        writer.close()
