"""How full the pool's dead-letter stream is, as a metric: people hear of it before the oldest letters go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from starling.core.names import PoolNames
from starling.engine.dead import Fill, fill_of
from starling.errors import MeshError
from starling.ports.store import Store

log = logging.getLogger(__name__)

LOOK: Final = 15.0


class DeadLetterWatch(Collector):
    """Looks every 15 s while `looks` says so (one pod of the pool does); without a look there is no sample."""

    def __init__(self, store: Store, names: PoolNames, looks: Callable[[], bool]) -> None:
        self._store = store
        self._names = names
        self._looks = looks
        self.fill: Fill | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK)

    async def look(self) -> None:
        """Look once. What cannot be seen is no sample."""
        self.fill = None
        if not self._looks():
            return
        try:
            info = await self._store.stream_info(self._names.dead_letters)
        except MeshError as error:
            log.debug("dead letters not counted", extra={"error": str(error)})
            return
        self.fill = None if info is None else fill_of(info)

    def collect(self) -> Iterable[Metric]:
        letters = GaugeMetricFamily("starling_dead_letters_kept", "Dead letters of the pool.", labels=("pool",))
        ratio = GaugeMetricFamily(
            "starling_dead_letters_fill_ratio",
            "Fill of the pool's dead-letter stream, by the nearer of its limits; at 1 the oldest letters go.",
            labels=("pool",),
        )
        if self.fill is not None:
            letters.add_metric((self._names.pool,), self.fill.letters)
            ratio.add_metric((self._names.pool,), self.fill.ratio)
        return (letters, ratio)
