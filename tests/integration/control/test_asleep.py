"""A pool asleep at zero wakes for what it owes: what was not delivered, and what has come due."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
import starling
from starling import Agent, AgentId, Context, event, message
from starling.adapters.nats import EmbeddedServer
from starling.core.ids import PoolName, ShardId
from starling.core.names import Inlet, Lane, MeshNames, Origin
from starling.core.routes import PoolRoute
from starling.ports.store import Store
from starling.provision import Owing, PoolStreams, provision_pool, shard_streams
from starling_operator.control import PoolReport

from tests.integration.control.pods import BOUND, SHARDS, World, is_whole, pool, target, world

SINKS = PoolName("sinks")
STREAMS = PoolStreams(SINKS, shards=1, mailbox_limit=1, mailbox_bytes=1 << 20)
"""A pool that never has a pod, and room for one frame."""


@message("asleep.Pass")
@dataclass
class Pass:
    delay: float = 0.0


class Courier(Agent[None]):
    @event
    async def pass_on(self, message: Pass, ctx: Context) -> None:
        """Send something to the pool without pods, now or later."""
        if message.delay:
            ctx.set_timer("later", Pass(), delay=message.delay)
        else:
            ctx.send(AgentId("sink", "s"), Pass())


@pytest.fixture
async def mesh(nats_server: EmbeddedServer) -> AsyncIterator[World]:
    async with world(nats_server.url, "asleep") as made:
        made.pods.agents, made.pods.dedupe_window = (Courier,), 0.3
        await made.control.route([COURIERS], [])
        await with_sinks(made)
        yield made
        await made.mesh.remove(SINKS, 1, data=True)


COURIERS = pool(agents=[{"type": "courier", "entrypoint": "test_asleep:Courier"}])
MAY_SLEEP = target(
    minReplicas=0, signals=[{"type": "LagPerPod", "target": "100"}], behavior={"stabilizationSeconds": 0}
)


def store_of(mesh: World) -> Store:
    return mesh.mesh._store


async def with_sinks(mesh: World) -> None:
    """Make the pool without pods, and a route to it."""
    chance = random.Random(2)
    incarnation = await provision_pool(store_of(mesh), mesh.mesh.mesh, STREAMS, known=None, chance=chance)
    revision, routes = await mesh.mesh.routes()
    sinks = PoolRoute(SINKS, STREAMS.shards, incarnation)
    added = replace(routes, pools={**routes.pools, SINKS: sinks}, agent_types={**routes.agent_types, "sink": SINKS})
    assert await mesh.mesh.write_routes(added, over=revision)


async def arrived(mesh: World) -> int:
    """Frames in the mailbox of the pool without pods."""
    names = MeshNames(mesh.mesh.mesh).pool(SINKS)
    subject = names.inlet_subject(ShardId(0), Inlet(Origin.FRAMES, Lane.NORMAL))
    return len(await store_of(mesh).page(names.mailbox(ShardId(0)), subject, 1))


async def make_room(mesh: World) -> None:
    names = MeshNames(mesh.mesh.mesh).pool(SINKS)
    _, mailbox = shard_streams(names, ShardId(0), replace(STREAMS, mailbox_limit=100), ())
    await store_of(mesh).ensure_stream(mailbox)


async def handled(mesh: World, *passes: Pass) -> None:
    """Have one courier handle messages while a pod is there, each on its own: two of one commit would share a frame."""
    await mesh.until(COURIERS, is_whole(2), MAY_SLEEP)
    async with starling.connect(mesh.url, mesh=mesh.mesh.mesh) as client, asyncio.timeout(BOUND):
        for one in passes:
            await client.send(AgentId("courier", "c"), one)
            while await mesh.mesh.waiting("tickers", SHARDS):
                await asyncio.sleep(0.1)


async def falls_asleep(mesh: World) -> None:
    mesh.loads.set(*[0.0] * SHARDS)
    await mesh.until(COURIERS, is_asleep, MAY_SLEEP)
    mesh.loads.now = None
    assert await mesh.mesh.waiting("tickers", SHARDS) == 0


def is_asleep(report: PoolReport) -> bool:
    return (report.replicas, report.shards_owned) == (0, 0)


@pytest.mark.row("CP-11", part="what was not delivered wakes a pool without pods")
async def test_a_pool_at_zero_wakes_for_what_it_has_not_delivered_and_sleeps_on_once_it_has(mesh: World) -> None:
    await handled(mesh, Pass(), Pass())
    assert await arrived(mesh) == 1
    await falls_asleep(mesh)
    assert await arrived(mesh) == 1
    assert await mesh.mesh.owing("tickers", SHARDS) == Owing(undelivered=1)

    await make_room(mesh)
    await mesh.until(COURIERS, is_whole(1), MAY_SLEEP)
    async with asyncio.timeout(BOUND):
        while await arrived(mesh) < 2:
            await asyncio.sleep(0.1)
    await falls_asleep(mesh)
    assert await mesh.mesh.owing("tickers", SHARDS) == Owing()
    assert is_asleep(await mesh.control.look(COURIERS, MAY_SLEEP, {}))


@pytest.mark.row("CP-11", part="a timer that is due wakes a pool without pods")
async def test_a_pool_at_zero_wakes_when_a_timer_is_due_and_not_before(mesh: World) -> None:
    delay = 15.0
    begun = asyncio.get_running_loop().time()
    await handled(mesh, Pass(delay))
    await falls_asleep(mesh)
    while asyncio.get_running_loop().time() - begun < delay - 1.0:
        assert is_asleep(await mesh.control.look(COURIERS, MAY_SLEEP, {}))
        await asyncio.sleep(0.2)
    assert await arrived(mesh) == 0
    await mesh.until(COURIERS, is_whole(1), MAY_SLEEP)
    async with asyncio.timeout(BOUND):
        while await arrived(mesh) < 1:
            await asyncio.sleep(0.1)
    await falls_asleep(mesh)
    assert await mesh.mesh.owing("tickers", SHARDS) == Owing()
