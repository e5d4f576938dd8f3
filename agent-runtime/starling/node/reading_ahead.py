"""What the next owner of a shard does while the present one still runs it: it reads the journal."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from starling.core.ids import PodName, ShardId
from starling.core.names import PoolNames
from starling.engine.reading import Reading
from starling.errors import MeshError
from starling.ports.store import Store

log = logging.getLogger(__name__)

PATIENCE: Final = 1.0
"""Seconds for a reading under way to end once the shard may be taken; else the take begins a new one."""


class ReadingAhead:
    """One shard's journal, read before its take, so that after it only the newest records are to be read.

    turn: one shard at a time reads, so that those that come together are ready one by one.
    """

    def __init__(self, store: Store, names: PoolNames, shard: ShardId, pod: PodName, turn: asyncio.Lock) -> None:
        self._store = store
        self._names = names
        self._shard = shard
        self._pod = pod
        self._turn = turn
        self._reading: Reading | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_under_way = False

    def go_on(self) -> None:
        """Read what is there by now, then tell the owner, who waits for it; nothing happens while that is under way."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._read(), name=f"reading ahead {self._shard}")

    async def end(self) -> Reading | None:
        """Return what is read, to go on from; None when that is nothing."""
        task, self._task = self._task, None
        if task is not None and self._is_under_way:
            await asyncio.wait({task}, timeout=PATIENCE)
        if task is not None:
            task.cancel()
        return self._reading

    def cancel(self) -> None:
        """Stop reading; what is read is not wanted."""
        if self._task is not None:
            self._task.cancel()

    async def _read(self) -> None:
        try:
            async with self._turn:
                self._is_under_way = True
                reading, self._reading = self._reading or Reading(self._store, self._names, self._shard), None
                await reading.ahead()
                self._reading = reading
            await self._store.signal(self._names.prepared(self._shard), self._pod.encode())
        except MeshError as error:  # who takes the shard reads it all, and says what is wrong
            log.debug("journal not read ahead", extra={"shard": self._shard, "error": str(error)})
        finally:
            self._is_under_way = False
