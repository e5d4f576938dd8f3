"""Records: what has ended in a shard and what stands open, as the journal is to hold it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict

from starling.core import limits
from starling.core.due import Due, DueIndex, DueKind, row_bytes
from starling.core.envelope import frame_body
from starling.core.ids import Epoch, ShardId
from starling.core.names import Inlet
from starling.core.outbox import Outbox
from starling.core.overlay import Overlay
from starling.core.record import DEAD, Cell, Done, Frame, Kind, Record, ReplyRecord, Source, Target
from starling.core.replay import Replay
from starling.engine.dead import undeliverable
from starling.engine.deliver import Delivery
from starling.engine.intake import Intake
from starling.engine.journal import Journal
from starling.engine.shard_info import PoolSettings
from starling.engine.turns import Turns
from starling.engine.work import DueAdd, Outcome, Work


class _Positions(TypedDict):
    floors: dict[Inlet, int]
    done: dict[Inlet, Done]
    seen: dict[Source, int]
    confirmed: dict[Target, int]


class Batch:
    """What one record is to hold. ended: whether a message is done with, so that its takes were not barren; due_bytes:
    of due records, beside the sizes of the outcomes."""

    __slots__ = ("added", "cells", "due_bytes", "ended", "frames", "outcomes", "removed", "replies", "size_bytes")

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.cells: dict[str, Cell] = {}
        self.frames: list[Frame] = []
        self.replies: list[ReplyRecord] = []
        self.added: dict[str, Due] = {}
        self.removed: list[tuple[str, str]] = []
        self.ended = False
        self.size_bytes = 0
        self.due_bytes = 0


class Records:
    """Makes the records of one owner of a shard. What went into one goes into no other: it is to be stored, or the
    owner is to stop."""

    def __init__(
        self,
        settings: PoolSettings,
        shard: ShardId,
        *,
        journal: Journal,
        epoch: Epoch,
        owner: str,
        map_rev: int,
        replay: Replay,
        turns: Turns,
        intakes: Mapping[Inlet, Intake],
        outbox: Outbox,
        overlay: Overlay,
        delivery: Delivery,
        due: DueIndex,
    ) -> None:
        self._settings = settings
        self._shard = shard
        self._journal = journal
        self._epoch = epoch
        self._owner = owner
        self._map_rev = map_rev
        self._incarnation = replay.incarnation
        self._counters = dict(replay.counters)
        self._seen_at_floor = dict(replay.seen)
        self._turns = turns
        self._intakes = intakes
        self._outbox = outbox
        self._overlay = overlay
        self._delivery = delivery
        self._due = due
        self._barren = replay.barren
        self.newest_snapshot = replay.snapshot
        """Sequence of the newest stored snapshot; 0 for none."""

    def commit(self) -> tuple[Record, Batch]:
        """Return the record of what has ended, as much as a commit may hold, and what it was made of."""
        batch = self._gather()
        return self._record(Kind.COMMIT, batch, owner=self._owner), batch

    def free(self) -> tuple[Record, Batch]:
        """Return the release record: the shard has no owner; what is owed is said in it."""
        batch = self._gather()
        undelivered = bool(self._outbox.frames or batch.frames)
        due_at = self._due.next_at() or 0
        record = self._record(Kind.FREE, batch)
        return replace(
            record,
            owed=undelivered or self._due.owed(),
            wakes_at=0 if undelivered else due_at,
            due_at=due_at if undelivered else 0,
        ), batch

    def snapshot(self) -> Record:
        """Return all small state as of the last record; of turns that have finished since, nothing."""
        return replace(
            self._record(Kind.SNAPSHOT, Batch(), owner=self._owner),
            incarnation=self._incarnation,
            seen=self._seen_at_floor,
            counters=self._counters,
            confirmed={},
            frame_refs=list(self._outbox.refs()),
            cell_refs=list(self._overlay.refs()),
            due_buckets=self._due.buckets(),
        )

    def stored(self, record: Record) -> None:
        """Told that a record is the journal's last."""
        self._barren = record.barren
        if record.kind is Kind.SNAPSHOT:
            self.newest_snapshot = self._journal.last

    def _record(self, kind: Kind, batch: Batch, *, owner: str = "") -> Record:
        return Record(
            kind=kind,
            previous=self._journal.last,
            epoch=self._epoch,
            owner=owner,
            map_rev=self._map_rev,
            barren=0 if batch.ended else self._barren,
            snapshot=self.newest_snapshot,
            cells=batch.cells,
            frames=batch.frames,
            replies=batch.replies,
            counters={frame.target: frame.number for frame in batch.frames},
            due_added=list(batch.added.values()),
            due_removed=batch.removed,
            **self._positions(),
        )

    def _gather(self) -> Batch:
        """Take what has ended up to the size of a commit."""
        batch = Batch()
        sends: defaultdict[Target, list[bytes]] = defaultdict(list)
        dead: list[tuple[str, bytes]] = []
        turns = self._turns
        while waiting := turns.outcomes or turns.lazy:
            size_bytes = batch.size_bytes + batch.due_bytes
            if size_bytes and size_bytes + waiting[0].size_bytes > limits.MAX_COMMIT:
                break
            outcome = waiting.popleft()
            batch.size_bytes += outcome.size_bytes
            batch.outcomes.append(outcome)
            batch.ended = batch.ended or outcome.ends
            if outcome.work is not None:
                self._work_done(outcome, outcome.work, batch)
            if outcome.cells is not None:
                batch.cells.update(outcome.cells)
            if outcome.undue or outcome.unname:
                self._unset(outcome, batch)
            if outcome.due is not None:
                for due in outcome.due:
                    self._add_due(due, batch)
            for target, packed in outcome.sends:
                sends[target].append(packed)
            if outcome.reply is not None:
                batch.replies.append(outcome.reply)
            if outcome.dead is not None:
                dead.append(outcome.dead)
        batch.frames = [self._frame(target, frame_body(packed)) for target, packed in sends.items()]
        batch.frames += [self._dead_frame(message_id, body) for message_id, body in dead]
        batch.frames += self._given_up()
        return batch

    def _work_done(self, outcome: Outcome, work: Work, batch: Batch) -> None:
        """The work's place is finished, whichever it is by now; or it has a due record from here on."""
        if not work.due:
            if work.inlet is not None:  # else it came past the mailbox
                self._intakes[work.inlet].finished(work)
        elif outcome.moves_to is None:
            self._remove_due(work.due, batch)
        if outcome.moves_to is not None:
            self._add_due(outcome.moves_to, batch)
            work.due = outcome.moves_to.key

    def _unset(self, outcome: Outcome, batch: Batch) -> None:
        for key in outcome.undue or ():
            self._remove_due(key, batch)
        for message_id in outcome.unname or ():
            assert outcome.agent is not None
            for key in self._due.named(outcome.agent, DueKind.DELAYED, message_id):
                self._remove_due(key, batch)

    def _add_due(self, due: DueAdd, batch: Batch) -> None:
        row, moved = self._due.add(due.key, due.at, due.kind, name=due.name, lane=due.lane.value)
        batch.added[due.key] = row
        batch.due_bytes += row_bytes(due.key)
        if moved is not None:
            batch.removed.append(moved)
        if due.body is not None:
            batch.cells[due.key] = Cell(0, due.body)

    def _remove_due(self, key: str, batch: Batch) -> None:
        removed = self._due.remove(key)
        if removed is None:
            return
        batch.added.pop(key, None)
        batch.due_bytes += row_bytes(key)
        batch.removed.append(removed)
        batch.cells[key] = Cell(0, None)

    def _frame(self, target: Target, body: bytes, message_id: str = "") -> Frame:
        previous = self._counters.get(target, 0)
        self._counters[target] = previous + 1
        return Frame(target, previous + 1, previous, body, message_id)

    def _dead_frame(self, message_id: str, body: bytes) -> Frame:
        """A dead letter on its way. Its number makes the id its own: two producers may choose the same message id."""
        target = Target(self._settings.pool, self._incarnation, self._shard, DEAD)
        number = self._counters.get(target, 0) + 1
        return self._frame(target, body, f"{message_id}-{self._source}.{number}")

    def _given_up(self) -> list[Frame]:
        """Frames without a route become dead letters of this pool; their chain starts anew."""
        given_up, self._delivery.given_up = self._delivery.given_up, []
        return [
            self._dead_frame(*undeliverable(frame, source=self._source, now=self._settings.wall()))
            for frame in given_up
            if frame.target.lane != DEAD
        ]

    @property
    def _source(self) -> str:
        return f"{self._incarnation}.{self._shard}"

    def _positions(self) -> _Positions:
        passed: dict[Source, int] = {}
        floors = {inlet: intake.advance() for inlet, intake in self._intakes.items()}
        for intake in self._intakes.values():
            passed.update(intake.positions.passed)
            intake.positions.passed.clear()
        self._seen_at_floor.update(passed)
        confirmed, self._outbox.confirmed = self._outbox.confirmed, {}
        done = {inlet: intake.positions.done() for inlet, intake in self._intakes.items()}
        return _Positions(
            floors=floors,
            done={inlet: d for inlet, d in done.items() if d.ranges or d.partly},
            seen=passed,
            confirmed=confirmed,
        )
