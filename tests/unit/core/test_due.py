"""Due records: found by key alone, bucketed by the hour, and whole again after any crash."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starling.core import due as due_module
from starling.core.due import (
    Due,
    DueBody,
    DueChange,
    DueIndex,
    DueKind,
    Place,
    agent_of,
    bucket_key,
    due_key,
    is_transient,
    pack_rows,
    piece_key,
    place_of,
    reply_key,
    step_key,
    timer_key,
    unpack_rows,
)
from starling.core.ids import AgentId, ShardId
from starling.core.names import cell_key, mark_key
from starling.errors import DecodeError

SHARD = ShardId(3)
AGENT = AgentId("air.port", "E.W/R")
HOUR = 3_600_000
KEY = due_key(SHARD, AGENT, Place(17, 2))


def one(key: str = KEY, kind: DueKind = DueKind.RETRY, name: str = "") -> Due:
    return Due(key, 5, kind, "0", name)


@pytest.mark.parametrize(
    ("key", "made"),
    [
        (KEY, "3.d.air=2Eport.E=2EW=2FR.17-2"),
        (piece_key(SHARD, AGENT, "m.1", 4), "3.p.air=2Eport.E=2EW=2FR.m=2E1.000004"),
        (timer_key(SHARD, AGENT, "daily", "m-1"), "3.t.air=2Eport.E=2EW=2FR.daily.m-1"),
        (step_key(SHARD, AGENT, "m", "pay"), "3.s.air=2Eport.E=2EW=2FR.m.pay"),
        (reply_key(SHARD, "c.1"), "3.r.c=2E1"),
        (bucket_key(SHARD, "12-1"), "3.h.12-1"),
    ],
)
def test_keys_are_those_that_were_agreed(key: str, made: str) -> None:
    assert key == made


@pytest.mark.parametrize(
    ("key", "transient"),
    [
        *((key, True) for key in (KEY, reply_key(SHARD, "c"), step_key(SHARD, AGENT, "m", "s"))),
        *((key, True) for key in (piece_key(SHARD, AGENT, "m", 1), timer_key(SHARD, AGENT, "t", "u"))),
        *((key, False) for key in (cell_key(SHARD, AGENT, "state"), mark_key(SHARD), bucket_key(SHARD, "0"))),
    ],
)
def test_keys_that_never_come_back_are_known(key: str, transient: bool) -> None:
    assert is_transient(key) is transient


def test_agent_and_place_are_read_from_the_key() -> None:
    assert agent_of(one()) == AGENT
    assert place_of(one()) == Place(17, 2)
    timer = one(timer_key(SHARD, AGENT, "daily", "a-1"), DueKind.TIMER)
    assert agent_of(timer) == AGENT
    assert place_of(timer) == Place(0, 0)
    with pytest.raises(DecodeError, match="names no agent"):
        agent_of(one(reply_key(SHARD, "c"), DueKind.REPLY))


@given(
    st.builds(
        DueBody,
        envelope=st.binary(max_size=8),
        attempt=st.integers(0, 9),
        every=st.floats(0, 1e9),
        cron=st.text(max_size=4),
        stored=st.floats(0, 1e10),
    )
)
def test_a_body_reads_back_equal(body: DueBody) -> None:
    assert DueBody.decode(body.encode()) == body


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", msgpack.packb([1])], ids=repr)
def test_bytes_that_are_no_body_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^due record: "):
        DueBody.decode(data)


def test_rows_of_a_journal_record_read_back() -> None:
    rows = [one(), one("k", DueKind.TIMER, "daily")]
    assert unpack_rows(msgpack.unpackb(msgpack.packb(pack_rows(rows)), use_list=False)) == rows


def test_timers_and_delayed_messages_are_found_by_their_agent_and_their_name() -> None:
    index = DueIndex()
    first, second = (timer_key(SHARD, AGENT, "daily", unique) for unique in ("1", "2"))
    index.add(first, 5, DueKind.TIMER, name="daily")
    assert index.named(AGENT, DueKind.TIMER, "daily") == (first,)
    index.add(second, 9, DueKind.TIMER, name="daily")
    assert index.later(AGENT) == [first, second]
    index.remove(first)
    assert index.named(AGENT, DueKind.TIMER, "daily") == (second,)
    assert index.later(AGENT) == [second]
    assert index.later(AgentId(AGENT.type, "another")) == []
    index.remove(second)
    assert index.named(AGENT, DueKind.TIMER, "daily") == ()
    assert index.later(AGENT) == []


def test_delayed_messages_of_one_id_are_found_together_and_apart_from_a_timer_of_that_name() -> None:
    index = DueIndex()
    timer = timer_key(SHARD, AGENT, "same", "1")
    first, second = (due_key(SHARD, AGENT, Place(position, 0)) for position in (1, 2))
    for key in (first, second):
        index.add(key, 5, DueKind.DELAYED, name="same")
    index.add(timer, 5, DueKind.TIMER, name="same")
    assert index.named(AGENT, DueKind.DELAYED, "same") == (first, second)
    assert index.named(AGENT, DueKind.TIMER, "same") == (timer,)
    index.remove(first)
    assert index.named(AGENT, DueKind.DELAYED, "same") == (second,)
    index.remove(second)
    assert index.named(AGENT, DueKind.DELAYED, "same") == ()
    assert index.named(AGENT, DueKind.TIMER, "same") == (timer,)


def test_what_no_record_has_yet_is_found_and_a_record_that_comes_later_does_not_hide_a_newer_one() -> None:
    index = DueIndex()
    first, second = (timer_key(SHARD, AGENT, "daily", unique) for unique in ("1", "2"))
    index.coming(AGENT, first, DueKind.TIMER, "daily")
    index.coming(AGENT, second, DueKind.TIMER, "daily")
    assert index.named(AGENT, DueKind.TIMER, "daily") == (second,)
    assert index.later(AGENT) == [first, second]
    assert not index.live
    assert index.has(first)
    index.add(first, 5, DueKind.TIMER, name="daily")
    index.remove(first)
    assert not index.has(first)
    assert index.named(AGENT, DueKind.TIMER, "daily") == (second,)
    assert index.later(AGENT) == [second]


@pytest.mark.parametrize("kind", [DueKind.RETRY, DueKind.PARKED, DueKind.PIECE])
def test_what_waits_for_another_reason_is_not_found_as_a_timer_or_delayed_message(kind: DueKind) -> None:
    index = DueIndex()
    index.add(KEY, 5, kind, name="not looked up")
    assert index.named(AGENT, kind, "not looked up") == ()
    assert index.later(AGENT) == []


def test_a_delayed_message_that_is_tried_again_can_no_longer_be_taken_back() -> None:
    index = DueIndex()
    index.add(KEY, 5, DueKind.DELAYED, name="m")
    assert index.later(AGENT) == [KEY]
    index.add(KEY, 9, DueKind.RETRY)
    assert index.named(AGENT, DueKind.DELAYED, "m") == ()
    assert index.later(AGENT) == []


def test_a_new_time_in_another_hour_moves_the_record_to_that_bucket() -> None:
    index = DueIndex()
    due, moved = index.add(KEY, 10, DueKind.RETRY)
    assert (due.bucket, moved) == ("0", None)
    due, moved = index.add(KEY, 20, DueKind.RETRY)
    assert (due.bucket, moved, len(index)) == ("0", None, 1)
    due, moved = index.add(KEY, 2 * HOUR, DueKind.PARKED)
    assert (due.bucket, moved) == ("2", (KEY, "0"))
    assert (len(index), index.counts[DueKind.RETRY], index.counts[DueKind.PARKED]) == (1, 0, 1)
    assert index.remove(KEY) == (KEY, "2")
    assert index.remove(KEY) is None
    assert (len(index), sum(index.counts)) == (0, 0)


def test_times_before_1970_and_full_hours_have_a_bucket_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_module, "BUCKET_BYTES", 200)
    index = DueIndex()
    buckets = [index.add(due_key(SHARD, AGENT, Place(n, 0)), -5, DueKind.RETRY)[0].bucket for n in range(12)]
    assert buckets[0] == "0"
    assert len(set(buckets)) > 2
    assert set(buckets) <= {"0", *(f"0-{n}" for n in range(1, 9))}
    assert max(buckets.count(name) for name in buckets) <= 5


def test_only_recorded_replies_are_not_owed() -> None:
    index = DueIndex()
    assert not index.owed()
    index.add(reply_key(SHARD, "c"), 5, DueKind.REPLY)
    assert not index.owed()
    index.add(KEY, 5, DueKind.DELAYED)
    assert index.owed()


def test_a_bucket_is_written_whole_and_removed_when_it_is_empty() -> None:
    index = DueIndex()
    due, _ = index.add(KEY, 5, DueKind.RETRY)
    assert list(index.to_write()) == []  # not committed yet
    index.committed(DueChange(7, [due], []))
    assert (index.oldest_change(), index.buckets()) == (7, ["0"])
    ((name, version, data),) = index.to_write()
    assert (name, version, data) == ("0", 7, msgpack.packb([(KEY, 5, 0, "", "n")]))
    index.writing("0")
    assert list(index.to_write()) == []
    index.written("0", None)  # nobody can say: again
    assert [version for _, version, _ in index.to_write()] == [7]
    removed = index.remove(KEY)
    assert removed is not None
    index.committed(DueChange(9, [], [removed]))
    index.written("0", 7)
    assert index.oldest_change() == 8
    assert list(index.to_write()) == [("0", 9, None)]
    index.written("0", 9)
    assert (index.oldest_change(), index.buckets()) == (None, [])


def test_a_bucket_that_cannot_be_read_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="bucket 0 of due records"):
        DueIndex().restore({"0": (3, b"\xc1")}, [])


# -- any history: what is live is what was committed, whatever of it is in the table by now


@dataclass
class Owner:
    """An index with its journal and table; the journal keeps what the purge bound asks for."""

    index: DueIndex = field(default_factory=DueIndex)
    journal: list[DueChange] = field(default_factory=list)
    table: dict[str, tuple[int, bytes | None]] = field(default_factory=dict)
    sequence: int = 0
    committed: dict[str, Due] = field(default_factory=dict)
    building: tuple[list[Due], list[tuple[str, str]]] = field(default_factory=lambda: ([], []))
    buckets: set[str] = field(default_factory=set)

    def add(self, key: int, hour: int) -> None:
        due, moved = self.index.add(f"3.d.a.k.{key}-0", hour * HOUR + key, DueKind.DELAYED, name=f"n{key}")
        # as the committer does: a record has one row a key, the last
        self.building[0][:] = [*(other for other in self.building[0] if other.key != due.key), due]
        if moved is not None:
            self.building[1].append(moved)

    def remove(self, key: int) -> None:
        row = self.index.remove(f"3.d.a.k.{key}-0")
        if row is not None:
            added = [due for due in self.building[0] if due.key != row[0]]
            self.building[0][:] = added
            self.building[1].append(row)

    def commit(self) -> None:
        self.sequence += 1
        change = DueChange(self.sequence, *self.building)
        self.building = [], []
        self.journal.append(change)
        self.index.committed(change)
        self.committed = dict(self.index.live)
        self.buckets |= {due.bucket for due in change.added} | {bucket for _, bucket in change.removed}

    def write(self, lose: bool) -> None:
        for name, version, data in list(self.index.to_write()):
            self.index.writing(name)
            self.table[name] = version, data
            self.index.written(name, None if lose else version)

    def purge(self) -> None:
        """A snapshot names the buckets in use; what no bucket lacks may go."""
        self.buckets = set(self.index.buckets())
        oldest = self.index.oldest_change()
        self.journal = [c for c in self.journal if oldest is not None and c.sequence >= oldest]

    def crash(self) -> None:
        self.index = DueIndex()
        self.building = [], []
        self.index.restore({name: self.table[name] for name in self.buckets if name in self.table}, self.journal)


STEPS = st.one_of(
    st.tuples(st.just("add"), st.tuples(st.integers(0, 5), st.integers(0, 2))),
    st.tuples(st.just("remove"), st.tuples(st.integers(0, 5))),
    st.tuples(st.just("commit"), st.just(())),
    st.tuples(st.just("write"), st.tuples(st.booleans())),
    st.tuples(st.sampled_from(["purge", "crash"]), st.just(())),
)


@given(st.lists(STEPS, max_size=60))
@example([("add", (2, 1)), ("add", (2, 0)), ("commit", ())])
def test_after_a_crash_exactly_what_was_committed_is_live(steps: list[tuple[str, tuple[Any, ...]]]) -> None:
    owner = Owner()
    for what, values in [*steps, ("crash", ())]:
        if what == "purge" and any(owner.building):
            continue  # a snapshot speaks of committed things only
        getattr(owner, what)(*values)
        if what == "crash":
            assert owner.index.live == owner.committed
            assert owner.index.counts[DueKind.DELAYED] == len(owner.committed)
            assert owner.index.later(AgentId("a", "k")) == sorted(owner.committed)
            for due in owner.committed.values():
                assert owner.index.named(AgentId("a", "k"), DueKind.DELAYED, due.name) == (due.key,)
