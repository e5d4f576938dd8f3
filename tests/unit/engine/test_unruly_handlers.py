"""Handlers that do what no handler should: the message fails, its agent and its shard go on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import pytest
from starling import Agent, Context, Topic, event, rpc
from starling.engine.overdue import AGAIN, PATIENCE
from starling.errors import CallTimeout, HandlerFailed, SpecError
from starling.testing import mesh

GO_ON = asyncio.Event()
LEFT_BEHIND: list[asyncio.Task[None]] = []


@dataclass
class Misbehave:
    how: str


@dataclass
class Behave: ...


@dataclass
class Turns:
    good: int = 0


class Abort(BaseException):
    """As libraries in other languages raise for a panic of theirs."""


class Unruly(Agent[Turns]):
    @rpc
    async def misbehave(self, message: Misbehave, ctx: Context) -> None:
        self.state.good += 100
        if message.how == "cancels itself":
            current = asyncio.current_task()
            assert current is not None
            current.cancel()
        while message.how == "swallows its cancellation" and not GO_ON.is_set():
            try:
                await GO_ON.wait()
            except asyncio.CancelledError:
                continue
        await asyncio.sleep(0)
        if message.how == "raises GeneratorExit":
            raise GeneratorExit("closed")
        raise Abort("no more")

    @event
    async def abort(self, message: Misbehave) -> None:
        raise GeneratorExit("early") if message.how == "GeneratorExit" else Abort(message.how)

    @rpc
    async def behave(self, message: Behave) -> int:
        self.state.good += 1
        return self.state.good

    @event
    async def leave_behind(self, message: Behave, ctx: Context) -> None:
        LEFT_BEHIND.extend(
            asyncio.create_task(late(ctx, use)) for use in ("send", "publish", "destroy", "call", "step")
        )


async def late(ctx: Context, use: str) -> None:
    """Use the context of a turn that has ended by then."""
    await asyncio.sleep(1)
    match use:
        case "send":
            ctx.agent(Unruly, "other").abort(Misbehave("lost"))
        case "publish":
            ctx.publish(Topic("unruly")("x"), Behave())
        case "destroy":
            ctx.destroy()
        case "call":
            await ctx.agent(Unruly, "other").behave(Behave())
        case "step":
            await ctx.step(len, "x")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises what is no Exception", "the handler raised Abort, which is no Exception: no more"),
        ("raises GeneratorExit", "the handler raised GeneratorExit, which is no Exception: closed"),
        ("cancels itself", "was cancelled"),
    ],
)
async def test_a_turn_fails_and_the_next_message_of_the_agent_is_handled(how: str, says: str) -> None:
    async with mesh(Unruly) as mine:
        agent = mine.agent(Unruly, "a")
        with pytest.raises(HandlerFailed, match=says):
            await agent.misbehave(Misbehave(how))
        assert await agent.behave(Behave()) == 1


@pytest.mark.parametrize(
    ("how", "says"), [("panic", "Abort, which is no Exception: panic"), ("GeneratorExit", "GeneratorExit, which is")]
)
async def test_an_event_whose_handler_raises_what_is_no_exception_becomes_a_dead_letter(how: str, says: str) -> None:
    async with mesh(Unruly) as mine:
        await mine.agent(Unruly, "a").abort(Misbehave(how))
        await mine.idle()
        for _ in range(5):  # attempts, with a pause of at most a minute between two
            await mine.advance(61)
            await mine.idle()
        (letter,) = await mine.dead_letters()
        assert says in letter.text
        assert letter.attempts == 5
        assert await mine.agent(Unruly, "a").behave(Behave()) == 1


async def test_a_task_that_outlives_its_turn_hears_that_it_can_send_nothing() -> None:
    LEFT_BEHIND.clear()
    async with mesh(Unruly) as mine:
        await mine.agent(Unruly, "a").leave_behind(Behave())
        await mine.idle()
        await mine.advance(5)
        ended = await asyncio.gather(*LEFT_BEHIND, return_exceptions=True)
        assert len(ended) == 5
        for error in ended:
            assert isinstance(error, SpecError)
            assert error.field == "ctx"
            assert "after the turn has ended" in error.problem


async def test_a_handler_that_swallows_its_cancellation_is_named_once_a_minute_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    GO_ON.clear()
    try:
        await swallows(caplog)
    finally:
        GO_ON.set()


async def swallows(caplog: pytest.LogCaptureFixture) -> None:
    async with mesh(Unruly, shards=1) as mine:
        with pytest.raises(CallTimeout):
            await mine.agent(Unruly, "a").misbehave(Misbehave("swallows its cancellation"), timeout=0.05)
        shard = mine._shard("unruly", "a")

        def said() -> list[logging.LogRecord]:
            return [r for r in caplog.records if "swallowed its cancellation" in r.getMessage()]

        shard._overdue.look()
        assert said() == []
        await mine.advance(PATIENCE + 1)
        for _ in range(500):
            if said():
                break
            await asyncio.sleep(0.01)
        await mine.advance(10.0)
        shard._overdue.look()
        assert len(said()) == 1
        await mine.advance(AGAIN)
        shard._overdue.look()
        line, _ = said()
        assert (line.agent, line.handler) == ("unruly/a", "Unruly.misbehave")  # type: ignore[attr-defined]
        assert shard.stats.overdue_turns == {"unruly": 1}
        GO_ON.set()
        assert await mine.agent(Unruly, "a").behave(Behave()) == 1
