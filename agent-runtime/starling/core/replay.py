"""What a new owner knows after it has read the journal: the fold of its records.

A record whose `previous` is not the record read before it is a gap: somebody purged meanwhile, so everything
read until then is void. Small state is known only from record 0, or from a snapshot after the last gap.
What a snapshot refers to in a part that was purged since is settled: only acknowledged facts let a record go.
"""

from __future__ import annotations

from starling.core.due import DueChange
from starling.core.names import Inlet
from starling.core.record import Cell, Done, Frame, FrameRef, Kind, Record, ReplyRecord, Source, Target
from starling.errors import JournalLost


class Replay:
    """The shard as of the last record given to `apply`."""

    def __init__(self) -> None:
        self.last = 0
        """Sequence of the last record."""
        self.epoch = 0
        self.barren = 0
        self.owner = ""
        self.time = 0.0
        """When the last record was stored, seconds since 1970 by the store's clock."""
        self.map_rev = 0
        self._forget()

    def _forget(self) -> None:
        self._first = 0
        """Sequence of the first record after the last gap: what lies before it was purged."""
        self.known = False
        self.incarnation = ""
        self.snapshot = 0
        self.records = 0
        self.floors: dict[Inlet, int] = {}
        self.done: dict[Inlet, Done] = {}
        self.seen: dict[Source, int] = {}
        self.counters: dict[Target, int] = {}
        self.frames: dict[FrameRef, Frame] = {}
        self.overlay: dict[str, tuple[int, Cell]] = {}
        """Cell key to journal sequence and value, for cells that the table may not have yet."""
        self.replies: tuple[ReplyRecord, ...] = ()
        self.due_changes: list[DueChange] = []
        """What the records that are there change in the buckets of due records."""
        self.due_buckets: set[str] = set()
        """Every bucket that may have a live record."""

    def apply(self, sequence: int, record: Record) -> None:
        """Add the next record of the journal. Raises JournalLost when what a snapshot refers to is not there."""
        if record.previous != self.last:
            self._forget()
        self._first = self._first or sequence
        self.last = sequence
        self.records += 1
        if record.kind is Kind.BORN:
            self.known = True
            self.incarnation = record.incarnation
        self.epoch, self.barren = record.epoch, record.barren
        self.owner, self.map_rev = record.owner, record.map_rev
        if record.kind is Kind.SNAPSHOT:
            self._snapshot(sequence, record)
        else:
            self.seen.update(record.seen)
            self.counters.update(record.counters)
            if record.kind is not Kind.TAKE:
                self.floors.update(record.floors)
                self.done = dict(record.done)
        for index, frame in enumerate(record.frames):
            self.frames[FrameRef(sequence, index)] = frame
        if record.confirmed:
            confirmed = record.confirmed
            self.frames = {
                ref: frame for ref, frame in self.frames.items() if frame.number > confirmed.get(frame.target, 0)
            }
        for key, cell in record.cells.items():
            self.overlay[key] = (sequence, cell)
        if record.due_added or record.due_removed:
            self.due_changes.append(DueChange(sequence, record.due_added, record.due_removed))
            self.due_buckets.update(due.bucket for due in record.due_added)
            self.due_buckets.update(bucket for _, bucket in record.due_removed)
        if record.kind in (Kind.COMMIT, Kind.FREE):
            self.replies = tuple(record.replies)

    def _snapshot(self, sequence: int, record: Record) -> None:
        self.known = True
        self.snapshot = sequence
        self.incarnation = record.incarnation
        self.floors, self.done = dict(record.floors), dict(record.done)
        self.seen, self.counters = dict(record.seen), dict(record.counters)
        self.due_buckets = set(record.due_buckets)
        try:
            self.frames = {ref: self.frames[ref] for ref in record.frame_refs if ref.sequence >= self._first}
            self.overlay = {
                ref.key: self._version(ref.sequence, ref.key) for ref in record.cell_refs if ref.sequence >= self._first
            }
        except KeyError as error:
            raise JournalLost(
                f"the snapshot at {sequence} refers to {error}, which the journal no longer has"
            ) from None

    def _version(self, sequence: int, key: str) -> tuple[int, Cell]:
        found = self.overlay[key]
        if found[0] != sequence:
            raise KeyError(key, sequence)
        return found

    def check(self, incarnation: str) -> None:
        """Raise JournalLost unless the shard's state is known and is of this incarnation of the pool."""
        if not self.known:
            raise JournalLost("the journal has neither its first record nor a snapshot after its last gap")
        if self.incarnation != incarnation:
            raise JournalLost(f"the journal is of incarnation {self.incarnation!r}, the pool of {incarnation!r}")
