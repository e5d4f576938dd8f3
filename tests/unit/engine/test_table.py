"""The table behind the journal: only newer over older, by whoever owns the shard now, and read only when it counts."""

from __future__ import annotations

import asyncio
import random

import pytest
from starling.adapters.memory import MemoryServer, MemoryStore, Trip, Weather
from starling.core.due import DueChange, DueIndex, DueKind
from starling.core.ids import AgentId, Epoch, PoolName, ShardId
from starling.core.names import MeshNames, bucket_stream, bucket_subject, cell_key, mark_key
from starling.core.overlay import Overlay, TableValue
from starling.core.record import Cell, Kind, Record, born
from starling.engine.journal import Journal
from starling.engine.table import QUIET, ROUND, WRITES_A_ROUND, Table
from starling.errors import Fenced, JournalLost, Unreachable
from starling.ports.store import BucketSpec, StreamSpec

from tests.simulation.loop import VirtualLoop, run

NAMES = MeshNames("m").pool(PoolName("p"))
SHARD = ShardId(0)
KEY = cell_key(SHARD, AgentId("a", "k"), "state")
OTHER = cell_key(SHARD, AgentId("a", "other"), "state")
STREAM = bucket_stream(NAMES.table)


def subject(key: str) -> str:
    return bucket_subject(NAMES.table, key)


class Owner:
    """One owner's view of the table: each commit is one record of the journal, here only a number."""

    def __init__(self, store: MemoryStore, epoch: int, journal: Journal) -> None:
        self.journal = journal
        self.overlay = Overlay()
        self.due = DueIndex()
        self.table = Table(store, NAMES, SHARD, Epoch(epoch), self.overlay, self.due, journal)

    def commit(self, version: int, text: str | None, key: str = KEY) -> None:
        self.journal.last = max(self.journal.last, version)
        self.overlay.commit(key, version, Cell(1, None if text is None else text.encode()), 0.0)

    async def write(self) -> int:
        return await self.table.write_round(100.0, quiet=0.0, patience=0.0)

    async def read(self, key: str = KEY) -> str | None:
        cell = (await self.table.read([key]))[key]
        return None if cell is None or cell.data is None else cell.data.decode()


class World:
    def __init__(self, weather: Weather | None = None) -> None:
        self.server = MemoryServer(weather=weather)
        self.admin = self.server.connect("admin")
        self.last = 1

    async def ready(self) -> None:
        await self.admin.ensure_bucket(BucketSpec(NAMES.table))
        await self.admin.ensure_stream(StreamSpec(NAMES.journal(SHARD), (NAMES.journal_subject(SHARD),)))
        await (await self.admin.publish(NAMES.journal_subject(SHARD), born("i").encode()))

    async def take(self, epoch: int, *, mark: bool = True) -> Owner:
        """A new owner appends its record; the ones before it are fenced from now on, and do not know it yet."""
        store = self.server.connect(f"owner-{epoch}")
        journal = Journal(store, NAMES, SHARD, self.last)
        self.last = await journal.append(Record(kind=Kind.TAKE, previous=self.last, epoch=epoch))
        owner = Owner(store, epoch, journal)
        if mark:
            await owner.table.mark()
        return owner

    async def stored(self, key: str = KEY) -> TableValue | None:
        page = [m for m in await self.admin.page(STREAM, subject(key), 1) if m.data]
        return TableValue.decode(page[-1].data) if page else None


@pytest.fixture
async def world() -> World:
    made = World()
    await made.ready()
    return made


async def test_a_committed_cell_is_written_once_and_leaves_the_overlay(world: World) -> None:
    owner = await world.take(1)
    owner.commit(5, "five")
    assert await owner.write() == 1
    assert await world.stored() == TableValue(5, 1, b"five")
    assert owner.overlay.entries == {}
    assert await owner.write() == 0
    assert await owner.read() == "five"


async def test_the_overlay_answers_before_the_table(world: World) -> None:
    owner = await world.take(1)
    owner.commit(5, "five")
    await owner.write()
    owner.commit(6, "six")
    assert await owner.read() == "six"
    owner.commit(7, None)
    assert await owner.read() is None


async def test_a_late_write_of_an_older_owner_does_not_bring_its_version_back(world: World) -> None:
    """The old owner committed 5 before it was replaced; the new one has committed and written 9."""
    old = await world.take(1)
    old.commit(5, "five")
    await old.write()
    old.commit(6, "six")
    new = await world.take(2)
    new.commit(6, "six")  # as its replay has it
    assert await new.write() == 1
    new.commit(9, "nine")
    assert await new.write() == 1
    assert await old.write() == 0  # on condition of what it knew: refused
    with pytest.raises(Fenced, match="has version 9"):  # and the read that follows tells it why
        await old.write()
    assert await world.stored() == TableValue(9, 1, b"nine")


async def test_a_late_first_write_of_an_older_owner_is_refused_although_there_is_nothing_to_compare(
    world: World,
) -> None:
    """A cell that was destroyed, and whose tombstone has expired, must not come back: the mark is the condition."""
    old = await world.take(1)
    old.commit(5, "five")
    await old.table._look([KEY])  # it has found that the table has nothing, and is about to write
    await world.take(2)
    assert await old.write() == 0
    assert await world.stored() is None


async def test_the_mark_is_written_over_a_smaller_epoch_only(world: World) -> None:
    new = await world.take(2)
    late = Owner(world.server.connect("late"), 1, new.journal)
    with pytest.raises(Fenced, match="a later owner has marked"):
        await late.table.mark()
    again = await world.take(2)
    assert again.overlay.mark > new.overlay.mark
    value = await world.admin.last(STREAM, subject(mark_key(SHARD)))
    assert value is not None
    assert TableValue.decode(value.data).journal == 2


async def test_a_table_ahead_of_a_journal_that_is_still_ours_is_for_a_person(world: World) -> None:
    owner = await world.take(1)
    await (await world.admin.publish(subject(KEY), TableValue(99, 1, b"newer").encode()))
    with pytest.raises(JournalLost, match="is ahead of the journal"):
        await owner.read()
    await world.take(2)
    with pytest.raises(Fenced) as raised:  # somebody took it: then it is only that
        await owner.read()
    assert type(raised.value) is Fenced


async def test_a_destroyed_cell_is_written_as_such_with_its_version(world: World) -> None:
    owner = await world.take(1)
    owner.commit(5, "five")
    await owner.write()
    owner.commit(6, None)
    assert await owner.write() == 1
    assert await world.stored() == TableValue(6, 1, None)
    assert await owner.read() is None


async def test_buckets_of_due_records_are_written_and_read_back(world: World) -> None:
    owner = await world.take(1)
    due, _ = owner.due.add("0.d.a.k.1-0", 5, DueKind.RETRY)
    owner.due.committed(DueChange(owner.journal.last, [due], []))
    await owner.write()
    assert owner.due.oldest_change() is None
    after = await world.take(2)
    found = await after.table.read_buckets(["0", "77"])
    assert found["77"] == (0, None)
    after.due.restore(found, [])
    assert after.due.live == owner.due.live


async def test_what_a_record_without_cells_changed_in_a_bucket_is_not_ahead_of_the_journal(world: World) -> None:
    owner = await world.take(1)
    due, _ = owner.due.add("0.d.a.k.1-0", 5, DueKind.RETRY)
    record = Record(kind=Kind.COMMIT, previous=owner.journal.last, epoch=1, due_added=[due])
    owner.due.committed(DueChange(await owner.journal.append(record), [due], []))
    await owner.write()
    owner.overlay.known.clear()  # as after a write without an answer
    assert (await owner.table.read_buckets(["0"]))["0"][0] == owner.journal.last


class Lagging(Weather):
    """Reads come from a follower that is so many changes behind; the first writes of cells may be lost or late."""

    def __init__(self) -> None:
        self.behind: list[int] = []
        self.trips: list[Trip] = []

    def replica(self, client: str, stream: str) -> tuple[int, int] | None:
        return (0, self.behind.pop(0)) if self.behind else None

    def publish(self, client: str, subject: str) -> Trip:
        return self.trips.pop(0) if self.trips and ".a." in subject else Trip()


@pytest.fixture
async def lagging() -> tuple[World, Lagging]:
    weather = Lagging()
    made = World(weather)
    await made.ready()
    return made, weather


async def test_neither_missing_nor_found_is_believed_from_a_replica_that_lags(lagging: tuple[World, Lagging]) -> None:
    world, weather = lagging
    owner = await world.take(1)
    owner.commit(5, "five")
    await owner.write()
    owner.overlay.known.clear()
    weather.behind = [3, 2, 1, 1]  # nothing yet, without the mark, without the cell
    assert await owner.read() == "five"
    assert len(weather.behind) < 4
    owner.commit(6, "six")
    await owner.write()
    weather.behind = [1, 1]
    assert await owner.read() == "six"


async def test_a_replica_that_never_catches_up_is_no_answer(
    lagging: tuple[World, Lagging], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, weather = lagging
    owner = await world.take(1)
    owner.commit(5, "five")
    await owner.write()
    real = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: real(0))
    weather.behind = [2] * 100
    with pytest.raises(Unreachable, match="no replica has reached"):
        await owner.read()


async def test_a_write_that_nobody_answers_is_compared_before_it_is_repeated(lagging: tuple[World, Lagging]) -> None:
    world, weather = lagging
    owner = await world.take(1)
    owner.commit(5, "five")
    loop = asyncio.get_running_loop()
    time, offset = loop.time, 0.0
    loop.time = lambda: time() + offset  # type: ignore[method-assign]
    weather.trips = [Trip(0.0, None)]  # stored, but the answer is lost
    writing = asyncio.ensure_future(owner.write())
    while not writing.done():
        offset += 0.5
        await asyncio.sleep(0)
    assert await writing == 0
    mark = owner.overlay.mark
    assert list(owner.overlay.entries) == [KEY]
    await owner.write()
    assert owner.overlay.mark > mark, "a first write of unknown outcome may come late: a new mark refuses it"
    assert owner.overlay.entries == {}
    page = await world.admin.page(STREAM, subject(KEY), 1)
    assert [TableValue.decode(message.data).journal for message in page] == [5]


def test_the_table_is_written_without_a_pause_while_more_is_due_than_a_round_takes() -> None:
    rounds = 4

    async def main() -> None:
        world = World()
        await world.ready()
        owner = await world.take(1)
        for number in range(rounds * WRITES_A_ROUND):
            owner.commit(number + 2, "x", cell_key(SHARD, AgentId("a", f"{number}"), "state"))
        writing = asyncio.create_task(owner.table.write_behind())
        await asyncio.sleep(QUIET + ROUND)  # the rest would take further pauses
        assert not owner.overlay.entries
        writing.cancel()

    run(VirtualLoop(random.Random(0)), main)
