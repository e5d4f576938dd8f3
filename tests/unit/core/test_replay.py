"""What a new owner reads out of the journal, whatever was purged before or while it read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.due import Due, DueChange, DueKind
from starling.core.ids import PoolName, ShardId
from starling.core.names import INLETS, Lane
from starling.core.outbox import Outbox
from starling.core.overlay import Overlay, purge_bound
from starling.core.record import (
    Cell,
    CellRef,
    Done,
    Frame,
    FrameRef,
    Kind,
    Record,
    ReplyRecord,
    Source,
    Target,
    born,
)
from starling.core.replay import Replay
from starling.errors import JournalLost

INC = "inc12345"
INLET = INLETS[0]
SOURCE = Source("other.3", Lane.NORMAL)
TARGETS = tuple(Target(PoolName("p"), INC, ShardId(n), "n") for n in range(2))


def record(kind: Kind, previous: int, **more: Any) -> Record:
    return Record(kind=kind, previous=previous, epoch=1, owner="p-0/s", **more)


def frame(number: int, target: Target = TARGETS[0]) -> Frame:
    return Frame(target, number, number - 1, b"x")


def replayed(*records: tuple[int, Record]) -> Replay:
    fold = Replay()
    for sequence, one in records:
        fold.apply(sequence, one)
    return fold


def test_the_fold_of_all_records_is_the_shard() -> None:
    fold = replayed(
        (1, born(INC)),
        (2, record(Kind.TAKE, 1, map_rev=7, barren=1)),
        (
            3,
            record(
                Kind.COMMIT,
                2,
                map_rev=7,
                floors={INLET: 4},
                done={INLET: Done(((6, 6),))},
                seen={SOURCE: 2},
                counters={TARGETS[0]: 2},
                frames=[frame(1), frame(2)],
                cells={"a": Cell(1, b"1"), "b": Cell(1, b"1")},
                replies=[ReplyRecord("r", b"x")],
            ),
        ),
        (
            4,
            record(
                Kind.COMMIT,
                3,
                map_rev=7,
                floors={INLET: 6},
                seen={SOURCE: 3},
                confirmed={TARGETS[0]: 1},
                cells={"a": Cell(1, b"2"), "c": Cell(1, None)},
            ),
        ),
    )
    fold.check(INC)
    assert (fold.last, fold.records, fold.epoch, fold.owner, fold.map_rev, fold.barren) == (4, 4, 1, "p-0/s", 7, 0)
    assert (fold.floors, fold.done, fold.seen, fold.counters) == ({INLET: 6}, {}, {SOURCE: 3}, {TARGETS[0]: 2})
    assert fold.frames == {FrameRef(3, 1): frame(2)}
    assert fold.overlay == {"a": (4, Cell(1, b"2")), "b": (3, Cell(1, b"1")), "c": (4, Cell(1, None))}
    assert fold.replies == ()


def test_replies_of_the_last_commit_are_known_over_takes_and_snapshots() -> None:
    fold = replayed(
        (1, born(INC)),
        (2, record(Kind.COMMIT, 1, replies=[ReplyRecord("r", b"x")])),
        (3, record(Kind.SNAPSHOT, 2, incarnation=INC)),
        (4, record(Kind.TAKE, 3)),
    )
    assert fold.replies == (ReplyRecord("r", b"x"),)


def test_a_take_says_nothing_of_floors_and_done() -> None:
    done = {INLET: Done(((6, 6),))}
    fold = replayed(
        (1, born(INC)), (2, record(Kind.COMMIT, 1, floors={INLET: 4}, done=done)), (3, record(Kind.TAKE, 2))
    )
    assert (fold.floors, fold.done) == ({INLET: 4}, done)


def test_a_release_counts_like_a_commit() -> None:
    fold = replayed(
        (1, born(INC)),
        (2, Record(kind=Kind.FREE, previous=1, epoch=1, floors={INLET: 4}, cells={"a": Cell(1, b"1")})),
    )
    assert (fold.owner, fold.floors, fold.overlay) == ("", {INLET: 4}, {"a": (2, Cell(1, b"1"))})


def test_a_gap_voids_all_that_was_read_before_it() -> None:
    """Somebody purged meanwhile: the overlay that was read may be older than the table."""
    fold = replayed(
        (1, born(INC)),
        (2, record(Kind.COMMIT, 1, cells={"a": Cell(1, b"old")}, frames=[frame(1)], seen={SOURCE: 1})),
        (9, record(Kind.SNAPSHOT, 8, incarnation=INC, floors={INLET: 8})),
    )
    fold.check(INC)
    assert (fold.overlay, fold.frames, fold.seen, fold.floors) == ({}, {}, {}, {INLET: 8})
    assert fold.records == 1


def test_without_record_0_and_without_a_snapshot_the_shard_is_not_known() -> None:
    fold = replayed((8, record(Kind.COMMIT, 7, floors={INLET: 8})), (9, record(Kind.TAKE, 8)))
    with pytest.raises(JournalLost, match="neither its first record nor a snapshot after its last gap"):
        fold.check(INC)


def test_a_snapshot_before_a_gap_does_not_count() -> None:
    fold = replayed((8, record(Kind.SNAPSHOT, 7, incarnation=INC)), (11, record(Kind.TAKE, 10)))
    with pytest.raises(JournalLost, match="after its last gap"):
        fold.check(INC)


def test_a_journal_of_another_incarnation_is_refused() -> None:
    with pytest.raises(JournalLost, match=r"of incarnation 'inc12345', the pool of 'new'"):
        replayed((1, born(INC))).check("new")


def test_a_snapshot_keeps_of_what_was_read_only_what_it_refers_to() -> None:
    fold = replayed(
        (1, born(INC)),
        (2, record(Kind.COMMIT, 1, frames=[frame(1)], cells={"a": Cell(1, b"1"), "b": Cell(1, b"1")})),
        (3, record(Kind.COMMIT, 2, frames=[frame(2), frame(3)], cells={"a": Cell(1, b"2")})),
        (
            4,
            record(
                Kind.SNAPSHOT,
                3,
                incarnation=INC,
                frame_refs=[FrameRef(3, 0), FrameRef(3, 1)],
                cell_refs=[CellRef(3, "a")],
            ),
        ),
    )
    assert fold.snapshot == 4
    assert list(fold.frames.values()) == [frame(2), frame(3)]
    assert fold.overlay == {"a": (3, Cell(1, b"2"))}


def test_what_a_snapshot_refers_to_and_is_purged_was_confirmed_or_is_in_the_table() -> None:
    """A purge takes only what is acknowledged, so a reference into the purged part is settled."""
    fold = replayed(
        (3, record(Kind.COMMIT, 2, frames=[frame(2)], cells={"b": Cell(1, b"1")})),
        (
            4,
            record(
                Kind.SNAPSHOT,
                3,
                incarnation=INC,
                frame_refs=[FrameRef(2, 0), FrameRef(3, 0)],
                cell_refs=[CellRef(2, "a"), CellRef(3, "b")],
            ),
        ),
    )
    fold.check(INC)
    assert (list(fold.frames), list(fold.overlay)) == ([FrameRef(3, 0)], ["b"])


@pytest.mark.parametrize(
    "refs",
    [
        {"frame_refs": [FrameRef(2, 5)]},
        {"cell_refs": [CellRef(2, "b")]},
        {"cell_refs": [CellRef(3, "a")]},
    ],
    ids=["frame", "cell", "version"],
)
def test_a_snapshot_that_refers_to_what_should_be_there_and_is_not_is_an_alarm(refs: dict[str, Any]) -> None:
    fold = replayed(
        (1, born(INC)),
        (2, record(Kind.COMMIT, 1, frames=[frame(1)], cells={"a": Cell(1, b"1")})),
        (3, record(Kind.COMMIT, 2)),
    )
    with pytest.raises(JournalLost, match="the snapshot at 4 refers to"):
        fold.apply(4, record(Kind.SNAPSHOT, 3, incarnation=INC, **refs))


def test_changes_of_due_records_and_the_buckets_that_may_be_live_are_known() -> None:
    first, second = (Due(f"k{n}", n, DueKind.RETRY, str(n)) for n in (1, 2))
    fold = replayed(
        (1, born(INC)),
        (2, record(Kind.COMMIT, 1, due_added=[first])),
        (3, record(Kind.SNAPSHOT, 2, incarnation=INC, due_buckets=["1"])),
        (4, record(Kind.COMMIT, 3, due_added=[second], due_removed=[("old", "0")])),
    )
    assert fold.due_changes == [DueChange(2, [first], ()), DueChange(4, [second], [("old", "0")])]
    assert fold.due_buckets == {"0", "1", "2"}


def test_a_gap_voids_changes_of_due_records_too() -> None:
    fold = replayed(
        (1, born(INC)),
        (2, record(Kind.COMMIT, 1, due_added=[Due("k", 1, DueKind.RETRY, "7")])),
        (9, record(Kind.SNAPSHOT, 8, incarnation=INC, due_buckets=["8"])),
    )
    assert (fold.due_changes, fold.due_buckets) == ([], {"8"})


# -- an owner, its table and its targets, over any history


@dataclass
class Shard:
    """An owner that commits, confirms, writes behind, snapshots and purges by the rules, and its journal."""

    journal: dict[int, Record] = field(default_factory=lambda: {1: born(INC)})
    last: int = 1
    overlay: Overlay = field(default_factory=Overlay)
    outbox: Outbox = field(default_factory=Outbox)
    table: dict[str, int] = field(default_factory=dict)
    newest: dict[str, tuple[int, Cell]] = field(default_factory=dict)
    counters: dict[Target, int] = field(default_factory=dict)
    floor: int = 0
    snapshot: int = 0
    table_sequence: int = 0

    def append(self, kind: Kind, **more: Any) -> int:
        sequence = self.last + 1
        self.journal[sequence] = record(kind, self.last, snapshot=self.snapshot, **more)
        self.last = sequence
        return sequence

    def commit(self, keys: set[int], targets: list[int]) -> None:
        frames = []
        for target in (TARGETS[n] for n in targets):
            number = self.counters[target] = self.counters.get(target, 0) + 1
            frames.append(frame(number, target))
        cells = {f"c{key}": Cell(1, b"%d" % (self.last + 1)) for key in sorted(keys)}
        confirmed, self.outbox.confirmed = self.outbox.confirmed, {}
        self.floor += 1
        sequence = self.append(
            Kind.COMMIT,
            cells=cells,
            frames=frames,
            counters={one.target: one.number for one in frames},
            confirmed=confirmed,
            floors={INLET: self.floor},
        )
        for slot, one in enumerate(frames):
            self.outbox.add(one, FrameRef(sequence, slot))
        for key, cell in cells.items():
            self.overlay.commit(key, sequence, cell, 0.0)
            self.newest[key] = (sequence, cell)

    def confirm(self, target: Target) -> None:
        chain = self.outbox.chains.get(target)
        if chain is not None and (sending := chain.to_send()) is not None:
            chain.sent()
            self.outbox.stored(chain, chain.attempt, sending.frame.number, sending.frame.number)

    def write(self, key: str) -> None:
        entry = self.overlay.entries.get(key)
        if entry is not None:
            self.table_sequence += 1
            self.table[key] = entry.journal
            self.overlay.acknowledged(key, entry.journal, self.table_sequence)

    def store_snapshot(self) -> None:
        self.outbox.confirmed = {}
        self.snapshot = self.append(
            Kind.SNAPSHOT,
            incarnation=INC,
            floors={INLET: self.floor},
            counters=dict(self.counters),
            frame_refs=list(self.outbox.refs()),
            cell_refs=list(self.overlay.refs()),
        )

    def purge(self) -> None:
        bound = purge_bound(
            own_last=self.last,
            snapshot=self.snapshot,
            needed=(self.overlay.oldest(), self.outbox.oldest_record()),
        )
        self.journal = {sequence: one for sequence, one in self.journal.items() if sequence >= bound}

    def check(self, fold: Replay) -> None:
        """Whoever takes now knows everything that is not in the table or the targets' mailboxes."""
        fold.check(INC)
        assert fold.floors.get(INLET, 0) == self.floor
        assert fold.counters == self.counters
        for key, (version, cell) in self.newest.items():
            found = fold.overlay.get(key)
            assert found in ((version, cell), None)
            assert found is not None or self.table[key] == version
        for target, chain in self.outbox.chains.items():
            left = [sending.frame for sending in chain.frames]
            known = [one for one in fold.frames.values() if one.target == target]
            assert known[len(known) - len(left) :] == left
            last = self.counters[target]
            assert [one.number for one in known] == list(range(last - len(known) + 1, last + 1))


KEYS = st.sets(st.integers(0, 3), max_size=3)
SENDS = st.lists(st.integers(0, 1), max_size=2)
STEPS = st.one_of(
    st.tuples(st.just("commit"), st.tuples(KEYS, SENDS)),
    st.tuples(st.just("confirm"), st.integers(0, 1)),
    st.tuples(st.just("write"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["snapshot", "purge", "take"]), st.none()),
)


def do(shard: Shard, what: str, value: Any) -> None:
    match what:
        case "commit":
            shard.commit(*value)
        case "confirm":
            shard.confirm(TARGETS[value])
        case "write":
            shard.write(f"c{value}")
        case "snapshot":
            shard.store_snapshot()
        case "purge":
            shard.purge()
        case _:
            shard.append(Kind.TAKE)


@given(st.lists(STEPS, max_size=40))
def test_whatever_was_purged_a_new_owner_knows_all_that_is_nowhere_else(steps: list[tuple[str, Any]]) -> None:
    shard = Shard()
    for what, value in steps:
        do(shard, what, value)
        shard.check(replayed(*sorted(shard.journal.items())))


@given(st.lists(STEPS, max_size=30), st.integers(0, 30), st.lists(STEPS, max_size=15))
def test_a_purge_while_a_new_owner_reads_costs_it_nothing(
    before: list[tuple[str, Any]], read: int, meanwhile: list[tuple[str, Any]]
) -> None:
    """It has read some records when the old owner, not fenced yet, goes on, and purges."""
    shard = Shard()
    for what, value in before:
        do(shard, what, value)
    fold = replayed(*sorted(shard.journal.items())[:read])
    for what, value in meanwhile:
        do(shard, what, value)
    for sequence, one in sorted(shard.journal.items()):
        if sequence > fold.last:
            fold.apply(sequence, one)
    shard.check(fold)
