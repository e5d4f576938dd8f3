"""Room for large bodies: bounded in bytes over a process, in order, by priority, and never for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling import Agent, AgentId, Context, event, message, rpc, testing
from starling.core import limits
from starling.core.priority import Priority
from starling.engine.room import Place, Room, Share
from starling.errors import CallTimeout
from starling.testing import TestMesh

from tests.unit.engine.meshes import shards

SIZE = 5_000_000
FIT = limits.LARGE_BODIES // (SIZE + 100)
"""How many bodies of that size the room holds."""


@message("room.Image")
@dataclass
class Image:
    pixels: str
    then: str = ""


@message("room.Small")
@dataclass
class Small:
    text: str = ""


@dataclass
class Seen:
    what: list[str] = field(default_factory=list)


class Inside:
    """Bytes of the bodies whose turn runs, and the most there ever were."""

    go_on: asyncio.Event
    bytes = most = turns = 0

    def reset(self, *, go_on: bool) -> None:
        self.bytes = self.most = self.turns = 0
        self.go_on = asyncio.Event()
        if go_on:
            self.go_on.set()


INSIDE = Inside()


class Painter(Agent[Seen]):
    @event
    async def image(self, message: Image) -> None:
        await self.look(message)

    @rpc
    async def shown(self, message: Image) -> int:
        await self.look(message)
        return len(message.pixels)

    @event
    async def note(self, message: Small) -> None:
        self.state.what.append(message.text)

    @rpc
    async def ping(self, message: Small) -> str:
        return message.text

    async def look(self, message: Image) -> None:
        size = len(message.pixels)
        INSIDE.bytes += size
        INSIDE.turns += 1
        INSIDE.most = max(INSIDE.most, INSIDE.bytes)
        await INSIDE.go_on.wait()
        INSIDE.bytes -= size
        self.state.what.append(f"image of {size}")


class Asker(Agent[Seen]):
    @event
    async def image(self, message: Image, ctx: Context) -> None:
        """Hold a large body, and wait for another agent that wants one too."""
        size = await ctx.agent(Painter, self.id.key).shown(Image(message.pixels), timeout=5.0)
        self.state.what.append(f"shown {size}")


def painter(n: int) -> AgentId:
    return AgentId("painter", f"p{n}")


def room_of(mesh: TestMesh) -> Room:
    """The room of the last pool, which all its shards share."""
    (room,) = {
        id(shard._settings.room): shard._settings.room for shard in shards(mesh) if "painter" in shard._settings.agents
    }.values()
    return room


def waiting(room: Room) -> int:
    """How many wait for room, if none of them has given up."""
    return len(room._line) + (room._first is not None and room._first.waits)


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not fact():
            await asyncio.sleep(0.01)


@pytest.mark.row("RT-25", part="what large bodies take at once is bounded by bytes")
async def test_many_large_bodies_at_once_stay_under_the_bound_while_small_messages_go_on() -> None:
    INSIDE.reset(go_on=False)
    count = FIT + 7
    async with testing.mesh(Painter, shards=4) as mesh:
        room = room_of(mesh)
        for n in range(count):
            await mesh.send(painter(n), Image("x" * SIZE))
        await until(lambda: INSIDE.turns == FIT and waiting(room) == count - FIT)
        assert await mesh.call(AgentId("painter", "other"), Small("here")) == "here"
        for n in range(count):
            await mesh.send(painter(n), Small("after"))
        assert room.held_bytes <= limits.LARGE_BODIES
        INSIDE.go_on.set()
        await mesh.idle()
        assert INSIDE.turns == count
        assert INSIDE.most == FIT * SIZE
        for n in range(count):
            assert (await mesh.state(Painter, f"p{n}")).what == [f"image of {SIZE}", "after"]
        assert (room.held_bytes, room._active) == (0, 0)


@pytest.mark.row("RT-25", part="what large bodies take at once is bounded by bytes")
async def test_a_body_larger_than_all_the_room_is_handled_alone_and_those_behind_it_follow() -> None:
    INSIDE.reset(go_on=True)
    async with testing.mesh(Painter, shards=4) as mesh:
        room = room_of(mesh)
        room._limit = 1_000_000
        for n in range(4):
            await mesh.send(painter(n), Image("x" * (3_000_000 if n == 1 else 300_000)))
        await mesh.idle()
        assert INSIDE.turns == 4
        assert INSIDE.most == 3_000_000
        assert (room.held_bytes, room._active) == (0, 0)


async def test_turns_that_hold_room_and_call_agents_that_want_some_do_not_wait_for_each_other() -> None:
    INSIDE.reset(go_on=True)
    async with testing.mesh(Asker, Painter, shards=4) as mesh:
        room = Room(1_000_000)
        for shard in shards(mesh):  # as where both are agents of one pool
            object.__setattr__(shard._settings, "room", room)
        for n in range(4):
            await mesh.send(AgentId("asker", f"p{n}"), Image("x" * 400_000))
        await mesh.idle()
        for n in range(4):
            assert (await mesh.state(Asker, f"p{n}")).what == ["shown 400000"]
        assert (room.held_bytes, room._active) == (0, 0)


async def test_a_call_that_is_given_up_while_it_waits_for_room_takes_none() -> None:
    INSIDE.reset(go_on=False)
    async with testing.mesh(Painter, shards=1) as mesh:
        room = room_of(mesh)
        room._limit = 1_000_000
        await mesh.send(painter(0), Image("x" * 900_000))
        await until(lambda: INSIDE.turns == 1)
        with pytest.raises(CallTimeout):
            await mesh.call(painter(1), Image("x" * 400_000), timeout=0.1)
        INSIDE.go_on.set()
        await mesh.idle()
        assert INSIDE.turns == 1
        assert (await mesh.state(Painter, "p1")).what == []
        assert (room.held_bytes, room._active) == (0, 0)


async def test_a_shard_is_handed_over_at_once_though_messages_of_it_wait_for_room() -> None:
    INSIDE.reset(go_on=False)
    async with testing.mesh(Painter, shards=2) as mesh:
        room = room_of(mesh)
        room._limit = 1_000_000
        held, other = (
            painter(0),
            next(painter(n) for n in range(1, 9) if mesh._shard(*_of(painter(n))) is not mesh._shard(*_of(painter(0)))),
        )
        await mesh.send(held, Image("x" * 900_000))
        await until(lambda: INSIDE.turns == 1)
        await mesh.send(other, Image("x" * 900_000))
        await until(lambda: waiting(room) == 1)
        shard = mesh._shard(*_of(other))
        assert await shard._turns.wait_idle(0.0)
        shard.release()
        await until(lambda: waiting(room) == 1 and mesh._shard(*_of(other)) is not shard)
        INSIDE.go_on.set()
        await mesh.idle()
        assert (await mesh.state(Painter, other.key)).what == ["image of 900000"]


def _of(agent: AgentId) -> tuple[str, str]:
    return agent.type, agent.key


async def test_room_is_given_by_priority_and_in_order_and_none_overtakes_who_is_next() -> None:
    room = Room(100)

    def asked(size_bytes: int, priority: int = Priority.NORMAL) -> Place:
        return room.share(priority).ask(size_bytes)

    first = asked(60)
    large, small = asked(50), asked(1)
    low, urgent = asked(30, Priority.LOW), asked(30, Priority.URGENT)
    assert [place.waits for place in (first, large, small, low, urgent)] == [False, True, True, True, True]
    first.share.leave()
    assert [place.waits for place in (large, urgent, small, low)] == [False, False, False, True]
    large.share.leave()
    assert not low.waits


async def test_who_gives_up_while_waiting_lets_the_next_one_in() -> None:
    room = Room(100)
    first, large, small = (room.share(1).ask(size) for size in (60, 50, 10))
    waits = asyncio.create_task(large.entered())
    await asyncio.sleep(0)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert not small.waits
    for place in (first, small, small, large):
        place.share.leave()
    assert (room.held_bytes, room._active) == (0, 0)


async def test_a_body_that_is_not_wanted_any_more_gives_its_room_back_and_its_share_keeps_the_rest() -> None:
    room = Room(100)
    share = room.share(1)
    share.ask(60)
    more = share.ask(30)
    other = room.share(1).ask(40)
    assert other.waits
    more.give_up()
    assert (room.held_bytes, share.size_bytes, other.waits) == (100, 60, False)
    share.leave()
    assert room.held_bytes == 40


@given(st.lists(st.tuples(st.sampled_from(["enter", "more", "call", "leave"]), st.integers(0, 7), st.integers(1, 150))))
def test_the_room_is_kept_and_somebody_is_always_let_in(acts: list[tuple[str, int, int]]) -> None:
    async def main() -> None:
        room = Room(100)
        places: dict[Share, list[Place]] = {}
        calling: set[Share] = set()
        for act, which, size in acts:
            share = list(places)[which % len(places)] if places else None
            held = room.held_bytes
            if act == "enter":
                share = room.share(which % 4)
                places[share] = [share.ask(size)]
            elif share is None:
                continue
            elif act == "more":
                places[share].append(share.ask(size))
            elif act == "leave":
                del places[share]
                calling.discard(share)
                share.leave()
            else:
                share.calls(-1 if share in calling else 1)
                calling ^= {share}
            inside = {share: [place for place in of if not place.waits] for share, of in places.items()}
            goes_on = [s for s, of in inside.items() if of and len(of) == len(places[s]) and s not in calling]
            assert room.held_bytes == sum(place.size_bytes for of in inside.values() for place in of)
            assert room._active == len(goes_on)
            assert goes_on or all(len(of) == len(places[share]) for share, of in inside.items())
            assert room.held_bytes <= max(100, held) or len(goes_on) <= 1
        for share in places:
            share.leave()
        assert (room.held_bytes, room._active) == (0, 0)

    asyncio.run(main())
