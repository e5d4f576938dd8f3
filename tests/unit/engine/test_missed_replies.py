"""A reply that is lost on its way to its caller: the caller asks for it, and the turn does not run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import starling.testing
from starling import Agent, AgentId, Context, event, message, rpc
from starling.core import limits
from starling.engine.calls import Calls
from starling.errors import CallTimeout
from starling.testing import TestMesh

from .meshes import shards


@message
@dataclass(frozen=True, slots=True)
class MissedAdd:
    amount: int


@message
@dataclass(frozen=True, slots=True)
class MissedAsk:
    """Makes an asker call the adder."""


@message
@dataclass(frozen=True, slots=True)
class MissedLarge:
    """Wants an answer that is too large for a message."""


@dataclass
class MissedSum:
    total: int = 0


@dataclass
class MissedHeard:
    totals: list[int] = field(default_factory=list)


class Adder(Agent[MissedSum], type="missed_adder"):
    """Adds when its gate is open."""

    gate: ClassVar[asyncio.Event]
    begun: ClassVar[int] = 0

    @rpc
    async def add(self, order: MissedAdd) -> int:
        type(self).begun += 1
        await self.gate.wait()
        self.state.total += order.amount
        return self.state.total

    @rpc
    async def large(self, order: MissedLarge) -> str:
        type(self).begun += 1
        await self.gate.wait()
        return "x" * (limits.MAX_BODY + 1)


class Asker(Agent[MissedHeard], type="missed_asker"):
    @event
    async def ask(self, order: MissedAsk, ctx: Context) -> None:
        self.state.totals.append(await ctx.call(AgentId("missed_adder", "a"), MissedAdd(5)))


@pytest.fixture(autouse=True)
def closed_gate() -> None:
    Adder.gate = asyncio.Event()
    Adder.begun = 0


async def begun(count: int) -> None:
    async with asyncio.timeout(10):
        while Adder.begun < count:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def away(mesh: TestMesh, calls: Calls) -> AsyncIterator[None]:
    """The caller hears nothing of what is sent until the turns that run are committed."""
    assert calls._subscription is not None
    await calls._subscription.close()
    yield
    await mesh.idle()
    await calls.open()


async def test_a_caller_that_was_away_asks_for_its_reply() -> None:
    async with starling.testing.mesh(Adder, shards=1) as mesh:
        call = asyncio.ensure_future(mesh.call(AgentId("missed_adder", "a"), MissedAdd(5)))
        await begun(1)
        async with away(mesh, mesh._calls):
            Adder.gate.set()
        assert not call.done()
        await mesh.advance(limits.ASK_AGAIN + 1)
        async with asyncio.timeout(10):
            assert await call == 5
        assert (await mesh.state(Adder, "a")).total == 5
    assert Adder.begun == 1


async def test_callers_whose_replies_travelled_together_each_get_their_own() -> None:
    async with starling.testing.mesh(Adder, shards=1) as mesh:
        (shard,) = shards(mesh)
        calls = [asyncio.ensure_future(mesh.call(AgentId("missed_adder", f"a{n}"), MissedAdd(n))) for n in range(20)]
        await begun(20)
        async with away(mesh, mesh._calls), shard._committer.no_record():
            Adder.gate.set()
            while len(shard._turns.outcomes) < 20:
                await asyncio.sleep(0)
        await mesh.advance(limits.ASK_AGAIN + 1)
        async with asyncio.timeout(10):
            assert await asyncio.gather(*calls) == list(range(20))


async def test_a_missed_answer_that_is_too_large_for_a_message_is_still_there() -> None:
    async with starling.testing.mesh(Adder, shards=1) as mesh:
        call = asyncio.ensure_future(mesh.call(AgentId("missed_adder", "a"), MissedLarge(), timeout=300))
        await begun(1)
        async with away(mesh, mesh._calls):
            Adder.gate.set()
            await mesh.idle()
            await mesh.advance(100)
        await mesh.advance(limits.ASK_AGAIN_CAP + 1)
        async with asyncio.timeout(10):
            assert await call == "x" * (limits.MAX_BODY + 1)
    assert Adder.begun == 1


async def test_an_agent_asks_for_the_reply_to_its_call() -> None:
    async with starling.testing.mesh(Adder, Asker, shards=1) as mesh:
        asker, adder = mesh._shard("missed_asker", "k"), mesh._shard("missed_adder", "a")
        await mesh.send(AgentId("missed_asker", "k"), MissedAsk())
        await begun(1)
        calls = asker._turns._calls
        assert calls._subscription is not None
        await calls._subscription.close()
        records = adder.stats.commits
        Adder.gate.set()
        async with asyncio.timeout(10):
            while adder.stats.commits == records:
                await asyncio.sleep(0.001)
        await calls.open()
        await mesh.advance(limits.ASK_AGAIN + 1)
        await mesh.idle()
        assert (await mesh.state(Asker, "k")).totals == [5]
        assert (await mesh.state(Adder, "a")).total == 5
    assert Adder.begun == 1


async def test_the_next_owner_sends_again_what_the_last_record_answers() -> None:
    async with starling.testing.mesh(Adder, shards=1) as mesh:
        call = asyncio.ensure_future(mesh.call(AgentId("missed_adder", "a"), MissedAdd(5)))
        await begun(1)
        async with away(mesh, mesh._calls):
            Adder.gate.set()
            await mesh.idle()
            await mesh.crash()
        await mesh.advance(limits.ASK_AGAIN + 1)
        async with asyncio.timeout(10):
            assert await call == 5


async def test_who_asks_hears_nothing_new_while_the_turn_runs_and_gives_up_at_the_deadline() -> None:
    async with starling.testing.mesh(Adder, shards=1) as mesh:
        asked: list[bytes] = []
        await mesh._store.listen("st.*.*.again.*", lambda signal: asked.append(signal.data))
        call = asyncio.ensure_future(mesh.call(AgentId("missed_adder", "a"), MissedAdd(5), timeout=40))
        await begun(1)
        for seconds, times in ((4, 0), (2, 1), (9, 1), (2, 2), (19, 2)):  # after 5 s, and after 10 s more
            await mesh.advance(seconds)
            assert not call.done()
            assert len(asked) == times
        assert len(set(asked)) == 1
        await mesh.advance(10)
        with pytest.raises(CallTimeout):
            async with asyncio.timeout(10):
                await call
