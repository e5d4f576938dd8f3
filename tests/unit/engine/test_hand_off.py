"""A shard that is handed over while an agent of it is in a long turn: what the others notice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import pytest
import starling.testing
from starling import Agent, AgentId, rpc
from starling.core import limits
from starling.testing import TestMesh

from tests.unit.engine.meshes import shards


@dataclass
class Walk:
    """Goes on until the gate is open."""


@dataclass
class Ping:
    text: str


class Walker(Agent[None]):
    gate: ClassVar[asyncio.Event]
    starts: ClassVar[int]

    @rpc
    async def walk(self, message: Walk) -> str:
        Walker.starts += 1
        await Walker.gate.wait()
        return "home"

    @rpc
    async def ping(self, message: Ping) -> str:
        await asyncio.sleep(0)
        return message.text


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Walker.gate, Walker.starts = asyncio.Event(), 0


async def begun(mesh: TestMesh) -> asyncio.Task[object]:
    """A call whose turn has just started and goes on."""
    before = Walker.starts
    call = asyncio.get_running_loop().create_task(mesh.call(AgentId("walker", "long"), Walk(), timeout=600.0))
    async with asyncio.timeout(10):
        while Walker.starts == before:
            await asyncio.sleep(0)
    return call


async def check_others_are_served(mesh: TestMesh) -> None:
    for number in range(20):
        assert await mesh.call(AgentId("walker", f"other{number}"), Ping(f"{number}"), timeout=600.0) == f"{number}"


async def until_released(epoch: int, mesh: TestMesh) -> None:
    async with asyncio.timeout(10):
        while not any(shard.epoch > epoch and shard.serving.is_set() for shard in shards(mesh)):
            await asyncio.sleep(0)


async def test_a_turn_that_has_just_begun_ends_where_it_is_and_holds_up_no_other_agent() -> None:
    async with starling.testing.mesh(Walker, shards=1) as mesh:
        call = await begun(mesh)
        owned = next(shards(mesh))
        owned.release()
        for _ in range(4):
            await check_others_are_served(mesh)
            await mesh.advance(2.0)  # longer than turns get to end once no other starts
            assert next(shards(mesh)) is owned
        Walker.gate.set()
        assert await call == "home"
        await until_released(owned.epoch, mesh)
        assert Walker.starts == 1
        await check_others_are_served(mesh)


async def test_a_turn_that_does_not_end_in_time_is_cancelled_and_runs_again_at_the_next_owner() -> None:
    async with starling.testing.mesh(Walker, shards=1) as mesh:
        call = await begun(mesh)
        owned = next(shards(mesh))
        owned.release()
        await check_others_are_served(mesh)
        await mesh.advance(limits.MOVE_WAIT)
        await mesh.advance(limits.TURN_END_GRACE)
        await until_released(owned.epoch, mesh)
        Walker.gate.set()
        assert await call == "home"
        assert Walker.starts == 2
