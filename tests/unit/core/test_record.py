"""Journal records on the wire: equal after a round trip, refused by name when they are newer or no records."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.due import Due, DueKind
from starling.core.ids import PoolName, ShardId
from starling.core.names import INLETS, Lane
from starling.core.record import (
    DEAD,
    RECORD_VERSION,
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
from starling.errors import DecodeError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(0, 2**53)
SMALL = st.integers(0, 1000)
BYTES = st.binary(max_size=16)
LANES = [*(lane.value for lane in Lane), DEAD]
TARGETS = st.builds(Target, TEXT.map(PoolName), TEXT, st.integers(0, 1023).map(ShardId), st.sampled_from(LANES))
SOURCES = st.builds(Source, TEXT, st.sampled_from(Lane))
DONE = st.builds(
    Done,
    ranges=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3).map(tuple),
    partly=st.dictionaries(NUMBERS, st.lists(SMALL, max_size=3).map(tuple), max_size=3),
)
DUES = st.builds(Due, TEXT, NUMBERS, st.sampled_from(DueKind), TEXT, TEXT, st.sampled_from([*map(str, Lane)]))
RECORDS = st.builds(
    Record,
    kind=st.sampled_from(Kind),
    previous=NUMBERS,
    epoch=NUMBERS,
    owner=TEXT,
    map_rev=SMALL,
    barren=SMALL,
    snapshot=NUMBERS,
    incarnation=TEXT,
    floors=st.dictionaries(st.sampled_from(INLETS), NUMBERS),
    done=st.dictionaries(st.sampled_from(INLETS), DONE),
    seen=st.dictionaries(SOURCES, NUMBERS, max_size=3),
    counters=st.dictionaries(TARGETS, NUMBERS, max_size=3),
    frames=st.lists(st.builds(Frame, TARGETS, NUMBERS, NUMBERS, BYTES, TEXT), max_size=3).map(tuple),
    confirmed=st.dictionaries(TARGETS, NUMBERS, max_size=3),
    cells=st.dictionaries(TEXT, st.builds(Cell, SMALL, st.none() | BYTES), max_size=3),
    replies=st.lists(st.builds(ReplyRecord, TEXT, BYTES), max_size=3).map(tuple),
    frame_refs=st.lists(st.builds(FrameRef, NUMBERS, SMALL), max_size=3).map(tuple),
    cell_refs=st.lists(st.builds(CellRef, NUMBERS, TEXT), max_size=3).map(tuple),
    due_added=st.lists(DUES, max_size=3).map(tuple),
    due_removed=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
    due_buckets=st.lists(TEXT, max_size=3).map(tuple),
    owed=st.booleans(),
)


@given(RECORDS)
def test_a_record_reads_back_equal(record: Record) -> None:
    assert Record.decode(record.encode()) == record


@given(RECORDS)
def test_keys_that_a_later_version_may_add_are_ignored(record: Record) -> None:
    value = msgpack.unpackb(record.encode(), strict_map_key=False, use_list=False)
    assert Record.decode(msgpack.packb({**value, "later": [1, 2]})) == record


def test_record_0_says_only_that_the_shard_exists() -> None:
    record = born("inc12345")
    assert (record.kind, record.previous, record.epoch, record.owner) == (Kind.BORN, 0, 0, "")
    assert set(msgpack.unpackb(record.encode())) == {"v", "pv", "k", "e", "in"}


def test_a_newer_record_is_refused_with_what_to_do() -> None:
    value = msgpack.unpackb(born("i").encode())
    newer = msgpack.packb({**value, "v": RECORD_VERSION + 1})
    with pytest.raises(DecodeError, match=rf"version {RECORD_VERSION + 1} is newer than {RECORD_VERSION}; upgrade"):
        Record.decode(newer)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x80", msgpack.packb([1])], ids=repr)
def test_bytes_that_are_no_record_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^journal record: "):
        Record.decode(data)


@pytest.mark.parametrize(
    "changed",
    [{"k": "later"}, {"pv": ...}, {"e": ...}, {"f": {"x.y": 1}}, {"d": {"o.n": 1}}, {"s": [(1,)]}, {"x": [(1,)]}],
    ids=str,
)
def test_a_record_with_a_wrong_part_is_a_decode_error(changed: dict[str, object]) -> None:
    value = {**msgpack.unpackb(born("i").encode()), **changed}
    with pytest.raises(DecodeError, match=r"^journal record: "):
        Record.decode(msgpack.packb({key: part for key, part in value.items() if part is not ...}))


def test_a_snapshot_of_one_target_stays_apart_from_another_incarnation_of_it() -> None:
    old, new = (Target(PoolName("p"), incarnation, ShardId(1), "n") for incarnation in ("old", "new"))
    record = replace(born("i"), kind=Kind.SNAPSHOT, counters={old: 57, new: 1})
    assert Record.decode(record.encode()).counters == {old: 57, new: 1}
