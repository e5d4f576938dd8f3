"""Calls whose callers have given up: their turns end or never start, and many at once cost one look at what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import starling.testing
from starling import Agent, AgentId, rpc
from starling.engine.activation import Activation
from starling.errors import CallCancelled

from tests.unit.engine.meshes import in_memory, shards


@dataclass(frozen=True, slots=True)
class GivenUpTake:
    number: int


class GivenUpDesk(Agent[None], type="given_up_desk"):
    """Serves one after the other, the first for as long as the gate is closed."""

    gate: ClassVar[asyncio.Event]
    begun = 0
    served: ClassVar[list[int]]

    @rpc
    async def take(self, order: GivenUpTake) -> int:
        GivenUpDesk.begun += 1
        await GivenUpDesk.gate.wait()
        GivenUpDesk.served.append(order.number)
        return order.number


DESK = AgentId("given_up_desk", "a")


class Counted(dict[AgentId, Activation]):
    """Counts how often somebody looks through all."""

    looks = 0

    def values(self) -> Iterable[Activation]:  # type: ignore[override]
        self.looks += 1
        return super().values()


async def test_many_that_are_given_up_at_once_take_one_look_and_none_of_them_runs() -> None:
    GivenUpDesk.gate, GivenUpDesk.begun, GivenUpDesk.served = asyncio.Event(), 0, []
    async with starling.testing.mesh(GivenUpDesk, shards=1) as mesh:
        calls = [asyncio.create_task(mesh.call(DESK, GivenUpTake(number))) for number in range(100)]
        await _waiting(mesh, 100)
        (owned,) = (shard for shard in shards(mesh) if shard._turns.residents.agents)
        agents = owned._turns._agents = Counted(owned._turns.residents.agents)
        for call in calls[1:90]:
            call.cancel()
        activation = agents[DESK]
        async with asyncio.timeout(10):
            while sum(work.cancelled for work in activation.normal) < 89:
                await asyncio.sleep(0.005)
        assert agents.looks == 1
        owned._turns._agents = owned._turns.residents.agents
        GivenUpDesk.gate.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [answer for answer in answers if isinstance(answer, int)] == [0, *range(90, 100)]
        assert GivenUpDesk.served == [0, *range(90, 100)]


async def test_one_that_has_begun_before_it_was_looked_for_is_stopped() -> None:
    GivenUpDesk.gate, GivenUpDesk.begun, GivenUpDesk.served = asyncio.Event(), 0, []
    async with starling.testing.mesh(GivenUpDesk, shards=1) as mesh:
        first = asyncio.create_task(mesh.call(DESK, GivenUpTake(1)))
        await _waiting(mesh, 1)
        second = asyncio.create_task(mesh.call(DESK, GivenUpTake(2)))
        await _waiting(mesh, 2)
        (owned,) = (shard for shard in shards(mesh) if shard._turns.residents.agents)
        waiting = owned._turns._agents[DESK].normal[1].envelope
        assert waiting is not None
        owned._turns.cancel_call(waiting.id)  # it waits, so that it is looked for in a moment
        assert owned._turns._given_up == {waiting.id}
        assert GivenUpDesk.begun == 1
        GivenUpDesk.gate.set()  # for the one that waits there
        GivenUpDesk.gate.clear()
        assert await first == 1
        async with asyncio.timeout(10):
            while owned._turns._given_up:
                await asyncio.sleep(0.005)
        with pytest.raises(CallCancelled):
            await second
        GivenUpDesk.gate.set()
        await mesh.idle()
        assert GivenUpDesk.served == [1]


async def _waiting(mesh: starling.testing.TestMesh, count: int) -> None:
    async with asyncio.timeout(10):
        while not GivenUpDesk.begun or sum(len(one.normal) for one in in_memory(mesh).values()) < count:
            await asyncio.sleep(0)
