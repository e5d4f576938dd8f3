"""A snapshot's references to records that were purged since: they were confirmed, in the table, or superseded."""

from __future__ import annotations

from starling.core.ids import PoolName, ShardId
from starling.core.record import Cell, CellRef, Frame, FrameRef, Kind, Record, Target
from starling.core.replay import Replay

TARGET = Target(PoolName("airports"), "i", ShardId(0), "n")


def snapshot(previous: int) -> Record:
    return Record(
        kind=Kind.SNAPSHOT,
        previous=previous,
        epoch=1,
        incarnation="i",
        frame_refs=[FrameRef(2, 0), FrameRef(3, 0)],
        cell_refs=[CellRef(2, "a"), CellRef(3, "b")],
    )


def commit(previous: int, key: str, data: bytes, number: int) -> Record:
    return Record(
        kind=Kind.COMMIT,
        previous=previous,
        epoch=1,
        cells={key: Cell(1, data)},
        frames=[Frame(TARGET, number, number - 1, b"")],
    )


def test_references_into_the_journal_bring_cells_and_frames_back() -> None:
    fold = Replay()
    for sequence, record in enumerate(
        [Record(kind=Kind.BORN, previous=0, epoch=0), commit(1, "a", b"1", 1), commit(2, "b", b"2", 2), snapshot(3)], 1
    ):
        fold.apply(sequence, record)
    assert fold.overlay == {"a": (2, Cell(1, b"1")), "b": (3, Cell(1, b"2"))}
    assert [frame.number for frame in fold.frames.values()] == [1, 2]


def test_references_to_purged_records_are_left_out() -> None:
    fold = Replay()
    fold.apply(3, commit(2, "b", b"2", 2))
    fold.apply(4, snapshot(3))
    fold.check("i")
    assert fold.overlay == {"b": (3, Cell(1, b"2"))}
    assert list(fold.frames) == [FrameRef(3, 0)]


def test_a_version_that_superseded_a_purged_one_counts() -> None:
    fold = Replay()
    fold.apply(4, snapshot(3))
    fold.apply(5, commit(4, "a", b"new", 3))
    assert fold.overlay == {"a": (5, Cell(1, b"new"))}
