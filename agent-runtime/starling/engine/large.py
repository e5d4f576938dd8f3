"""What a shard has in object stores: put before the commit that names it, gone when nothing needs it any more.

- A body goes when the turn that handled its message is committed. One that several messages share goes when all of
  them were handled.
- A cell's object goes when the table has acknowledged the cell's successor.
- A message that became a dead letter, or waits as a due record, keeps its object.

An object that was put and never named, or whose end was not told because the process died in between, is an orphan:
`starling.engine.sweep` finds it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from starling.core.ids import PoolName, ShardId
from starling.core.overlay import Overlay
from starling.core.record import Cell
from starling.core.reference import CELL, Reference, cell_reference, refer
from starling.core.reply import Reply
from starling.engine.objects import Objects
from starling.engine.shard_info import PoolSettings
from starling.engine.table import Table
from starling.engine.work import Outcome
from starling.errors import MeshError, ObjectLost, UnknownPool, Unreachable

log = logging.getLogger(__name__)

PAUSE_CAP: Final = 2.0
ROUND: Final = 0.5
LOOKS_AGAIN: Final = 3


class LargeValues:
    """One shard's objects."""

    def __init__(
        self, objects: Objects, settings: PoolSettings, shard: ShardId, *, table: Table, overlay: Overlay
    ) -> None:
        self._objects = objects
        self._settings = settings
        self._shard = shard
        self._table = table
        self._overlay = overlay
        self._done: deque[tuple[Reference, str]] = deque()

    # -- in

    def refer(self, kind: str, data: bytes, *, to: tuple[PoolName, ShardId] | None = None, share: int = 1) -> Reference:
        """Name an object that is about to be put. to: pool and shard of its reader, None: this one."""
        pool, shard = to or (self._settings.pool, self._shard)
        return refer(pool, shard, kind, self._settings.chance.getrandbits(96), data, share=share)

    def cell(self, cell: Cell, puts: dict[Reference, bytes]) -> Cell:
        """Return the cell as it is committed, and add to `puts` what has to be stored before that."""
        assert cell.data is not None
        reference = self.refer(CELL, cell.data)
        puts[reference] = cell.data
        return Cell(cell.version, reference.in_cell())

    async def put(self, puts: Mapping[Reference, bytes], *, keys: Mapping[Reference, str] | None = None) -> None:
        """Store all of it, however long the store is away; cancel it with the shard. keys: of cells, by reference.

        Raises UnknownPool when there has been no such store for a minute, and the server says so too.
        """
        for reference, data in puts.items():
            await self._put(reference, data, (keys or {}).get(reference, ""))

    async def _put(self, reference: Reference, data: bytes, key: str) -> None:
        pause = 0.05
        missing_since: float | None = None
        while True:
            try:
                await self._objects.put(reference, data, key=key)
                return
            except Unreachable as error:
                missing_since = None
                log.debug("large object not stored yet", extra={"object": reference.name, "error": str(error)})
            except UnknownPool as error:
                if missing_since is None:
                    missing_since = asyncio.get_running_loop().time()
                    log.error("no store for a large object", extra={"object": reference.name, "error": str(error)})
                elif await self._objects.is_gone(reference.pool, missing_since):
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_CAP)

    # -- out

    async def get(self, reference: Reference) -> bytes:
        """Return the bytes, however long the store is away. Raises ObjectLost."""
        pause = 0.05
        while True:
            try:
                return await self._objects.get(reference)
            except Unreachable as error:
                log.debug("large object not reachable", extra={"object": reference.name, "error": str(error)})
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_CAP)

    async def answer(self, reply: Reply) -> Reply:
        """Return the reply with its body, wherever that is. Raises ObjectLost, Unreachable."""
        return await self._objects.answer(reply)

    async def read(self, keys: Sequence[str]) -> Mapping[str, Cell | None]:
        """Return committed cells, whole. One whose object is lost comes as its reference. Raises as `Table.read`."""
        cells = await self._table.read(keys)
        for key, cell in cells.items():
            if cell is not None and cell_reference(cell.data) is not None:
                cells[key] = await self.whole(key, cell)
        return cells

    async def stored(self, keys: Sequence[str]) -> Mapping[str, Cell | None]:
        """Return committed cells as they are stored: a large one is a reference. Raises as `Table.read`."""
        return await self._table.read(keys)

    async def whole(self, key: str, cell: Cell) -> Cell | None:
        """Return a stored cell with its content, or its successor. Raises as `read`."""
        for _ in range(LOOKS_AGAIN):
            reference = cell_reference(cell.data)
            if reference is None:
                return cell
            try:
                return Cell(cell.version, await self._objects.get(reference))
            except ObjectLost as error:
                # it may have been replaced while we were reading, and its object with it
                again = (await self._table.read([key]))[key]
                if again is None or again.data is None:
                    return again
                if again == cell:
                    log.error("the object of a cell is lost", extra={"key": key, "error": str(error)})
                    return cell
                cell = again
        return cell

    # -- the end

    def committed(self, outcome: Outcome) -> None:
        """Note that a commit is stored: what its message had in the object store is needed no more."""
        work = outcome.work
        if work is None or not outcome.ends or outcome.dead is not None or work.envelope is None:
            return
        if work.envelope.large is not None:
            self._done.append((work.envelope.large, str(work.envelope.target)))

    async def run(self) -> None:
        """Remove what is needed no more, until cancelled."""
        while True:
            await asyncio.sleep(ROUND)
            await self.remove()

    async def remove(self) -> None:
        """Remove what is needed no more; what fails is left to the sweep."""
        while self._done or self._overlay.gone:
            try:
                if self._done:
                    reference, target = self._done.popleft()
                    who = hashlib.blake2b(target.encode(), digest_size=12).hexdigest()
                    await self._objects.done(reference, who)
                else:
                    await self._objects.delete(self._settings.pool, self._overlay.gone.popleft())
            except MeshError as error:
                log.debug("large object not removed", extra={"error": str(error)})
