"""Purge: what a shard's streams hold and nobody needs any more."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from starling.core.ids import ShardId
from starling.core.names import Inlet, Origin
from starling.core.overlay import purge_bound
from starling.engine.commit import Committer
from starling.engine.faults import Point
from starling.engine.journal import Journal
from starling.engine.shard_info import PoolSettings
from starling.errors import MeshError
from starling.ports.store import Store

log = logging.getLogger(__name__)

INTERVAL: Final = 1.0


class Janitor:
    """Purges by acknowledged facts only: frames up to the committed floor at once, outside messages after the
    dedupe window, journal records when nothing refers to them."""

    def __init__(
        self,
        store: Store,
        settings: PoolSettings,
        shard: ShardId,
        *,
        journal: Journal,
        committer: Committer,
        oldest: Callable[[], tuple[int | None, ...]],
    ) -> None:
        self._store = store
        self._settings = settings
        self._shard = shard
        self._journal = journal
        self._committer = committer
        self._oldest = oldest
        self._purged: dict[Inlet, int] = {}
        self._journal_purged = 0
        self._outside: dict[Inlet, deque[tuple[float, int]]] = {}

    async def run(self) -> None:
        """Purge once a second until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.purge(loop.time(), self._committer.committed_floors)
            except MeshError as error:
                log.debug("purge put off", extra={"error": str(error)})

    async def purge(self, now: float, floors: Mapping[Inlet, int]) -> None:
        """Purge what may go at time `now`, given the floors of the last acknowledged record."""
        names = self._settings.names
        for inlet, floor in floors.items():
            allowed = floor if inlet.origin is Origin.FRAMES else self._after_window(inlet, now, floor)
            if allowed > self._purged.get(inlet, 0):
                await self._store.purge(
                    names.mailbox(self._shard), names.inlet_subject(self._shard, inlet), below=allowed + 1
                )
                self._settings.passed(Point.PURGE_SENT)
                self._purged[inlet] = allowed
        bound = purge_bound(own_last=self._journal.last, snapshot=self._committer.snapshot, needed=self._oldest())
        if bound > self._journal_purged + 1:
            await self._journal.purge(below=bound)
            self._settings.passed(Point.PURGE_SENT)
            self._journal_purged = bound

    def _after_window(self, inlet: Inlet, now: float, floor: int) -> int:
        """The floor as it was a dedupe window ago: what is younger, the server must remember."""
        history = self._outside.setdefault(inlet, deque())
        if not history or history[-1][1] != floor:
            history.append((now, floor))
        allowed = 0
        while history and history[0][0] <= now - self._settings.dedupe_window:
            allowed = history[0][1]
            if len(history) == 1:
                break
            history.popleft()
        return allowed
