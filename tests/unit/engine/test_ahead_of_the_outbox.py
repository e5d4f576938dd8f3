"""A shard runs ahead of its journal, of object stores and of its targets only so far, by bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from starling import Agent, AgentId, Context, event, message, testing
from starling.core import limits
from starling.core.ids import PoolName, ShardId
from starling.core.names import MeshNames
from starling.engine.shard import OwnedShard
from starling.provision import PoolStreams, large_objects, shard_streams
from starling.testing import MESH, TestMesh

PART = 200_000
"""Bytes that stay in place."""
LARGE = 3_000_000
MESSAGES = 150
SINK = MeshNames(MESH).pool(PoolName("sink"))
OBJECTS = large_objects(SINK, PoolStreams(PoolName("sink"), shards=1))


@message("outbox.Send")
@dataclass
class SendOn:
    size: int = PART
    n: int = 0


@message("outbox.Parcel")
@dataclass
class Parcel:
    content: str
    n: int = 0


@dataclass
class Got:
    numbers: list[int] = field(default_factory=list)


class Watched:
    """What the sending shard had in memory before each of its turns, at most."""

    shard: OwnedShard | None = None
    most_bytes = 0

    def look(self) -> None:
        if (shard := self.shard) is not None:
            self.most_bytes = max(self.most_bytes, shard._turns.unstored_bytes + shard._outbox.size_bytes)


WATCHED = Watched()
GO_ON = asyncio.Event()


class Sender(Agent[Got]):
    @event
    async def send_on(self, message: SendOn, ctx: Context) -> None:
        WATCHED.look()
        self.state.numbers.append(message.n)
        ctx.send(AgentId("sink", "s"), Parcel("x" * message.size, message.n))


class Sink(Agent[Got]):
    @event
    async def parcel(self, message: Parcel) -> None:
        await GO_ON.wait()
        self.state.numbers.append(message.n)


class Relay(Agent[Got]):
    @event
    async def send_on(self, message: SendOn, ctx: Context) -> None:
        ctx.send(AgentId("sender", f"inside{message.n}"), message)


@pytest.fixture(autouse=True)
def anew() -> None:
    GO_ON.clear()
    WATCHED.shard = None
    WATCHED.most_bytes = 0


def watched(mesh: TestMesh) -> OwnedShard:
    WATCHED.shard = mesh._shard("sender", "a")
    return WATCHED.shard


async def limit(mesh: TestMesh, frames: int) -> None:
    """Let the sink's mailbox hold so many frames a lane."""
    spec = PoolStreams(PoolName("sink"), shards=1, mailbox_limit=frames)
    _, mailbox = shard_streams(SINK, ShardId(0), spec, ())
    await mesh._admin.ensure_stream(mailbox)


def handled(shard: OwnedShard) -> int:
    return sum(shard.stats.turns.values())


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not fact():
            await asyncio.sleep(0.005)


@pytest.mark.row("RT-25", part="what is sent and not delivered is bounded by bytes")
async def test_what_small_messages_let_a_shard_send_waits_in_its_mailbox_while_the_target_takes_nothing() -> None:
    async with testing.mesh(Sender, Sink, Relay, shards=1) as mesh:
        await limit(mesh, 1)
        shard = watched(mesh)
        await asyncio.gather(*(mesh.send(AgentId("sender", f"{n % 8}"), SendOn(n=n)) for n in range(MESSAGES)))
        await until(lambda: bool(shard._turns._held_up) and not shard._turns.outcomes and not shard._turns._ready)
        before = handled(shard)
        assert before < MESSAGES // 2
        assert shard._turns._held_up.keys() >= {shard._turns._agents[AgentId("sender", f"{n}")] for n in range(8)}

        await mesh.send(AgentId("relay", "r"), SendOn(n=MESSAGES))  # what agents send is handled all the same
        await until(lambda: handled(shard) == before + 1)
        assert (await mesh.state(Sender, f"inside{MESSAGES}")).numbers == [MESSAGES]

        GO_ON.set()
        await limit(mesh, 1000)
        await mesh.idle()
        assert sorted((await mesh.state(Sink, "s")).numbers) == list(range(MESSAGES + 1))
        assert [(await mesh.state(Sender, f"{n}")).numbers for n in range(8)] == [
            list(range(n, MESSAGES, 8)) for n in range(8)
        ]
        assert await mesh.dead_letters() == []
        assert WATCHED.most_bytes <= limits.OUTBOX_PAUSES_OUTSIDE + limits.UNSTORED_BYTES + 2 * PART


async def test_no_turn_starts_while_too_much_of_what_others_left_is_in_no_record() -> None:
    GO_ON.set()
    async with testing.mesh(Sender, Sink, shards=1) as mesh:
        shard = watched(mesh)
        async with shard._committer.no_record():  # no record is stored meanwhile
            await asyncio.gather(*(mesh.send(AgentId("sender", f"{n}"), SendOn(n=n)) for n in range(MESSAGES)))
            await until(lambda: shard._turns._is_full)
            assert handled(shard) == limits.UNSTORED_BYTES // PART + 1
        await mesh.idle()
        assert sorted((await mesh.state(Sink, "s")).numbers) == list(range(MESSAGES))
        assert shard._turns.unstored_bytes == 0
        assert WATCHED.most_bytes <= limits.OUTBOX_PAUSES_OUTSIDE + limits.UNSTORED_BYTES + 2 * PART


async def test_few_turns_at_once_have_large_bodies_on_their_way_to_the_object_store() -> None:
    GO_ON.set()
    async with testing.mesh(Sender, Sink, shards=1) as mesh:
        shard = watched(mesh)
        await mesh._admin.delete_stream(OBJECTS.name)
        for n in range(8):
            await mesh.send(AgentId("sender", f"{n}"), SendOn(LARGE, n))
        await until(lambda: shard._turns._is_full)
        assert len(shard._turns._running) == limits.UNSTORED_BYTES // LARGE + 1
        assert handled(shard) == 0  # a turn whose bodies no store takes has failed
        await mesh._admin.ensure_stream(OBJECTS)
        await mesh.idle()
        assert sorted((await mesh.state(Sink, "s")).numbers) == list(range(8))
        assert shard._turns.unstored_bytes == 0


async def test_an_object_store_that_is_missing_holds_up_those_that_need_it_and_nobody_else() -> None:
    GO_ON.set()
    async with testing.mesh(Sender, Sink, shards=1) as mesh:
        shard = watched(mesh)
        await mesh._admin.delete_stream(OBJECTS.name)
        for n in range(3):
            await mesh.send(AgentId("sender", f"{n}"), SendOn(LARGE, n))
        await until(lambda: shard._turns._is_full)
        await mesh.send(AgentId("sender", "small"), SendOn(n=3))
        for _ in range(2):
            await mesh.advance(limits.STORE_TIMEOUT / 2 + 0.1)
        await until(lambda: handled(shard) == 1)
        assert (await mesh.state(Sender, "small")).numbers == [3]
        await mesh._admin.ensure_stream(OBJECTS)
        await mesh.idle()
        assert sorted((await mesh.state(Sink, "s")).numbers) == [0, 1, 2, 3]
        assert shard._turns.unstored_bytes == 0
