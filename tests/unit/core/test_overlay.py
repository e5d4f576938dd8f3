"""The overlay: cells on their way to the table leave it only by acknowledged facts."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core import limits
from starling.core.overlay import MISSING, Overlay, TableValue, purge_bound
from starling.core.record import Cell, CellRef
from starling.errors import DecodeError, Fenced

ONE, TWO = Cell(1, b"one"), Cell(1, b"two")


def overlay(**cells: int) -> Overlay:
    made = Overlay()
    for key, journal in cells.items():
        made.commit(key, journal, ONE, 0.0)
    return made


@given(st.builds(TableValue, st.integers(0, 2**53), st.integers(0, 99), st.none() | st.binary(max_size=9)))
def test_a_table_value_reads_back_equal(value: TableValue) -> None:
    assert TableValue.decode(value.encode()) == value


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", msgpack.packb([1, 2, 3])], ids=repr)
def test_bytes_that_are_no_table_value_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^table value: "):
        TableValue.decode(data)


def test_a_newer_table_value_is_refused_with_what_to_do() -> None:
    with pytest.raises(DecodeError, match="is newer than 1; upgrade this worker"):
        TableValue.decode(msgpack.packb((limits.WIRE_VERSION + 1, 1, 1, b"")))


def test_a_cell_leaves_when_its_newest_version_was_acknowledged() -> None:
    made = overlay(a=5)
    made.acknowledged("a", 5, 40)
    assert made.entries == {}
    assert made.known["a"] == 40
    assert made.reached == 40


def test_the_answer_for_an_older_version_does_not_let_the_newer_one_go() -> None:
    made = overlay(a=5)
    made.entries["a"].awaited = True
    made.commit("a", 6, TWO, 1.0)
    made.acknowledged("a", 5, 40)
    entry = made.entries["a"]
    assert (entry.journal, entry.cell, entry.awaited) == (6, TWO, False)
    assert made.known["a"] == 40


def test_an_answer_that_comes_after_the_cell_was_found_in_the_table_is_only_remembered() -> None:
    made = overlay(a=5)
    made.found("a", 40, TableValue(5, 1, b"one"))
    made.acknowledged("a", 5, 40)
    assert (made.entries, made.known["a"]) == ({}, 40)


def test_a_write_without_an_answer_stays_and_is_compared_before_it_is_repeated() -> None:
    made = overlay(a=5)
    made.known["a"] = 3
    made.entries["a"].awaited = True
    made.unanswered("a", forget=True)
    assert "a" not in made.known
    assert not made.entries["a"].awaited
    made.unanswered("gone", forget=False)


def test_an_equal_version_found_in_the_table_counts_as_a_write_of_our_own() -> None:
    """Else the next read could come from a replica behind it."""
    made = overlay(a=5)
    made.marked(10)
    made.found("a", 44, TableValue(5, 1, b"one"))
    assert made.entries == {}
    assert made.reached == 44


@pytest.mark.parametrize("value", [None, TableValue(4, 1, b"old")], ids=["missing", "smaller"])
def test_a_cell_that_the_table_lacks_or_has_older_stays(value: TableValue | None) -> None:
    made = overlay(a=5)
    made.found("a", 30 if value else MISSING, value)
    assert made.entries["a"].journal == 5
    assert made.known["a"] == (30 if value else MISSING)
    assert made.reached == 0


def test_a_larger_version_in_the_table_fences() -> None:
    with pytest.raises(Fenced, match="has version 6 of a, we have 5"):
        overlay(a=5).found("a", 44, TableValue(6, 1, b"x"))


def test_a_version_beyond_our_newest_record_fences_whatever_cell_it_is_of() -> None:
    made = overlay(a=5)
    made.newest = 8
    made.found("b", 44, TableValue(8, 1, b"x"))
    with pytest.raises(Fenced, match="has version 9 of b, we have 8"):
        made.found("b", 45, TableValue(9, 1, b"x"))


def test_what_is_found_of_a_cell_that_is_not_on_its_way_is_remembered() -> None:
    made = overlay()
    made.found("a", 7, TableValue(2, 1, None))
    assert made.known == {"a": 7}


def test_the_mark_and_own_writes_only_raise_what_a_replica_must_have_reached() -> None:
    made = overlay(a=5)
    made.acknowledged("a", 5, 40)
    made.marked(30)
    assert (made.mark, made.reached) == (30, 40)
    made.marked(50)
    assert (made.mark, made.reached) == (50, 50)


def test_a_cell_is_due_when_it_is_quiet_or_has_waited_long_and_no_answer_is_awaited() -> None:
    made = overlay(quiet=1, hot=2, awaited=3)
    made.entries["awaited"].awaited = True
    made.commit("hot", 4, TWO, 4.0)
    assert [key for key, _ in made.due(4.5, quiet=1.0, patience=5.0)] == ["quiet"]
    assert [key for key, _ in made.due(5.0, quiet=1.0, patience=5.0)] == ["quiet", "hot"]


def test_a_hot_cell_waits_its_patience_again_after_each_write() -> None:
    made = overlay(hot=1)
    made.commit("hot", 2, TWO, 4.9)
    made.acknowledged("hot", 1, 10)
    assert list(made.due(5.2, quiet=1.0, patience=5.0)) == []


def test_a_cell_that_never_comes_back_and_that_the_table_never_heard_of_is_forgotten() -> None:
    made = overlay(a=5)
    made.drop("a", 6, 1.0)
    made.drop("never-there", 7, 1.0)
    assert made.entries == {}


@pytest.mark.parametrize("state", ["awaited", "known", "written"])
def test_a_cell_that_never_comes_back_leaves_a_tombstone_where_the_table_may_have_it(state: str) -> None:
    made = overlay(a=5)
    if state == "awaited":
        made.entries["a"].awaited = True
    elif state == "known":
        made.known["a"] = 3
    else:
        made.acknowledged("a", 5, 40)
    made.drop("a", 6, 1.0)
    assert (made.entries["a"].journal, made.entries["a"].cell) == (6, Cell(0, None))


def test_the_oldest_version_is_that_of_the_cell_committed_longest_ago() -> None:
    made = overlay(a=1, b=2, c=3)
    assert made.oldest() == 1
    made.commit("a", 4, TWO, 0.0)
    assert made.oldest() == 2
    assert list(made.refs()) == [CellRef(2, "b"), CellRef(3, "c"), CellRef(4, "a")]
    assert overlay().oldest() is None


@pytest.mark.parametrize(
    ("own_last", "snapshot", "cell", "frame", "bound"),
    [
        (90, 0, None, None, 0),
        (90, 80, None, None, 80),
        (90, 90, None, None, 90),
        (90, 80, 70, None, 70),
        (90, 80, None, 60, 60),
        (90, 80, 60, 70, 60),
        (90, 80, 85, 86, 80),
        (70, 80, None, None, 70),
    ],
    ids=["no-snapshot", "snapshot", "own-last", "cell", "frame", "older-of-both", "snapshot-first", "never-own-last"],
)
def test_no_record_goes_that_something_needs(
    own_last: int, snapshot: int, cell: int | None, frame: int | None, bound: int
) -> None:
    assert purge_bound(own_last=own_last, snapshot=snapshot, needed=(cell, frame)) == bound


def test_what_is_known_of_cells_in_the_table_is_bounded_and_cells_on_their_way_stay_known() -> None:
    overlay = Overlay()
    count = limits.KNOWN_CELLS + 10
    for number in range(count):
        overlay.commit(f"{number}", number + 1, Cell(1, b""), 0.0)
        if number:
            overlay.acknowledged(f"{number}", number + 1, number + 1)
        else:
            overlay.found("0", 1, None)
    overlay.forget()
    assert len(overlay.known) <= limits.KNOWN_CELLS
    assert "0" in overlay.known
    assert f"{count - 1}" in overlay.known
