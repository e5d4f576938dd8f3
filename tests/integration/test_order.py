"""Messages of one sender to one agent are handled in the order sent, whatever happens on the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from starling import AgentId

from tests.integration.probes import Numbered, Passed, Record, Relayed, Tell

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster


@pytest.mark.row("RT-3")
async def test_a_thousand_messages_arrive_in_order_over_a_move_a_kill_and_a_retry(cluster: Cluster) -> None:
    pool = await cluster.pool(shards=1)
    recorder = AgentId("recorder", "k")
    await pool.map("w-0")
    pool.start("w-0")
    second = pool.start("w-1")
    await pool.owns("w-0", 0)
    async with cluster.client() as mesh:

        async def handled(count: int) -> Record:
            async with asyncio.timeout(60):
                while True:
                    record: Record = await mesh.call(recorder, Tell(), timeout=60)
                    if record.count >= count:
                        return record

        async def send() -> None:
            for value in range(1, 1001):
                await mesh.send(recorder, Numbered("me", value, fails=2 if value == 700 else 0))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            await handled(200)
            await pool.map("w-1")
            await pool.owns("w-1", 0)
            await handled(400)
            second.kill()
            await second.ended()
            pool.start("w-1")
        record = await handled(1000)
    assert (record.count, record.last, record.wrong) == (1000, {"me": 1000}, [])


@pytest.mark.row("RT-3")
async def test_what_an_agent_sends_arrives_in_order_while_both_sides_move_and_die(cluster: Cluster) -> None:
    pool = await cluster.pool(shards=2)
    relay, recorder = AgentId("relay", pool.key("relay", 0)), AgentId("recorder", pool.key("recorder", 1))
    await pool.map("w-0", "w-1")
    pods = {name: pool.start(name) for name in ("w-0", "w-1")}
    await pool.owns("w-0", 0)
    await pool.owns("w-1", 1)
    async with cluster.client() as mesh:

        async def passed(count: int) -> Passed:
            async with asyncio.timeout(60):
                while True:
                    state: Passed = await mesh.call(relay, Tell(), timeout=60)
                    if state.last >= count:
                        return state

        async def send() -> None:
            for value in range(1, 1001):
                await mesh.send(relay, Relayed(recorder.key, value))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            await passed(150)
            await pool.map("w-1", "w-0")
            await pool.owns("w-0", 1)
            await pool.owns("w-1", 0)
            for count, name in ((300, "w-1"), (500, "w-0")):
                await passed(count)
                pods[name].kill()
                await pods[name].ended()
                pods[name] = pool.start(name)
        state = await passed(1000)
        assert (state.passed, state.last, state.wrong) == ({recorder.key: 1000}, 1000, 0)
        record = Record()
        async with asyncio.timeout(60):
            while record.count < 1000:
                record = await mesh.call(recorder, Tell(), timeout=60)
    assert (record.count, record.last, record.wrong) == (1000, {relay.key: 1000}, [])
