"""Shard map and members as JSON values."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.ids import Epoch, PodName, ShardId
from starling.core.membership import Member, ShardMap
from starling.errors import DecodeError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PODS = TEXT.map(PodName)
SHARDS = st.integers(0, 1023).map(ShardId)
MAPS = st.builds(
    ShardMap,
    rev=st.integers(0, 2**53),
    shards=st.dictionaries(SHARDS, PODS, max_size=5),
    draining=st.lists(PODS, max_size=3).map(tuple),
)
MEMBERS = st.builds(
    Member,
    pod=PODS,
    start=TEXT,
    incarnation=TEXT,
    version=TEXT,
    ready=st.booleans(),
    draining=st.booleans(),
    shards=st.dictionaries(SHARDS, st.integers(0, 2**53).map(Epoch), max_size=5),
    metrics=TEXT,
    map_rev=st.integers(0, 2**53),
    parked=st.integers(1, 9),
    parked_agent=TEXT,
)


@given(MAPS)
def test_a_map_reads_back_equal(value: ShardMap) -> None:
    assert ShardMap.decode(value.encode()) == value


@given(MEMBERS)
def test_a_member_reads_back_equal(value: Member) -> None:
    assert Member.decode(value.encode()) == value


def test_a_map_is_written_in_the_agreed_form() -> None:
    value = ShardMap(3, {ShardId(10): PodName("b"), ShardId(2): PodName("a")}, (PodName("c"),))
    assert value.encode() == b'{"rev": 3, "shards": {"2": "a", "10": "b"}, "draining": ["c"]}'
    assert ShardMap.decode(b'{"rev": 3, "shards": {}}').draining == ()


def test_a_member_is_written_in_the_agreed_form() -> None:
    value = Member(PodName("p-0"), "s", "i", "v", True, False, {ShardId(1): Epoch(4)}, "127.0.0.1:8080", 7)
    assert json.loads(value.encode()) == {
        "pod": "p-0",
        "start": "s",
        "incarnation": "i",
        "version": "v",
        "ready": True,
        "draining": False,
        "shards": {"1": 4},
        "metrics": "127.0.0.1:8080",
        "mapRev": 7,
    }
    parked = Member(PodName("p-0"), "s", "i", "v", True, False, {}, parked=2, parked_agent="till/1")
    assert json.loads(parked.encode())["parked"] == {"count": 2, "agent": "till/1"}


def test_a_member_of_an_older_version_has_no_metrics_and_no_map() -> None:
    value = json.loads(Member(PodName("p"), "s", "i", "v", True, False, {}).encode())
    del value["metrics"], value["mapRev"]
    member = Member.decode(json.dumps(value).encode())
    assert (member.metrics, member.map_rev) == ("", 0)


BAD = [b"", b"{", b"[]", b"{}", b'{"rev": "x", "shards": {}}', b'{"rev": 1, "shards": {"x": "p"}}', b'{"rev": 1}']


@pytest.mark.parametrize("data", [*BAD, b'{"rev": 1, "shards": []}'], ids=repr)
def test_what_is_no_map_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^shard map: "):
        ShardMap.decode(data)


@pytest.mark.parametrize("data", [*BAD, b'{"pod": "p"}'], ids=repr)
def test_what_is_no_member_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^member: "):
        Member.decode(data)
