"""Commits: one journal record for all turns that finished meanwhile, one in flight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import Final

from starling.core import limits
from starling.core.due import Due, DueChange, DueIndex, DueKind, is_transient
from starling.core.names import Inlet, Origin
from starling.core.outbox import Outbox
from starling.core.overlay import Overlay
from starling.core.record import FrameRef, Record, ReplyRecord
from starling.core.replay import Replay
from starling.core.replies import gathered
from starling.core.sent_replies import SentReplies
from starling.engine.at_once import at_once
from starling.engine.deliver import Delivery
from starling.engine.intake import Intake
from starling.engine.journal import Journal
from starling.engine.large import LargeValues
from starling.engine.records import Batch, Records
from starling.engine.shard_info import PoolSettings, ShardStats
from starling.engine.turns import Turns
from starling.engine.work import Outcome
from starling.errors import Unreachable
from starling.ports.store import Answer, Store

log = logging.getLogger(__name__)

SETTLE: Final = 1.0
"""Seconds after which confirmations and floors are committed although no turn has finished."""
MAX_REFS: Final = 4000


class Committer:
    """Says when a record is due, sends it, and makes true what it says: nothing of a turn leaves the shard before."""

    def __init__(
        self,
        store: Store,
        settings: PoolSettings,
        *,
        journal: Journal,
        records: Records,
        replay: Replay,
        turns: Turns,
        intakes: Mapping[Inlet, Intake],
        outbox: Outbox,
        overlay: Overlay,
        delivery: Delivery,
        due: DueIndex,
        large: LargeValues,
        stats: ShardStats,
    ) -> None:
        self._store = store
        self._settings = settings
        self._journal = journal
        self._records = records
        self._turns = turns
        self._intakes = intakes
        self._outbox = outbox
        self._overlay = overlay
        self._delivery = delivery
        self._due = due
        self._large = large
        self.on_due: Callable[[Sequence[Due]], None] = lambda added: None
        """Told of the due records that a commit has made live."""
        self._stats = stats
        self._records_since = replay.records
        self._bytes_since = 0
        self.sent_replies = SentReplies()
        """For callers that have missed theirs."""
        self.committed = asyncio.Event()
        """Set after each commit."""
        self.committed_floors = dict(replay.floors)
        """Floors of the last acknowledged record."""
        self._loop = asyncio.get_running_loop()
        self._serving: asyncio.Future[None] | None = None
        """Of `run`, which ends with what a record raises; None: no record begins by itself."""
        self._is_free = asyncio.Event()
        """Clear while a record is under way."""
        self._is_free.set()
        self._began_at = 0.0
        """The loop's time at which the last record began, or `_settle` looked last."""
        self._settling: asyncio.TimerHandle | None = None
        self._replying: asyncio.Task[None] | None = None
        self._context = copy_context()

    async def run(self) -> None:
        """Commit until cancelled. Raises Fenced, OutcomeUnknown, Unreachable."""
        self._serving = serving = self._loop.create_future()
        self._began_at = self._loop.time()
        self._settling = self._loop.call_at(self._began_at + SETTLE, self._settle)
        self.begin()
        try:
            await serving
        finally:
            self._serving = None
            self._settling.cancel()
            if self._replying is not None:
                self._replying.cancel()

    def begin(self) -> None:
        """Send a record if there is something for it, or let the end of the one that is under way send the next.

        No task waits for what is to be committed, or for the ack: docs/performance.md says what the wake of one costs.
        """
        while self._is_wanted and self._send():
            pass

    @property
    def _is_wanted(self) -> bool:
        turns = self._turns
        if turns.outcomes or len(turns.lazy) >= limits.MAX_LAZY:
            return True
        return bool(self._delivery.given_up) or self._is_snapshot_due

    def _settle(self) -> None:
        """After a second without a record: commit what nobody waits for, and make room where all stands still."""
        now = self._loop.time()
        if now >= self._began_at + SETTLE:
            self._began_at = now
            self._make_room(now)
            if self.has_work or self._is_snapshot_due:
                self._send()
        self._settling = self._loop.call_at(self._began_at + SETTLE, self._settle)

    def _make_room(self, now: float) -> None:
        """Let blocked messages wait as due records where the floor has not moved for a while, so that it can."""
        for inlet, intake in self._intakes.items():
            if intake.stuck_since and now - intake.stuck_since >= SETTLE:
                room = limits.MAX_PARKED - self._due.counts[DueKind.PARKED]
                depth = min(room, intake.positions.unfinished * 3 // 4)
                if depth > 0:
                    self._turns.park(inlet, intake.positions.position_at(depth - 1))
                intake.stuck_since = 0.0

    def _floor_moved(self) -> bool:
        return any(intake.advance() != self.committed_floors.get(inlet, 0) for inlet, intake in self._intakes.items())

    @property
    def has_work(self) -> bool:
        """Whether a commit now would say anything new."""
        turns = self._turns
        if turns.outcomes or turns.lazy or self._delivery.given_up or self._outbox.confirmed:
            return True
        return self._floor_moved()

    @property
    def _is_snapshot_due(self) -> bool:
        return self._is_snapshot_wanted and len(self._overlay.entries) + self._outbox.frames <= MAX_REFS

    @property
    def _is_snapshot_wanted(self) -> bool:
        return self._records_since >= limits.SNAPSHOT_RECORDS or self._bytes_since >= limits.SNAPSHOT_BYTES

    def _send(self) -> bool:
        """Send one record, unless one is under way: a snapshot when one is due, else the turns that have finished.

        Return whether it has ended well at once, as in a store of this process.
        """
        if self._serving is None or self._serving.done() or not self._is_free.is_set():
            return False
        self._is_free.clear()
        self._began_at = self._loop.time()
        started = self._settings.timer()
        try:
            record, batch = (self._records.snapshot(), None) if self._is_snapshot_due else self._records.commit()
            sent = self._settings.timer()
            answer = asyncio.ensure_future(self._journal.send(record))
        except Exception as error:
            self._failed(error)
            return False
        self._stats.busy_seconds += sent - started
        if answer.done():
            return self._ended(record, batch, sent, answer)
        answer.add_done_callback(partial(self._answered, record, batch, sent), context=self._context)
        return False

    def _answered(self, record: Record, batch: Batch | None, sent: float, answer: asyncio.Future[Answer]) -> None:
        if self._ended(record, batch, sent, answer):
            self.begin()

    def _ended(self, record: Record, batch: Batch | None, sent: float, answer: asyncio.Future[Answer]) -> bool:
        """Make true what the record says; return whether its replies are written, so that the next may begin."""
        if self._serving is None or answer.cancelled():
            return False  # nothing was told of it, and the journal takes no further record from us
        started = self._settings.timer()
        try:
            self._journal.ended(answer.result())
            self._appended(record, started - sent)
            if batch is None:
                self._records_since = self._bytes_since = 0
            else:
                self._apply(record, batch)
                self._replying = at_once(self._reply(batch.replies), name="replies of a record")
        except Exception as error:
            self._failed(error)
            return False
        self._stats.busy_seconds += self._settings.timer() - started
        if self._replying is not None:
            self._replying.add_done_callback(self._replied)
            return False
        self._is_free.set()
        return True

    async def _reply(self, replies: Sequence[ReplyRecord]) -> None:
        for subject, body in gathered(replies):
            self.sent_replies.keep(subject, body)
            try:
                await self._store.signal(subject, body)
            except Unreachable:
                continue  # the caller hears nothing, and will ask

    def _replied(self, replying: asyncio.Task[None]) -> None:
        self._replying = None
        if replying.cancelled():
            return
        if (error := replying.exception()) is not None:
            self._failed(error)
        else:
            self._is_free.set()
            self.begin()

    def _failed(self, error: BaseException) -> None:
        self._is_free.set()
        if self._serving is not None and not self._serving.done():
            self._serving.set_exception(error)

    async def free(self) -> None:
        """Store the release record: the shard has no owner from then on."""
        self._serving = None
        record, batch = self._records.free()
        started = self._settings.timer()
        await self._journal.append(record)
        self._appended(record, self._settings.timer() - started)
        for outcome in batch.outcomes:
            if outcome.trace is not None:
                outcome.trace.committed(replied=outcome.reply is not None)

    @property
    def snapshot(self) -> int:
        """Sequence of the newest stored snapshot; 0 for none."""
        return self._records.newest_snapshot

    @property
    def is_storing(self) -> bool:
        """Whether a record is under way."""
        return not self._is_free.is_set()

    async def between_records(self) -> None:
        """Wait until no record is in flight."""
        while not self._is_free.is_set():
            await self._is_free.wait()

    @asynccontextmanager
    async def no_record(self) -> AsyncIterator[None]:
        """Let no record begin meanwhile."""
        await self.between_records()
        self._is_free.clear()
        try:
            yield
        finally:
            self._is_free.set()
            self.begin()

    def _appended(self, record: Record, seconds: float) -> None:
        self._stats.commits += 1
        self._stats.record_bytes = self._journal.written_bytes
        self._stats.commit_seconds += seconds
        self._records.stored(record)
        self._records_since += 1
        self.committed_floors = dict(record.floors)
        self.committed.set()

    def _apply(self, record: Record, batch: Batch) -> None:
        """What a stored record makes true: versions for the table, frames for their targets."""
        sequence = self._journal.last
        now = asyncio.get_running_loop().time()
        for key, cell in record.cells.items():
            if cell.data is None and not cell.version and is_transient(key):
                self._overlay.drop(key, sequence, now)
            else:
                self._overlay.commit(key, sequence, cell, now)
        if batch.added or batch.removed:
            self._due.committed(DueChange(sequence, list(batch.added.values()), batch.removed))
            self.on_due(list(batch.added.values()))
            self._stats.due_records = len(self._due)
        if batch.ended and self._turns.careful:
            self._turns.careful = False
        self._turns.stored(batch.size_bytes)
        for outcome in batch.outcomes:
            _stored(outcome)
            if outcome.answered is not None:
                self._turns.answer_recorded(outcome, outcome.answered)
            self._large.committed(outcome)
        for slot, frame in enumerate(record.frames):
            self._delivery.offer(self._outbox.add(frame, FrameRef(sequence, slot)))
        self._stats.outbox_frames = self._outbox.frames
        self._bytes_since += sum(len(frame.body) for frame in record.frames)
        self._bytes_since += sum(len(cell.data or b"") for cell in record.cells.values())
        self.pace()

    def pace(self) -> None:
        """Let the shard run ahead of its targets and of the table only so far.

        The outbox: over the first limit no outside message is read or has its turn, over the second, turns that send
        fail. The table: over the limit, or while a snapshot is due that could not name all that is dirty, nothing is
        read at all.
        """
        size_bytes, dirty = self._outbox.size_bytes, len(self._overlay.entries)
        self._stats.dirty_cells = dirty
        self._turns.outbox_is_full(size_bytes > limits.OUTBOX_PAUSES_OUTSIDE)
        self._turns.too_far_ahead = size_bytes > limits.OUTBOX_REFUSES_SENDS
        table_is_behind = dirty > limits.DIRTY_CELLS or (self._is_snapshot_wanted and dirty > MAX_REFS)
        for inlet, intake in self._intakes.items():
            if table_is_behind or (inlet.origin is Origin.OUTSIDE and size_bytes > limits.OUTBOX_PAUSES_OUTSIDE):
                intake.paused = True
            elif intake.paused:
                intake.resume()


def _stored(outcome: Outcome) -> None:
    """The commit that holds it is stored."""
    activation = outcome.activation
    if activation is not None:
        activation.pending -= 1
        if outcome.cells is not None and activation.key in outcome.cells:
            activation.committed = outcome.state
    if outcome.trace is not None:
        outcome.trace.committed(replied=outcome.reply is not None)
    if outcome.after is not None:
        outcome.after()
    if outcome.future is not None and not outcome.future.done():
        outcome.future.set_result(None)
