"""A pool whose object store is gone: its turns, and those that send to it, end instead of standing still for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from starling import Agent, AgentId, Context, event, message, rpc, testing
from starling.core import limits
from starling.core.ids import PoolName
from starling.core.names import MeshNames, object_stream
from starling.errors import HandlerFailed, UnknownPool
from starling.provision import PoolStreams, large_objects
from starling.testing import MESH, TestMesh

SIZE = 400_000
SCREEN = PoolName("screen")


@message("no_store.Do")
@dataclass
class Do:
    what: str


@message("no_store.Image")
@dataclass
class Image:
    pixels: str


@dataclass
class Seen:
    what: list[str] = field(default_factory=list)
    kept: str = ""


class Screen(Agent[Seen]):
    """Its pool has lost its object store."""

    @event
    async def image(self, message: Image) -> None:
        self.state.what.append(str(len(message.pixels)))

    @rpc
    async def show(self, message: Image) -> int:
        return len(message.pixels)

    @rpc
    async def keep(self, message: Do, ctx: Context) -> str:
        self.state.what.append(message.what)
        ctx.set_timer("soon", Do("timer"), delay=3600.0)
        if message.what == "state":
            self.state.kept = "k" * SIZE
        return "a" * SIZE if message.what == "answer" else ""


class Painter(Agent[Seen]):
    """Sends large bodies to it."""

    @event
    async def do(self, message: Do, ctx: Context) -> None:
        self.state.what.append(message.what)
        if message.what == "send":
            ctx.send(AgentId("screen", "s"), Image("x" * SIZE))
        elif message.what == "call":
            with pytest.raises(UnknownPool, match="object store"):
                await ctx.agent(Screen, "s").show(Image("x" * SIZE))


async def lose(mesh: TestMesh) -> None:
    await mesh._admin.delete_stream(object_stream(MeshNames(MESH).pool(SCREEN).objects))


async def pass_by(mesh: TestMesh, seconds: float) -> None:
    """Let time pass, with looks at it every two seconds."""
    for _ in range(int(seconds / 2)):
        await mesh.advance(2.0)


async def test_a_turn_that_sends_to_a_pool_without_an_object_store_ends_as_a_dead_letter_and_its_agent_goes_on() -> (
    None
):
    async with testing.mesh(Painter, Screen, shards=1) as mesh:
        await lose(mesh)
        await mesh.send(AgentId("painter", "p"), Do("send"))
        await mesh.send(AgentId("painter", "p"), Do("nothing"))
        await mesh.send(AgentId("painter", "other"), Do("nothing"))
        await pass_by(mesh, limits.NO_ROUTE_AFTER - 6)
        assert await mesh.dead_letters() == []
        assert (await mesh.state(Painter, "other")).what == ["nothing"]
        assert (await mesh.state(Painter, "p")).what == []
        await pass_by(mesh, 10)
        await mesh.idle()
        (letter,) = await mesh.dead_letters()
        assert (letter.reason, letter.attempts) == ("UnknownPool", 1)
        assert letter.envelope is not None
        assert letter.envelope.target == AgentId("painter", "p")
        assert (await mesh.state(Painter, "p")).what == ["nothing"]


async def test_a_store_that_comes_back_within_the_minute_gets_what_waited_for_it() -> None:
    async with testing.mesh(Painter, Screen, shards=1) as mesh:
        await lose(mesh)
        await mesh.send(AgentId("painter", "p"), Do("send"))
        await pass_by(mesh, limits.NO_ROUTE_AFTER / 2)
        spec = large_objects(MeshNames(MESH).pool(SCREEN), PoolStreams(SCREEN, shards=1))
        await mesh._admin.ensure_stream(spec)
        await pass_by(mesh, 4)
        await mesh.idle()
        assert await mesh.dead_letters() == []
        assert (await mesh.state(Screen, "s")).what == [str(SIZE)]


async def test_a_call_with_a_large_body_to_a_pool_without_an_object_store_fails_by_name() -> None:
    async with testing.mesh(Painter, Screen, shards=1) as mesh:
        await lose(mesh)
        await mesh.send(AgentId("painter", "p"), Do("call"))
        await pass_by(mesh, limits.NO_ROUTE_AFTER + 10)
        await mesh.idle()
        assert await mesh.dead_letters() == []
        assert (await mesh.state(Painter, "p")).what == ["call"]


@pytest.mark.parametrize("what", ["state", "answer"])
async def test_a_turn_with_a_large_state_or_answer_that_no_store_takes_fails_and_leaves_nothing(what: str) -> None:
    async with testing.mesh(Screen, shards=1) as mesh:
        screen = AgentId("screen", "s")
        await mesh.call(screen, Do("before"))
        (timer,) = (due for due in mesh._shard("screen", "s")._due.live)
        await lose(mesh)
        call = asyncio.ensure_future(mesh.call(screen, Do(what), timeout=300.0))
        await pass_by(mesh, limits.NO_ROUTE_AFTER + 10)
        with pytest.raises(HandlerFailed, match="UnknownPool"):
            await call
        assert (await mesh.state(Screen, "s")).what == ["before"]
        assert list(mesh._shard("screen", "s")._due.live) == [timer]
        await mesh.call(screen, Do("after"))
        assert (await mesh.state(Screen, "s")).what == ["before", "after"]
