"""Clocks of machines that are wrong, or set while pods work: what counts is the time of the store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from starling import Agent, rpc
from starling.adapters.memory import MemoryServer
from starling.agent import definition
from starling.client import Mesh
from starling.context import Context
from starling.core.ids import AgentId, PodName, PoolName, ShardId
from starling.core.membership import ShardMap
from starling.core.routes import PoolRoute, Routes
from starling.engine.shard_info import PoolSettings
from starling.node.worker import Identity, Worker
from starling.provision import PoolStreams, provision_mesh, provision_pool, write_map, write_routes

if TYPE_CHECKING:
    from tests.unit.node.conftest import World

MESH, POOL, EPOCH = "m", PoolName("p"), 1_700_000_000.0
HOUR = 3600.0
"""Seconds."""


@dataclass
class Ask:
    """Asks until when the caller waits."""


@dataclass
class Told:
    deadline: float


class Clerk(Agent[None]):
    @rpc
    async def ask(self, message: Ask, ctx: Context) -> Told:
        assert ctx.deadline is not None
        return Told(ctx.deadline)


@dataclass(slots=True)
class Clock:
    """A machine's clock. error: seconds ahead of the store's."""

    error: float

    def read(self) -> float:
        return EPOCH + asyncio.get_running_loop().time() + self.error


def store_time() -> float:
    return EPOCH + asyncio.get_running_loop().time()


@asynccontextmanager
async def running(pod: Clock, caller: Clock) -> AsyncIterator[Mesh]:
    """A pod and a caller whose clocks are as given."""
    server = MemoryServer(wall=store_time)
    admin = server.connect("admin")
    chance = random.Random(1)
    await provision_mesh(admin, MESH)
    incarnation = await provision_pool(admin, MESH, PoolStreams(POOL, shards=1), known=None, chance=chance)
    await write_map(admin, MESH, POOL, ShardMap(1, {ShardId(0): PodName("p-0")}), over=0)
    routes = Routes(pools={POOL: PoolRoute(POOL, 1, incarnation)}, agent_types={"clerk": POOL})
    await write_routes(admin, MESH, routes, over=0)
    settings = PoolSettings(
        mesh=MESH,
        pool=POOL,
        shards=1,
        incarnation=incarnation,
        agents={"clerk": definition(Clerk)},
        wall=pod.read,
        timer=asyncio.get_running_loop().time,
        chance=chance,
    )
    worker = Worker(server.connect("p-0"), settings, Identity(PodName("p-0"), "s1", "v1"), drain_seconds=0.0)
    task = asyncio.get_running_loop().create_task(worker.run())
    mesh = Mesh(server.connect("caller"), MESH, name="caller", wall=caller.read, chance=chance)
    await mesh.open()
    try:
        yield mesh
    finally:
        await mesh.close()
        worker.stop(at_once=True)
        await task


async def check_call(mesh: Mesh) -> None:
    """A call is answered, and its deadline is ten seconds away by the store's clock."""
    before = store_time()
    told = await mesh.call(AgentId("clerk", "a"), Ask(), timeout=10.0)
    assert isinstance(told, Told)
    assert before + 9.9 < told.deadline < store_time() + 10.1


@pytest.mark.parametrize("pod", [HOUR, -HOUR, 0.0])
@pytest.mark.parametrize("caller", [HOUR, -HOUR, 0.0])
async def test_a_call_is_answered_whatever_the_clocks_say(pod: float, caller: float) -> None:
    async with running(Clock(pod), Clock(caller)) as mesh:
        await check_call(mesh)


async def test_clocks_that_are_set_while_they_work_are_not_noticed() -> None:
    pod, caller = Clock(0.0), Clock(0.0)
    async with running(pod, caller) as mesh:
        await check_call(mesh)
        for error in (HOUR, -2 * HOUR):
            pod.error += error
            caller.error -= error
            await check_call(mesh)


async def test_a_pod_takes_no_shard_before_it_knows_the_time_of_the_store(world: World) -> None:
    await world.pool(1)
    await world.map("p-0")
    pod = world.start("p-0")
    known: list[bool] = []
    pod.worker.ownership.on_take = lambda shard, right: known.append(pod.worker.time.known.is_set())
    await world.until(lambda: pod.owned == {0})
    assert known == [True]
