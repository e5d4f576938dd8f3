"""The store goes away, pods and store are killed at random: what was accepted is handled, once and in order."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from starling import AgentId, Mesh

from tests.integration.probes import Numbered, Passed, Record, Relayed, Tell

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster

OUTAGE = 10.0
KEYS = 20


async def recorded(mesh: Mesh, key: AgentId, count: int, bound: float = 90.0) -> Record:
    """Wait until a recorder has heard of so many, and return its state."""
    async with asyncio.timeout(bound):
        while True:
            record: Record = await mesh.call(key, Tell(), timeout=bound)
            if record.count >= count:
                return record


@pytest.mark.row("RT-26")
async def test_turns_pause_while_the_store_is_away_for_ten_seconds_and_go_on_after_it(
    private_cluster: Cluster,
) -> None:
    pool = await private_cluster.pool(shards=2)
    relay, recorder = AgentId("relay", pool.key("relay", 0)), AgentId("recorder", pool.key("recorder", 1))
    await pool.map("w-0", "w-1")
    pods = [pool.start("w-0"), pool.start("w-1")]
    await pool.owns("w-0", 0)
    await pool.owns("w-1", 1)
    stored = 0
    stop = asyncio.Event()
    async with private_cluster.client() as mesh:

        async def load() -> None:
            nonlocal stored
            while not stop.is_set():
                await mesh.send(relay, Relayed(recorder.key, stored + 1), timeout=60)
                stored += 1

        async def more_than(count: int) -> None:
            async def stored_more() -> bool:
                return stored > count

            await private_cluster.until(stored_more)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load())
            await more_than(100)
            await private_cluster.server.kill()
            before = stored
            await asyncio.sleep(OUTAGE)  # the outage itself
            assert stored <= before + 1
            await private_cluster.server.start()
            await more_than(before + 100)
            stop.set()
        assert [pod.process.poll() for pod in pods] == [None, None]
        async with asyncio.timeout(60):
            passed = Passed()
            while passed.last < stored:
                passed = await mesh.call(relay, Tell(), timeout=60)
        assert (passed.passed, passed.last, passed.wrong) == ({recorder.key: stored}, stored, 0)
        record = await recorded(mesh, recorder, stored)
        assert (record.count, record.last, record.wrong) == (stored, {relay.key: stored}, [])


@pytest.mark.row("RT-1", part="with the store stopped, send raises and nothing is claimed")
async def test_with_the_store_stopped_send_raises_and_claims_nothing(private_cluster: Cluster) -> None:
    pool = await private_cluster.pool()
    recorder = AgentId("recorder", "k")
    await pool.map("w-0")
    pool.start("w-0")
    await pool.owns("w-0", 0)
    async with private_cluster.client() as mesh:
        await mesh.send(recorder, Numbered("me", 1))
        await private_cluster.server.stop()
        with pytest.raises(TimeoutError):
            await mesh.send(recorder, Numbered("me", 2), timeout=1.0)
        await private_cluster.server.start()
        await mesh.send(recorder, Numbered("me", 2), timeout=60)
        record = await recorded(mesh, recorder, 2)
    assert (record.count, record.wrong) == (2, [])


@pytest.mark.row("RT-1", part="10,000 messages while pods and the server are killed at random", completes=True)
@pytest.mark.timeout(240)
async def test_ten_thousand_messages_are_each_handled_once_while_pods_and_server_are_killed_at_random(
    private_cluster: Cluster,
) -> None:
    chance = random.Random(26)
    pool = await private_cluster.pool(shards=4)
    await pool.map("w-0", "w-1", "w-0", "w-1")
    pods = {name: pool.start(name) for name in ("w-0", "w-1")}
    keys = [AgentId("recorder", f"k{n}") for n in range(KEYS)]
    each = 10_000 // KEYS
    sent = 0
    async with private_cluster.client() as mesh:

        async def send(key: AgentId) -> None:
            nonlocal sent
            for value in range(1, each + 1):
                await mesh.send(key, Numbered("me", value), id=f"{key}-{value}", timeout=60)
                sent += 1

        async def kill() -> None:
            for kills in range(1, 9):

                async def further(kills: int = kills) -> bool:
                    return sent >= kills * 10_000 // 10

                await private_cluster.until(further)
                if kills % 4 == 0:
                    await private_cluster.server.restart()
                    continue
                name = chance.choice(sorted(pods))
                pods[name].kill()
                await pods[name].ended()
                pods[name] = pool.start(name)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(kill())
            for key in keys:
                tasks.create_task(send(key))
        assert sent == 10_000
        for key in keys:
            record = await recorded(mesh, key, each)
            assert (record.count, record.last, record.wrong) == (each, {"me": each}, []), key
