"""The sweep: large objects that nothing refers to, because a process died between two steps, go after a while.

- A cell's object goes when the table holds another version of the cell, an hour after it was put at the earliest.
- An answer's object goes after two hours: nobody may wait longer than one for an answer.
- A body's object goes seven days after it was last said to be needed. Whoever holds a message says so once a day: the
  shard whose outbox or fan-out it is in, the shard in whose mailbox or due records it waits, and shard 0 for the dead
  letters of its pool. So a body is lost only with a message that lay for a week where no process looked after it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from starling.core.due import DueIndex
from starling.core.ids import PoolName, ShardId
from starling.core.names import INLETS, Inlet
from starling.core.outbox import Outbox
from starling.core.overlay import Overlay
from starling.core.reference import BODY, CELL, REPLY, cell_reference
from starling.engine.objects import Described, Objects
from starling.engine.shard_info import PoolSettings
from starling.engine.table import Table
from starling.errors import Fenced, MeshError
from starling.ports.store import Store

log = logging.getLogger(__name__)

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
INTERVAL: Final = HOUR
CELL_AGE: Final = HOUR
REPLY_AGE: Final = 2 * HOUR
BODY_AGE: Final = 7 * DAY
AT_ONCE: Final = 500

_REFERENCE: Final = re.compile(
    rb"\x95(?:[\xa1-\xbf]|\xd9.)([a-z0-9-]{1,63}?)[\xa0-\xbf](\d{1,4}-b-[0-9a-f]{24})", re.DOTALL
)
"""A packed reference to a body, wherever it stands in a stored message."""

Held = tuple[PoolName, str]


class Sweep:
    """Looks after the objects of one shard: those that it holds stay, those of its own that nothing needs go."""

    def __init__(
        self,
        store: Store,
        settings: PoolSettings,
        shard: ShardId,
        objects: Objects,
        *,
        outbox: Outbox,
        due: DueIndex,
        table: Table,
        overlay: Overlay,
        floors: Callable[[], dict[Inlet, int]],
    ) -> None:
        self._store = store
        self._settings = settings
        self._shard = shard
        self._objects = objects
        self._outbox = outbox
        self._due = due
        self._table = table
        self._overlay = overlay
        self._floors = floors

    async def run(self) -> None:
        """Look once an hour, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look(self._settings.wall())
            except Fenced:
                raise
            except MeshError as error:
                log.debug("sweep put off", extra={"error": str(error)})

    async def look(self, now: float) -> int:
        """Say what is needed, and remove what is not; return how many objects went. Raises MeshError."""
        foreign = {held for held in self._sent() if held[0] != self._settings.pool}
        for pool, name in foreign:
            await self._objects.touch(pool, name, older_than=now - DAY)
        old = [one for one in await self._objects.described(self._settings.pool) if one.time < now - HOUR]
        if any(kind_of(one.name) == BODY and one.time < now - DAY for one in old):
            for pool, name in await self._held():
                await self._objects.touch(pool, name, older_than=now - DAY)
            old = [one for one in await self._objects.described(self._settings.pool) if one.time < now - HOUR]
        gone = 0
        for one in old:
            if self._is_ours(one.name) and await self._is_orphan(one, now - one.time):
                gone += await self._objects.delete_old(self._settings.pool, one.name, older_than=now - age_of(one.name))
        await self._objects.remove_unfinished(self._settings.pool, f"{self._shard}-", older_than=now - HOUR)
        if gone:
            log.info("large objects without a use removed", extra={"shard": self._shard, "objects": gone})
        return gone

    def _is_ours(self, name: str) -> bool:
        return name.partition("-")[0] == str(self._shard)

    async def _is_orphan(self, one: Described, age: float) -> bool:
        return age > age_of(one.name) and (kind_of(one.name) != CELL or await self._is_replaced(one))

    async def _is_replaced(self, one: Described) -> bool:
        if not one.key or one.key in self._overlay.entries:
            return False
        cell = (await self._table.read([one.key]))[one.key]
        reference = cell_reference(cell.data) if cell is not None else None
        return reference is None or reference.name != one.name

    # -- what this shard holds

    async def _held(self) -> set[Held]:
        held = set(self._sent())
        keys = list(self._due.live)
        for start in range(0, len(keys), AT_ONCE):
            cells = await self._table.read(keys[start : start + AT_ONCE])
            held.update(references(cell.data for cell in cells.values() if cell is not None and cell.data is not None))
        names = self._settings.names
        floors = self._floors()
        for inlet in INLETS:
            subject = names.inlet_subject(self._shard, inlet)
            held |= await self._in(names.mailbox(self._shard), subject, floors.get(inlet, 0) + 1)
        if self._shard == 0:
            held |= await self._in(names.dead_letters, names.dead_subject, 1)
        return held

    def _sent(self) -> Iterator[Held]:
        return references(one.frame.body for chain in self._outbox.chains.values() for one in chain.frames)

    async def _in(self, stream: str, subject: str, first: int) -> set[Held]:
        found: set[Held] = set()
        while page := await self._store.page(stream, subject, first):
            found.update(references(message.data for message in page))
            first = page[-1].sequence + 1
        return found


def kind_of(name: str) -> str:
    """Whether an object is a body, an answer or a cell."""
    return name.split("-")[1]


def age_of(name: str) -> float:
    """Seconds after which an object that nothing refers to goes, at the earliest."""
    return {CELL: CELL_AGE, REPLY: REPLY_AGE}.get(kind_of(name), BODY_AGE)


def references(stored: Iterable[bytes]) -> Iterator[Held]:
    """Return the bodies that stored bytes refer to: pool and name."""
    for data in stored:
        for pool, name in _REFERENCE.findall(data):
            yield PoolName(pool.decode()), name.decode()
