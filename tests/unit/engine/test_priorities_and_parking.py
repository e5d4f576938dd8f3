"""Who goes first, and what waits where: priorities with their bound, long turns, messages that end the process."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import starling.testing
from hypothesis import given
from hypothesis import strategies as st
from starling import Agent, AgentId, Context, event, message, rpc
from starling.core import limits
from starling.core.priority import Priority, Ready
from starling.core.retry import RetryPolicy


class Item:
    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = -1


def test_an_urgent_one_is_next_although_a_thousand_wait() -> None:
    ready: Ready[Item] = Ready()
    for number in range(1000):
        ready.push(Item(f"low {number}"), Priority.LOW)
    ready.push(Item("urgent"), Priority.URGENT)
    assert ready.pop().name == "urgent"
    assert ready.pop().name == "low 0"
    assert len(ready) == 999


def test_one_that_waits_moves_up_and_is_started_once() -> None:
    ready: Ready[Item] = Ready()
    first, second = Item("first"), Item("second")
    ready.push(first, Priority.NORMAL)
    ready.push(second, Priority.LOW)
    ready.push(second, Priority.URGENT)
    ready.push(second, Priority.LOW)
    assert [ready.pop().name, ready.pop().name] == ["second", "first"]
    assert not len(ready)
    with pytest.raises(IndexError):
        ready.pop()


@given(st.lists(st.sampled_from(list(Priority)), min_size=1, max_size=200))
def test_whatever_waits_is_started_once_first_come_first_served_within_a_priority(given: list[Priority]) -> None:
    ready: Ready[Item] = Ready()
    for number, priority in enumerate(given):
        ready.push(Item(f"{priority.value} {number}"), priority)
    out = [ready.pop().name for _ in given]
    for priority in Priority:
        assert [n for n in out if n.startswith(str(priority.value))] == [
            f"{p.value} {n}" for n, p in enumerate(given) if p is priority
        ]


@pytest.mark.row("RT-44", part="a low one starts within 64 starts under endless load above", completes=True)
@pytest.mark.parametrize("above", [Priority.NORMAL, Priority.HIGH, Priority.URGENT])
def test_a_low_one_starts_within_sixty_four_starts_under_endless_load_above(above: Priority) -> None:
    ready: Ready[Item] = Ready()
    ready.push(Item("low"), Priority.LOW)
    for _ in range(64):
        ready.push(Item("above"), above)
        ready.push(Item("normal"), Priority.NORMAL)
        if ready.pop().name == "low":
            break
    else:
        pytest.fail("the low one starved")


@message
@dataclass(frozen=True)
class RankNote:
    text: str


@message
@dataclass(frozen=True)
class RankWait:
    """Keeps its agent in a turn until the test lets it go."""


@message
@dataclass(frozen=True)
class RankRead:
    """Asks for the notes."""


@message
@dataclass(frozen=True)
class RankDie:
    """Ends the process."""


@dataclass
class Notes:
    texts: list[str] = field(default_factory=list)


class Ranked(Agent[Notes], type="ranked"):
    """Notes what it hears, in the order of all agents."""

    order: ClassVar[list[str]] = []
    gate: ClassVar[asyncio.Event]
    entered: ClassVar[asyncio.Event]
    deaths: ClassVar[deque[asyncio.Event]]

    @event
    async def note(self, note: RankNote) -> None:
        self.state.texts.append(note.text)
        Ranked.order.append(note.text)

    @event
    async def wait(self, order: RankWait) -> None:
        Ranked.entered.set()
        await Ranked.gate.wait()
        self.state.texts.append("waited")

    @event
    async def die(self, order: RankDie, ctx: Context) -> None:
        Ranked.deaths[0].set()
        await asyncio.Event().wait()

    @rpc
    async def read(self, ask: RankRead) -> list[str]:
        return self.state.texts


A, B = AgentId("ranked", "a"), AgentId("ranked", "b")


def ranked(**options: object) -> AbstractAsyncContextManager[starling.testing.TestMesh]:
    Ranked.order.clear()
    Ranked.gate, Ranked.entered = asyncio.Event(), asyncio.Event()
    Ranked.deaths = deque([asyncio.Event()])
    return starling.testing.mesh(Ranked, shards=1, **options)  # type: ignore[arg-type]


@pytest.mark.row("RT-44", part="with 1000 low messages waiting, an urgent one is the next turn started")
async def test_an_urgent_message_overtakes_a_thousand_low_ones_of_its_agent() -> None:
    async with ranked() as mesh:
        await mesh.send(A, RankWait())
        await Ranked.entered.wait()
        for number in range(1000):
            await mesh.send(A, RankNote(f"low {number}"), priority=Priority.LOW)
        await mesh.send(A, RankNote("urgent"), priority=Priority.URGENT)
        async with asyncio.timeout(10):
            while len(mesh._shard("ranked", "a")._turns._agents[A].urgent or ()) < 1:
                await asyncio.sleep(0.001)
        Ranked.gate.set()
        await mesh.idle()
        texts = await mesh.call(A, RankRead())
        assert texts[:3] == ["waited", "urgent", "low 0"]
        assert texts[2:] == [f"low {number}" for number in range(1000)]


@pytest.mark.row("RT-45", part="other keys go on; a crash repeats only what had not ended")
async def test_a_long_turn_holds_up_only_its_agent_while_the_window_moves_past_it() -> None:
    async with ranked() as mesh:
        await mesh.send(A, RankWait())
        await Ranked.entered.wait()
        await mesh.send(A, RankNote("behind"))
        count = limits.WINDOW + 300  # more positions than the window takes: what is blocked has to make room
        shard = mesh._shard("ranked", "a")
        for number in range(count):
            await mesh.send(B, RankNote(str(number)), id=str(number))  # each in a frame, so at a position, of its own
        for _ in range(2000):
            if len(Ranked.order) == count:
                break
            await mesh.advance(0.5)
        assert shard._due.live, "what was blocked waits as due records"
        await mesh.crash()
        Ranked.gate.set()
        await mesh.idle()
        assert await mesh.call(A, RankRead()) == ["waited", "behind"]
        assert await mesh.call(B, RankRead()) == [str(n) for n in range(count)]


async def test_a_message_that_ends_the_process_ends_as_a_dead_letter_and_what_follows_is_handled() -> None:
    async with ranked(retry=RetryPolicy(attempts=2)) as mesh:
        await mesh.send(A, RankDie())
        await mesh.send(A, RankNote("after"))
        crashes = 0
        while crashes < 20:
            died = Ranked.deaths[0]
            reading = asyncio.ensure_future(died.wait())
            served = asyncio.ensure_future(mesh.idle())
            await asyncio.wait([reading, served], return_when=asyncio.FIRST_COMPLETED)
            for waiting in (reading, served):
                waiting.cancel()
            if not died.is_set():
                break
            Ranked.deaths[0] = asyncio.Event()
            crashes += 1
            await mesh.crash()
        assert 3 <= crashes < 20
        (letter,) = await mesh.dead_letters()
        assert (letter.reason, letter.attempts) == ("WorkerLost", 2)
        await mesh.idle()
        assert await mesh.call(A, RankRead()) == ["after"]
