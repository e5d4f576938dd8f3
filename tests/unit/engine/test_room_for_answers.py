"""Room for the large answers that turns get, and for the large states that agents are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starling import Agent, AgentId, Context, event, message, rpc, testing
from starling.engine.room import Room
from starling.testing import TestMesh

from tests.unit.engine.meshes import shards

LIMIT = 1_000_000
SIZE = 400_000
FIT = 2
"""How many bodies of that size the room holds."""


@message("room_for.Want")
@dataclass
class Want:
    sizes: list[int] = field(default_factory=list)
    how: str = ""
    ballast: str = ""


@message("room_for.Size")
@dataclass
class Size:
    size: int = 0


@dataclass
class Seen:
    what: list[int] = field(default_factory=list)
    kept: str = ""


class Inside:
    """How many turns, or agents, are past the point where they had to wait for room, now and at most."""

    go_on: asyncio.Event
    now = most = ever = 0

    def reset(self, *, go_on: bool) -> None:
        self.now = self.most = self.ever = 0
        self.go_on = asyncio.Event()
        if go_on:
            self.go_on.set()

    async def stay(self) -> None:
        self.now += 1
        self.ever += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)  # whoever may come in now comes
        await self.go_on.wait()
        self.now -= 1


INSIDE = Inside()
LEFT_BEHIND: list[asyncio.Task[str]] = []


class Gallery(Agent[Seen]):
    """Has large answers."""

    @rpc
    async def picture(self, message: Size) -> str:
        return "g" * message.size


class Viewer(Agent[Seen]):
    """Gets large answers."""

    @event
    async def want(self, message: Want, ctx: Context) -> None:
        gallery = ctx.agent(Gallery, self.id.key)
        if message.how == "at once":
            pictures = await asyncio.gather(*(gallery.picture(Size(size)) for size in message.sizes))
        elif message.how == "gives up":
            pictures = []
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await gallery.picture(Size(*message.sizes))
        elif message.how == "leaves it behind":
            LEFT_BEHIND.append(asyncio.ensure_future(gallery.picture(Size(*message.sizes))))
            await asyncio.sleep(0)
            return
        else:
            pictures = [await gallery.picture(Size(size)) for size in message.sizes]
        await INSIDE.stay()
        self.state.what += [len(picture) for picture in pictures]

    @rpc
    async def ping(self, message: Size) -> int:
        return message.size


class Glance(Viewer, durability="none"):
    """Gets large answers, and records nothing."""


class Hoard(Agent[Seen]):
    """Has a large state."""

    async def on_activate(self) -> None:
        if self.state.kept:
            await INSIDE.stay()

    @event
    async def keep(self, message: Size) -> None:
        self.state.kept = "k" * message.size

    @rpc
    async def kept(self, message: Want) -> int:
        return len(self.state.kept)


@asynccontextmanager
async def mesh_of(*classes: type[Agent[Seen]]) -> AsyncIterator[tuple[TestMesh, Room]]:
    """A mesh whose shards all share a small room, as those of one pool do; at its end nothing is left in it."""
    async with testing.mesh(*classes, shards=4) as mesh:
        room = in_one_room(mesh)
        yield mesh, room
        await mesh.idle()
        assert (room.held_bytes, room._active) == (0, 0)


def in_one_room(mesh: TestMesh) -> Room:
    room = Room(LIMIT)
    for shard in shards(mesh):
        object.__setattr__(shard._settings, "room", room)
    return room


def waiting(room: Room) -> int:
    """How many wait for room, if none of them has given up."""
    return len(room._line) + (room._first is not None and room._first.waits)


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not fact():
            await asyncio.sleep(0.01)


def viewer(n: int, name: str = "viewer") -> AgentId:
    return AgentId(name, f"v{n}")


@pytest.mark.row("RT-25", part="what large answers take at once is bounded by bytes")
@pytest.mark.parametrize("cls", [Viewer, Glance])
async def test_large_answers_at_once_stay_under_the_bound_while_small_ones_go_on(cls: type[Viewer]) -> None:
    INSIDE.reset(go_on=False)
    name = cls.__name__.lower()
    async with mesh_of(Gallery, cls) as (mesh, room):
        for n in range(6):
            await mesh.send(viewer(n, name), Want([SIZE]))
        await until(lambda: INSIDE.now == FIT and waiting(room) == 6 - FIT)
        await mesh.send(viewer(7, name), Want([100]))
        await until(lambda: INSIDE.now == FIT + 1)
        assert await mesh.call(viewer(8, name), Size(8)) == 8
        assert room.held_bytes == FIT * SIZE + FIT * 2  # with the quotes
        INSIDE.go_on.set()
        await mesh.idle()
        assert INSIDE.ever == 7
        assert INSIDE.most == FIT + 1
        if cls is Viewer:
            for n in range(6):
                assert (await mesh.state(cls, f"v{n}")).what == [SIZE]


async def test_turns_that_hold_a_body_and_want_an_answer_too_come_to_their_ends_one_by_one() -> None:
    INSIDE.reset(go_on=True)
    async with mesh_of(Gallery, Viewer) as (mesh, _):
        for n in range(5):
            await mesh.send(viewer(n), Want([SIZE, SIZE], ballast="b" * SIZE))
        await mesh.idle()
        for n in range(5):
            assert (await mesh.state(Viewer, f"v{n}")).what == [SIZE, SIZE]
        assert INSIDE.most == 1  # with what it holds there is no room for a second one that goes on


async def test_answers_that_a_turn_gets_at_once_do_not_wait_for_each_other() -> None:
    INSIDE.reset(go_on=True)
    async with mesh_of(Gallery, Viewer) as (mesh, _):
        for n in range(3):
            await mesh.send(viewer(n), Want([SIZE] * 4, "at once"))
        await mesh.idle()
        for n in range(3):
            assert (await mesh.state(Viewer, f"v{n}")).what == [SIZE] * 4


async def test_an_answer_larger_than_all_the_room_comes_alone() -> None:
    INSIDE.reset(go_on=True)
    async with mesh_of(Gallery, Viewer) as (mesh, _):
        for n in range(4):
            await mesh.send(viewer(n), Want([3_000_000 if n == 1 else 300_000]))
        await mesh.idle()
        assert (await mesh.state(Viewer, "v1")).what == [3_000_000]
        assert INSIDE.ever == 4
        assert INSIDE.most <= 3


async def test_a_turn_that_gives_up_its_wait_for_room_takes_none_and_goes_on() -> None:
    INSIDE.reset(go_on=False)
    async with mesh_of(Gallery, Viewer) as (mesh, room):
        await mesh.send(viewer(0), Want([900_000]))
        await until(lambda: INSIDE.now == 1)
        await mesh.send(viewer(1), Want([SIZE], "gives up"))
        await until(lambda: waiting(room) == 1)
        await until(lambda: INSIDE.now == 2)
        assert waiting(room) == 0
        assert room.held_bytes == 900_002
        INSIDE.go_on.set()


async def test_a_call_that_a_handler_leaves_behind_keeps_no_room() -> None:
    INSIDE.reset(go_on=True)
    LEFT_BEHIND.clear()
    async with mesh_of(Gallery, Viewer) as (mesh, room):
        await mesh.send(viewer(0), Want([SIZE], "leaves it behind"))
        await until(lambda: bool(LEFT_BEHIND))
        assert len(await LEFT_BEHIND[0]) == SIZE
        assert room.held_bytes == 0


@pytest.mark.row("RT-25", part="what large states take while they are loaded is bounded by bytes")
async def test_large_states_are_loaded_under_the_bound_and_small_ones_past_them() -> None:
    INSIDE.reset(go_on=False)
    async with testing.mesh(Hoard, shards=4) as mesh:
        for n in range(6):
            await mesh.send(AgentId("hoard", f"h{n}"), Size(SIZE))
        await mesh.idle()
        await mesh.crash()
        await mesh.ready()
        room = in_one_room(mesh)
        calls = [asyncio.ensure_future(mesh.call(AgentId("hoard", f"h{n}"), Want())) for n in range(6)]
        await until(lambda: INSIDE.now == FIT and waiting(room) == 6 - FIT)
        assert FIT * SIZE <= room.held_bytes <= LIMIT
        for n in range(6):
            assert await mesh.call(AgentId("hoard", f"other{n}"), Want()) == 0
        INSIDE.go_on.set()
        assert await asyncio.gather(*calls) == [SIZE] * 6
        assert INSIDE.most == FIT
        await mesh.idle()
        assert (room.held_bytes, room._active) == (0, 0)
