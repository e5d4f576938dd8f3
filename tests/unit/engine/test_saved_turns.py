"""What a turn saves: steps and calls are made once, over attempts and crashes; calls that are repeated or given up."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import starling.testing
from starling import Agent, AgentId, Context, event, message, rpc
from starling.core.retry import RetryPolicy
from starling.errors import CallCancelled, CallTimeout, HandlerFailed


@message
@dataclass(frozen=True)
class SavedGo:
    what: str
    fails: int = 0


@message
@dataclass(frozen=True)
class SavedAdd:
    amount: int = 1
    what: str = ""


@message
@dataclass(frozen=True)
class SavedRead:
    """Asks for the state."""


@dataclass
class SavedState:
    answers: list[int] = field(default_factory=list)


@dataclass
class Sum:
    total: int = 0


class Caller(Agent[SavedState], type="saved_caller"):
    """Calls a counter, and does steps."""

    fails: ClassVar[int] = 0
    steps: ClassVar[int] = 0
    gate: ClassVar[asyncio.Event]

    @event
    async def go(self, order: SavedGo, ctx: Context) -> None:
        if order.what == "step":
            self.state.answers.append(await ctx.step(work, 7))
        elif order.what == "twice":
            await ctx.step(work, 1)
            await ctx.step(work, 2)
        elif order.what == "named":
            self.state.answers.append(await ctx.named_step("a", work, 1))
            self.state.answers.append(await ctx.named_step("b", work, 2))
        elif order.what == "other":
            amount = 1 if Caller.fails else 2
            self.state.answers.append(await ctx.call(AgentId("saved_counter", "c"), SavedAdd(amount)))
        else:
            self.state.answers.append(await ctx.call(AgentId("saved_counter", "c"), SavedAdd(), timeout=60))
            self.state.answers.append(await ctx.call(AgentId("saved_counter", "c"), SavedAdd(10), timeout=60))
        if order.what == "hangs":
            await Caller.gate.wait()
        if Caller.fails:
            Caller.fails -= 1
            raise ValueError(order.what)

    @rpc
    async def read(self, ask: SavedRead) -> list[int]:
        return self.state.answers


async def work(amount: int) -> int:
    Caller.steps += 1
    return amount


class Counter(Agent[Sum], type="saved_counter"):
    """Adds up."""

    entered: ClassVar[asyncio.Event]
    left: ClassVar[list[str]] = []

    @rpc
    async def add(self, order: SavedAdd, ctx: Context) -> int:
        if order.what == "sleep":
            Counter.entered.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                Counter.left.append("cancelled")
                raise
        if order.what == "fail":
            raise ValueError("no")
        self.state.total += order.amount
        return self.state.total


A = AgentId("saved_caller", "a")
C = AgentId("saved_counter", "c")
POLICY = RetryPolicy(attempts=4, initial=2.0, jitter=False)


def callers() -> AbstractAsyncContextManager[starling.testing.TestMesh]:
    Caller.fails = Caller.steps = 0
    Caller.gate = asyncio.Event()
    Counter.entered = asyncio.Event()
    Counter.left.clear()
    return starling.testing.mesh(Caller, Counter, shards=2, retry=POLICY)


async def total(mesh: starling.testing.TestMesh) -> int:
    return (await mesh.state(Counter, "c")).total  # type: ignore[no-any-return]


@pytest.mark.row("RT-46", part="the repeated turn uses the recorded result; two steps of one name are refused")
async def test_a_step_is_done_once_for_all_attempts_of_a_turn() -> None:
    async with callers() as mesh:
        Caller.fails = 3
        await mesh.send(A, SavedGo("step"))
        for _ in range(3):
            await mesh.committed()
            await mesh.crash()
            await mesh.advance(60)
        await mesh.idle()
        assert await mesh.call(A, SavedRead()) == [7]
        assert Caller.steps == 1
        await mesh.send(A, SavedGo("named"))
        await mesh.idle()
        assert await mesh.call(A, SavedRead()) == [7, 1, 2]
        await mesh.send(A, SavedGo("twice"))
        await mesh.idle()
        (letter,) = await mesh.dead_letters()
        assert "already" in letter.text


async def test_a_saved_step_is_forgotten_with_the_end_of_its_turn() -> None:
    async with callers() as mesh:
        await mesh.send(A, SavedGo("step"))
        await mesh.send(A, SavedGo("step"))
        await mesh.idle()
        assert Caller.steps == 2
        shard = mesh._shard("saved_caller", "a")
        assert not [key for key in shard.table.overlay.entries if ".s." in key]


@pytest.mark.row("RT-16", part="a repeated turn makes the same call, and it counts once")
async def test_calls_of_a_turn_that_is_repeated_after_a_crash_count_once() -> None:
    async with callers() as mesh:
        await mesh.send(A, SavedGo("hangs"))
        while await total(mesh) != 11:  # both calls were handled, the turn still runs
            await asyncio.sleep(0.001)
        await mesh.crash()
        Caller.gate.set()
        await mesh.idle()
        assert await mesh.call(A, SavedRead()) == [1, 11]
        assert await total(mesh) == 11


async def test_calls_of_an_attempt_that_failed_are_not_made_again() -> None:
    async with callers() as mesh:
        Caller.fails = 2
        await mesh.send(A, SavedGo("calls"))
        await mesh.committed()
        await mesh.crash()
        for _ in range(3):
            await mesh.advance(60)
            await mesh.committed()
        await mesh.idle()
        assert await mesh.call(A, SavedRead()) == [1, 11]
        assert await total(mesh) == 11


async def test_a_turn_that_calls_something_else_the_second_time_is_no_answer_to_the_first() -> None:
    async with callers() as mesh:
        Caller.fails = 1
        await mesh.send(A, SavedGo("other"))
        await mesh.committed()
        await mesh.advance(60)
        await mesh.idle()
        (letter,) = await mesh.dead_letters()
        assert letter.reason == "NotDeterministic"
        assert await total(mesh) == 1


@pytest.mark.row("RT-16", part="the repeated call gets the first reply")
async def test_a_call_with_an_id_is_handled_once_and_answered_again() -> None:
    async with callers() as mesh:
        assert await mesh.call(C, SavedAdd(), id="once") == 1
        assert await mesh.call(C, SavedAdd(), id="once") == 1
        await mesh.crash()
        assert await mesh.call(C, SavedAdd(), id="once") == 1
        assert await mesh.call(C, SavedAdd(), id="twice") == 2
        assert await total(mesh) == 2


async def test_a_recorded_reply_is_forgotten_when_nobody_can_ask_for_it_any_more() -> None:
    async with callers() as mesh:
        await mesh.call(C, SavedAdd(), id="once", timeout=5)
        shard = mesh._shard("saved_counter", "c")
        assert len(shard._due.live) == 1
        await mesh.advance(120)
        await mesh.call(C, SavedAdd())  # the store's time has passed as well
        await mesh.advance(10)
        await mesh.idle()  # nobody waits for it: it goes with the next look for what is left
        assert not mesh._shard("saved_counter", "c")._due.live


@pytest.mark.row("RT-22", part="cancelling at the caller stops a sleeping handler; an expired message is not started")
async def test_a_call_that_is_given_up_stops_its_handler_in_another_pod() -> None:
    async with callers() as mesh:
        asking = asyncio.ensure_future(mesh.call(C, SavedAdd(what="sleep"), timeout=600))
        await Counter.entered.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(5):
            while not Counter.left:
                await asyncio.sleep(0.001)
        await mesh.idle()
        assert await mesh.call(C, SavedAdd()) == 1


async def test_a_handler_that_fails_and_a_deadline_reach_the_caller() -> None:
    async with callers() as mesh:
        with pytest.raises(HandlerFailed, match="ValueError: no"):
            await mesh.call(C, SavedAdd(what="fail"))
        with pytest.raises((CallTimeout, CallCancelled)):
            await mesh.call(C, SavedAdd(what="sleep"), timeout=0.2)
        await mesh.idle()
        assert await total(mesh) == 0
