"""What the last owner of a shard leaves behind for whoever looks whether a sleeping pool has work."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from starling import Agent, AgentId, Context, event, testing
from starling.core.ids import PoolName, ShardId
from starling.core.names import MeshNames
from starling.core.record import Kind, Record
from starling.provision import Owing, owing
from starling.testing import MESH, TestMesh

CLOCK = AgentId("alarm_clock", "one")
POOL = PoolName("alarm-clock")


@dataclass
class Set:
    delay: float
    aloud: bool = False


@dataclass
class Ring: ...


class Wall(Agent[None]):
    @event
    async def ring(self, message: Ring) -> None: ...


class AlarmClock(Agent[None]):
    @event
    async def set(self, message: Set, ctx: Context) -> None:
        if message.aloud:
            ctx.send(AgentId("wall", "w"), Ring())
        if message.delay:
            ctx.set_timer("alarm", Ring(), delay=message.delay)

    @event
    async def ring(self, message: Ring) -> None: ...


async def asleep(mesh: TestMesh) -> None:
    """End every pod of the first pool in good order."""
    await mesh._pools[0].stop()


async def last(mesh: TestMesh) -> Record:
    names = MeshNames(MESH).pool(POOL)
    message = await mesh._admin.last(names.journal(ShardId(0)), names.journal_subject(ShardId(0)))
    assert message is not None
    return Record.decode(message.data)


@pytest.mark.row("CP-11", part="a timer that is due wakes a pool without pods")
async def test_a_pool_that_went_to_sleep_owes_a_timer_from_its_time_on() -> None:
    async with testing.mesh(AlarmClock, shards=1) as mesh:
        await mesh.send(CLOCK, Set(3600.0))
        await mesh.idle()
        await asleep(mesh)
        assert await owing(mesh._admin, MESH, POOL, 1) == Owing()
        await mesh.advance(3500.0)
        assert await owing(mesh._admin, MESH, POOL, 1) == Owing()
        await mesh.advance(200.0)
        assert await owing(mesh._admin, MESH, POOL, 1) == Owing(due=1)


async def test_a_pool_that_went_to_sleep_with_nothing_to_do_owes_nothing() -> None:
    async with testing.mesh(AlarmClock, shards=1) as mesh:
        await mesh.send(CLOCK, Set(0.0))
        await mesh.idle()
        await asleep(mesh)
        assert (await last(mesh)).kind is Kind.FREE
        await mesh.advance(10_000.0)
        assert await owing(mesh._admin, MESH, POOL, 1) == Owing()


async def test_a_shard_whose_owner_was_lost_is_looked_after() -> None:
    async with testing.mesh(AlarmClock, shards=1) as mesh:
        await mesh.send(CLOCK, Set(0.0))
        await mesh.idle()
        assert (await last(mesh)).kind is not Kind.FREE
        assert await owing(mesh._admin, MESH, POOL, 1) == Owing(due=1)
        assert await owing(mesh._admin, MESH, PoolName("nowhere"), 1) == Owing()


def test_a_release_says_what_it_owes_and_when() -> None:
    record = Record(kind=Kind.FREE, previous=3, epoch=2, owed=True, wakes_at=1234, due_at=5678)
    assert Record.decode(record.encode()) == record


@pytest.mark.row("CP-11", part="what was not delivered wakes a pool without pods")
async def test_a_pool_that_went_to_sleep_with_what_no_mailbox_takes_owes_that_and_its_timers_beside() -> None:
    async with testing.mesh(AlarmClock, Wall, shards=1) as mesh:
        await mesh._admin.delete_stream(MeshNames(MESH).pool(PoolName("wall")).mailbox(ShardId(0)))
        await mesh.send(CLOCK, Set(3600.0, aloud=True))
        shard = mesh._shard("alarm_clock", "one")
        async with asyncio.timeout(20):
            while not (shard._outbox.frames and shard._due.live):
                await asyncio.sleep(0.01)
        await asleep(mesh)
        assert await owing(mesh._admin, MESH, POOL, 1) == Owing(undelivered=1)
        await mesh.advance(3700.0)
        assert await owing(mesh._admin, MESH, POOL, 1) == Owing(due=1, undelivered=1)
