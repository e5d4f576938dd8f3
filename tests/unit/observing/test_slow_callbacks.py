"""The engine holds up its event loop nowhere: asyncio's debug mode finds no slow callback in a scenario of agents."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

import pytest
import starling.testing
from starling import Agent, AgentId, Context, Topic, event, query, rpc
from starling.core.retry import Backoff, RetryPolicy

TOLD = Topic("slow.told")
BOUND = 60.0
SLOW = 0.5
"""Seconds; what the scenario itself does in one step takes a few milliseconds."""


@dataclass(frozen=True, slots=True)
class SlowWork:
    text: str
    times: int = 0


@dataclass(frozen=True, slots=True)
class SlowAsk:
    key: str


@dataclass(frozen=True, slots=True)
class SlowLook:
    pass


@dataclass
class SlowState:
    texts: list[str] = field(default_factory=list)


class SlowTeller(Agent[SlowState], type="slow_teller", idle=0.2):
    @event
    async def work(self, message: SlowWork, ctx: Context) -> None:
        if ctx.attempt <= message.times:
            raise ValueError(message.text)
        self.state.texts.append(await ctx.step(str.upper, message.text))
        ctx.publish(TOLD(self.id.key), message)
        ctx.set_timer("look", SlowAsk(self.id.key), delay=0.3)

    @event
    async def look(self, message: SlowAsk, ctx: Context) -> None:
        self.state.texts.append(await ctx.call(AgentId("slow_hearer", message.key), message))


class SlowHearer(Agent[SlowState], type="slow_hearer"):
    @event
    async def heard(self, message: SlowWork) -> None:
        self.state.texts.append(message.text)

    @rpc
    async def ask(self, message: SlowAsk) -> str:
        return self.state.texts[-1][:8]

    @query
    async def seen(self, message: SlowLook) -> int:
        return len(self.state.texts)


def slow(records: list[logging.LogRecord]) -> list[str]:
    """What asyncio's debug mode said of callbacks that took too long."""
    return [record.getMessage() for record in records if record.name == "asyncio" and "Executing" in record.msg]


@pytest.fixture
async def debugged() -> None:
    """The test's own loop, in debug mode."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = SLOW


@pytest.mark.row("RT-88", part="asyncio's debug mode finds no slow callback in a scenario of agents", completes=True)
@pytest.mark.usefixtures("debugged")
async def test_no_callback_of_the_engine_is_slow_in_a_scenario_of_agents(caplog: pytest.LogCaptureFixture) -> None:
    retry = RetryPolicy(attempts=3, backoff=Backoff.FIXED, initial=0.1, jitter=False)
    agents = (SlowTeller, SlowHearer)
    keys = [f"k{number}" for number in range(50)]
    with caplog.at_level(logging.WARNING, "asyncio"):
        async with starling.testing.mesh(*agents, subscriptions={"slow.told": SlowHearer}, retry=retry) as mesh:
            for key in keys:
                await mesh.send(AgentId("slow_teller", key), SlowWork("again", times=1))
                await mesh.send(AgentId("slow_teller", key), SlowWork("x" * 20_000))
            await mesh.committed()
            await mesh.crash()
            async with asyncio.timeout(BOUND):  # real time: to push the clock would look like a slow callback
                for key in keys:
                    while len((await mesh.state(SlowTeller, key)).texts) < 3:  # its timer has called
                        await asyncio.sleep(0.01)
            seen = [await mesh.query(AgentId("slow_hearer", key), SlowLook()) for key in keys]
            texts = (await mesh.state(SlowTeller, "k0")).texts
    assert (seen, texts) == ([2] * 50, ["AGAIN", "X" * 20_000, "x" * 8])
    assert slow(caplog.records) == []


@pytest.mark.usefixtures("debugged")
async def test_a_slow_callback_would_be_found(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asyncio"):
        asyncio.get_running_loop().call_soon(time.sleep, SLOW + 0.1)
        await asyncio.sleep(0.01)
    assert len(slow(caplog.records)) == 1
