"""Holes that the simulation found in the engine, each in a world as small as it can be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest
from starling import Agent, Context, Topic, event, message
from starling.adapters.memory import MemoryServer, MemoryStore, Trip, Weather
from starling.core.due import DueIndex
from starling.core.ids import AgentId, Epoch, PoolName, ShardId
from starling.core.names import MeshNames, bucket_stream, bucket_subject
from starling.core.overlay import Overlay, TableValue
from starling.core.record import Cell, Kind
from starling.core.retry import RetryPolicy
from starling.engine.journal import Journal, last_record, take
from starling.engine.table import Table
from starling.errors import OutcomeUnknown, RetryLater, Unreachable
from starling.provision import PoolStreams, provision_pool
from starling.testing import mesh

from .loop import VirtualLoop, run

POOL = PoolName("p")
NAMES = MeshNames("m").pool(POOL)
SHARD = ShardId(0)
CELL = "0.a.one.k.state"


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(VirtualLoop(random.Random(0)), main)


class Chosen(Weather):
    """Each publish to one subject travels as the test says, everything else at once.

    to: end of the subject; follower: answers all direct reads, as far behind as it says.
    """

    def __init__(self, *trips: Trip, follower: int | None = None) -> None:
        self.trips = list(trips)
        self.to = CELL
        self.follower = follower

    def publish(self, client: str, subject: str) -> Trip:
        return self.trips.pop(0) if self.trips and subject.endswith(self.to) else Trip()

    def replica(self, client: str, stream: str) -> tuple[int, int] | None:
        return None if self.follower is None else (0, self.follower)


async def owner(weather: Weather) -> tuple[MemoryStore, Table]:
    """Return a shard's table in the hands of its owner, and the connection."""
    store = MemoryServer(weather=weather).connect("owner")
    await provision_pool(store, "m", PoolStreams(POOL, shards=1), known=None, chance=random.Random(1))
    table = Table(store, NAMES, SHARD, Epoch(1), Overlay(), DueIndex(), Journal(store, NAMES, SHARD, 100))
    await table.mark()
    return store, table


async def version_in_table(store: MemoryStore) -> int:
    found = await store.last(bucket_stream(NAMES.table), bucket_subject(NAMES.table, CELL))
    return TableValue.decode(found.data).journal if found else 0


def test_a_first_write_that_arrives_late_does_not_bring_an_old_value_back() -> None:
    async def main() -> None:
        loop = VirtualLoop.running()
        store, table = await owner(Chosen(Trip(20.0, None, late=True)))
        table.overlay.commit(CELL, 4, Cell(1, b"old"), loop.time())
        assert await table.write_round(loop.time(), quiet=0.0, patience=0.0) == 0
        table.overlay.commit(CELL, 13, Cell(1, b"new"), loop.time())
        assert await table.write_round(loop.time(), quiet=0.0, patience=0.0) == 1
        await loop.until(30.0)
        assert await version_in_table(store) == 13

    in_virtual_time(main)


def test_a_cell_that_could_not_be_sent_is_written_when_the_connection_is_back() -> None:
    async def main() -> None:
        loop = VirtualLoop.running()
        store, table = await owner(Weather())
        for version in (4, 5):
            table.overlay.commit(CELL, version, Cell(1, b""), loop.time())
            if version == 5:
                store.cut()
                with pytest.raises(Unreachable):
                    await table.write_round(loop.time(), quiet=0.0, patience=0.0)
                store.mend()
            assert await table.write_round(loop.time(), quiet=0.0, patience=0.0) == 1
        assert await version_in_table(store) == 5
        assert not table.overlay.entries

    in_virtual_time(main)


def test_a_replica_without_any_record_yet_is_no_lost_journal() -> None:
    async def main() -> None:
        weather = Chosen()
        store, _ = await owner(weather)
        weather.follower = 1
        with pytest.raises(Unreachable, match="replica"):
            await last_record(store, NAMES, SHARD)
        weather.follower = 0
        assert (await last_record(store, NAMES, SHARD))[0] == 1

    in_virtual_time(main)


@pytest.mark.parametrize("trip", [Trip(None, None), Trip(0.0, None)], ids=["not stored", "stored"])
def test_after_a_record_of_unknown_outcome_the_owner_appends_nothing_more(trip: Trip) -> None:
    """A release must not follow a lost commit: its floor would pass messages whose turns are in no record."""

    async def main() -> None:
        weather = Chosen()
        store, _ = await owner(weather)
        sequence, born = await last_record(store, NAMES, SHARD)
        journal, taken = await take(store, NAMES, SHARD, owner="pod/start", map_rev=1, over=(sequence, born))
        weather.trips, weather.to = [trip], NAMES.journal_subject(SHARD)
        with pytest.raises(OutcomeUnknown, match="no answer"):
            await journal.append(replace(taken, kind=Kind.COMMIT, previous=2))
        with pytest.raises(OutcomeUnknown, match="before this one"):
            await journal.append(replace(taken, kind=Kind.FREE, previous=2))
        assert (await last_record(store, NAMES, SHARD))[1].kind is not Kind.FREE

    in_virtual_time(main)


def test_a_take_over_an_old_read_is_no_fence() -> None:
    """Otherwise a pod would take itself for replaced, and never take its shard again."""

    async def main() -> None:
        store, _ = await owner(Weather())
        over = await last_record(store, NAMES, SHARD)
        await take(store, NAMES, SHARD, owner="pod/start", map_rev=1, over=over)
        with pytest.raises(RetryLater, match="has moved on"):
            await take(store, NAMES, SHARD, owner="pod/start", map_rev=1, over=over)

    in_virtual_time(main)


def test_an_equal_version_that_is_found_in_the_table_counts_as_an_own_write() -> None:
    """Its answer was lost: after it has left the overlay, a replica behind it must not be believed."""
    overlay = Overlay()
    overlay.marked(3)
    overlay.commit(CELL, 4, Cell(1, b""), 0.0)
    overlay.found(CELL, 9, TableValue(4, 1, b""))
    assert not overlay.entries
    assert overlay.reached == 9


def test_a_replica_that_has_not_seen_the_new_owners_mark_is_not_believed() -> None:
    """What an earlier owner wrote, and purged from its journal, would be missing for the new one."""

    async def main() -> None:
        weather = Chosen()
        loop = VirtualLoop.running()
        store, old = await owner(weather)
        old.overlay.commit(CELL, 4, Cell(1, b"old"), loop.time())
        assert await old.write_round(loop.time(), quiet=0.0, patience=0.0) == 1
        new = Table(store, NAMES, SHARD, Epoch(2), Overlay(), DueIndex(), Journal(store, NAMES, SHARD, 100))
        await new.mark()
        weather.follower = 2  # it has neither the cell nor the mark yet
        reading = asyncio.ensure_future(new.read([CELL]))
        await loop.until(loop.time() + 1.0)
        assert not reading.done()
        weather.follower = 0
        assert await reading == {CELL: Cell(1, b"old")}

    in_virtual_time(main)


@message("hole-news")
@dataclass(frozen=True, slots=True)
class News:
    pass


@message("hole-never")
@dataclass(frozen=True, slots=True)
class Never:
    pass


class Failing(Agent[None], type="hole_target"):
    @event
    async def never(self, message: Never, ctx: Context) -> None:
        raise ValueError("it never succeeds")


class FirstHearer(Agent[None], type="hole_first"):
    @event
    async def news(self, message: News, ctx: Context) -> None:
        ctx.send(AgentId("hole_target", "k"), Never())


class SecondHearer(Agent[None], type="hole_second"):
    @event
    async def news(self, message: News, ctx: Context) -> None:
        ctx.send(AgentId("hole_target", "k"), Never())


NEWS = Topic("hole.news")


async def test_two_agents_that_hear_one_publish_send_messages_with_ids_of_their_own() -> None:
    async with mesh(
        FirstHearer,
        SecondHearer,
        Failing,
        subscriptions={NEWS.type: [FirstHearer, SecondHearer]},
        retry=RetryPolicy(attempts=1),
    ) as made:
        await made.publish(NEWS("k"), News())
        await made.idle()
        letters = await made.dead_letters()
        assert len(letters) == 2
        assert len({letter.envelope.id for letter in letters if letter.envelope}) == 2


async def test_two_messages_to_one_agent_that_were_given_the_same_id_are_two_dead_letters() -> None:
    async with mesh(Failing, subscriptions={NEWS.type: Failing}, retry=RetryPolicy(attempts=1)) as made:
        await made.send(AgentId("hole_target", "k"), Never(), id="same")
        await made.publish(NEWS("k"), Never(), id="same")
        await made.idle()
        assert len(await made.dead_letters()) == 2


@message("hole-end")
@dataclass(frozen=True, slots=True)
class End:
    pass


@message("hole-late")
@dataclass(frozen=True, slots=True)
class Late:
    pass


@dataclass
class Count:
    lates: int = 0


class Ending(Agent[Count], type="hole_ending", ordered=False):
    """Ends itself while a message of it waits for its second attempt."""

    @event
    async def end(self, message: End, ctx: Context) -> None:
        ctx.destroy()

    @event
    async def late(self, message: Late, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError("the first attempt fails")
        self.state.lates += 1


async def test_a_message_that_waits_for_its_retry_outlives_the_end_of_its_agent() -> None:
    agent = AgentId("hole_ending", "k")
    async with mesh(Ending, retry=RetryPolicy(attempts=2, initial=5.0)) as made:
        await made.send(agent, Late())
        await made.idle()
        await made.send(agent, End())
        await made.idle()
        await made.advance(60)
        await made.idle()
        assert await made.state(Ending, "k") == Count(1)
        assert await made.dead_letters() == []


@message("hole-start")
@dataclass(frozen=True, slots=True)
class Start:
    pass


@message("hole-tick")
@dataclass(frozen=True, slots=True)
class Tick:
    pass


@dataclass
class Ticks:
    count: int = 0


class Ticking(Agent[Ticks], type="hole_ticking"):
    """Ends its timer in the timer's own turn, at the second time."""

    @event
    async def start(self, message: Start, ctx: Context) -> None:
        ctx.set_timer("tick", Tick(), every=5.0)

    @event
    async def tick(self, message: Tick, ctx: Context) -> None:
        self.state.count += 1
        if self.state.count == 2:
            ctx.cancel_timer("tick")


async def test_a_timer_that_its_own_turn_takes_back_does_not_come_again() -> None:
    async with mesh(Ticking) as made:
        await made.send(AgentId("hole_ticking", "k"), Start())
        await made.idle()
        for _ in range(30):
            await made.advance(1)
            await made.committed()
        assert await made.state(Ticking, "k") == Ticks(2)
