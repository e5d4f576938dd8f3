"""The table of a shard: the owner's mark, reads that count, and the write behind the journal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from starling.core import limits
from starling.core.due import DueIndex, bucket_key
from starling.core.ids import Epoch, ShardId
from starling.core.names import TTL, PoolNames, bucket_stream, bucket_subject, mark_key
from starling.core.overlay import MISSING, Overlay, TableValue
from starling.core.record import Cell
from starling.engine.faults import Passed, Point, no_fault
from starling.engine.journal import Journal
from starling.errors import Fenced, JournalLost, Unreachable
from starling.ports.store import Answer, Expect, LastValues, Message, Refused, Store, Stored, Unknown, is_removal

log = logging.getLogger(__name__)

ROUND: Final = 0.5
QUIET: Final = 1.0
PATIENCE: Final = 5.0
READ_LIMIT: Final = 1000
WRITES_A_ROUND: Final = 512
TOMBSTONE: Final = {TTL: "24h"}
"""Headers of the last value of a destroyed cell: first writes are conditional on the mark, so that it may expire."""


class Table:
    """One shard's cells. Only committed values are written, and only by compare-and-set."""

    def __init__(
        self,
        store: Store,
        names: PoolNames,
        shard: ShardId,
        epoch: Epoch,
        overlay: Overlay,
        due: DueIndex,
        journal: Journal,
        passed: Passed = no_fault,
    ) -> None:
        self._store = store
        self._bucket = names.table
        self._stream = bucket_stream(names.table)
        self._mark_subject = bucket_subject(names.table, mark_key(shard))
        self._shard = shard
        self._epoch = epoch
        self.overlay = overlay
        self._journal = journal
        self._passed = passed
        self._mark_anew = False
        """A first write of a cell may still arrive late: only a new mark makes its condition false."""
        self._due = due
        self.on_round: Callable[[], None] = lambda: None
        """Called after each round of the write behind: fewer cells may be on their way."""

    async def mark(self, found: Message | None = None) -> None:
        """Write the owner's mark, over a smaller epoch or our own only; after the replay, before anything else.

        found: the mark as it was read a moment ago. Raises Fenced when a larger epoch has marked, Unreachable.
        """
        value = TableValue(self._epoch, 0, b"").encode()
        for attempt in range(20):
            if found is None:
                found = await self._store.last(self._stream, self._mark_subject)
            if found is not None and TableValue.decode(found.data).journal > self._epoch:
                raise Fenced(f"{self._bucket}: a later owner has marked")
            expect = Expect(found.sequence if found else 0)
            answer = await (await self._store.publish(self._mark_subject, value, expect=expect))
            if isinstance(answer, Stored):
                self.overlay.marked(answer.sequence)
                return
            found = None
            await asyncio.sleep(0.02 * (attempt + 1))
        raise Unreachable(f"{self._bucket}: the mark could not be written")

    async def read(self, keys: Sequence[str]) -> dict[str, Cell | None]:
        """Return cells of agents that are about to be active; None: it was never written, or destroyed.

        The overlay answers first. The table's answer counts only from a replica that has seen our mark and
        everything that we know to be written. Raises Unreachable, DecodeError, Fenced; JournalLost when the table is
        ahead although nobody took the shard: then one of the two is an old copy.
        """
        overlay = self.overlay
        result: dict[str, Cell | None] = {}
        wanted: list[str] = []
        for key in keys:
            entry = overlay.entries.get(key)
            if entry is not None:
                result[key] = entry.cell if entry.cell.data is not None else None
            else:
                wanted.append(key)
        for start in range(0, len(wanted), READ_LIMIT):
            part = wanted[start : start + READ_LIMIT]
            for key, value in (await self._look(part)).items():
                result[key] = None if value is None or value.data is None else Cell(value.version, value.data)
        return result

    async def read_buckets(self, buckets: Sequence[str]) -> dict[str, tuple[int, bytes | None]]:
        """Return the buckets of due records as the table has them: version and content; version 0: never written."""
        found: dict[str, tuple[int, bytes | None]] = {}
        for start in range(0, len(buckets), READ_LIMIT):
            part = {bucket_key(self._shard, bucket): bucket for bucket in buckets[start : start + READ_LIMIT]}
            for key, value in (await self._look(list(part))).items():
                found[part[key]] = (0, None) if value is None else (value.journal, value.data)
        return found

    async def _look(self, keys: Sequence[str]) -> dict[str, TableValue | None]:
        """Ask until an answer counts; remember what it says of each cell."""
        needed = self.overlay.reached
        subjects = {key: bucket_subject(self._bucket, key) for key in keys}
        answer = await self._answer([*subjects.values(), self._mark_subject], needed)
        found: dict[str, TableValue | None] = {}
        self.overlay.newest = self._journal.last
        for key, subject in subjects.items():
            message = answer.found.get(subject)
            value = None if message is None or is_removal(message) else TableValue.decode(message.data)
            try:
                self.overlay.found(key, MISSING if message is None or value is None else message.sequence, value)
            except Fenced as error:
                if await self._journal.is_ours():
                    raise JournalLost(f"{self._bucket} is ahead of the journal: {error}") from error
                raise
            found[key] = value
        return found

    async def _answer(self, subjects: Sequence[str], needed: int) -> LastValues:
        pause = 0.005
        for _ in range(60):
            answer = await self._store.last_values(self._stream, subjects)
            if answer.up_to is not None and answer.up_to >= needed:
                return answer
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.2)
        raise Unreachable(f"{self._bucket}: no replica has reached {needed}")

    async def write_behind(self) -> None:
        """Bring the table up to the journal, a round at a time, until cancelled. Raises Fenced.

        Without a pause while more is due than a round takes, and without waiting for cells to be quiet while many are
        dirty: else a load of ever new agents would leave it behind for good.
        """
        loop = asyncio.get_running_loop()
        written = 0
        while True:
            await asyncio.sleep(0.0 if written >= WRITES_A_ROUND else ROUND)
            quiet = QUIET if len(self.overlay.entries) < limits.DIRTY_CELLS // 2 else 0.0
            written = 0
            try:
                written = await self.write_round(loop.time(), quiet=quiet, patience=PATIENCE)
            except Unreachable as error:
                log.debug("table not reachable", extra={"error": str(error)})
            self.on_round()

    async def write_round(self, now: float, *, quiet: float, patience: float) -> int:
        """Write the cells that are due and wait for the answers; return how many are in the table now."""
        overlay = self.overlay
        overlay.forget()
        if self._mark_anew:
            await self.mark()
            self._mark_anew = False
        due = []
        for key, entry in overlay.due(now, quiet=quiet, patience=patience):
            due.append((key, entry))
            if len(due) >= WRITES_A_ROUND:
                break
        buckets = [(bucket_key(self._shard, name), name, journal, data) for name, journal, data in self._due.to_write()]
        wanted = [key for key, _ in due] + [key for key, *_ in buckets]
        unknown = [key for key in wanted if key not in overlay.known]
        for start in range(0, len(unknown), READ_LIMIT):
            await self._look(unknown[start : start + READ_LIMIT])
        writes: list[tuple[str, int, bool, asyncio.Future[Answer]]] = []
        bucket_writes: list[tuple[str, str, int, bool, asyncio.Future[Answer]]] = []
        try:
            for key, entry in due:
                if key not in overlay.entries or entry.awaited:
                    continue
                value = TableValue(entry.journal, entry.cell.version, entry.cell.data)
                answer = await self._write(key, value)
                entry.awaited = True  # not before: a publish that raises was not sent
                writes.append((key, entry.journal, not overlay.known[key], answer))
                self._passed(Point.TABLE_SENT)
            for bucket, name, journal, data in buckets:
                answer = await self._write(bucket, TableValue(journal, 0, data))
                self._due.writing(name)
                bucket_writes.append((bucket, name, journal, not overlay.known[bucket], answer))
        finally:
            written = [self._settle(key, journal, is_first, await answer) for key, journal, is_first, answer in writes]
            for bucket, name, journal, is_first, answer in bucket_writes:
                stored = self._settle(bucket, journal, is_first, await answer)
                self._due.written(name, journal if stored else None)
        return sum(written)

    async def _write(self, key: str, value: TableValue) -> asyncio.Future[Answer]:
        """Write a cell on condition of its last known message, or of our mark where there is none."""
        known = self.overlay.known[key]
        expect = Expect(known) if known else Expect(self.overlay.mark, self._mark_subject)
        headers = TOMBSTONE if value.data is None else None
        subject = bucket_subject(self._bucket, key)
        return asyncio.ensure_future(await self._store.publish(subject, value.encode(), headers, expect))

    def _settle(self, key: str, journal: int, is_first: bool, answer: Answer) -> bool:
        overlay = self.overlay
        if isinstance(answer, Stored):
            overlay.acknowledged(key, journal, answer.sequence)
            return True
        if is_first and isinstance(answer, Unknown):
            self._mark_anew = True
        # Refused: the cell moved, or our mark is gone; the next round reads before it writes again, and that
        # read stops us when a later owner was here. Unknown: the same.
        overlay.unanswered(key, forget=True)
        if isinstance(answer, Refused) and answer.why not in ("conflict", "full"):
            log.error("table refused a cell", extra={"why": answer.why, "text": answer.text})
        return False


async def last_mark(store: Store, names: PoolNames, shard: ShardId) -> Message | None:
    """Return the mark that was written last, None when there is none. Raises Unreachable."""
    return await store.last(bucket_stream(names.table), bucket_subject(names.table, mark_key(shard)))
