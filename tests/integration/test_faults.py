"""The owner dies at every step of its work; what was sent takes effect once, whatever step it was."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
from starling import AgentId
from starling.engine.faults import Point

from tests.integration.probes import Passed, Record, Relayed, Tell

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster

BURST, PACED, GROUP = 20, 40, 4
MESSAGES = BURST + PACED
STEPS = [
    *((point, n) for point in (Point.RECORD_SENT, Point.RECORD_ACKED) for n in (1, 2, 3, 5, 20)),
    *((point, n) for point in (Point.ACCEPTED, Point.TURN_DONE) for n in (1, 4, 30)),
    *((point, n) for point in (Point.FRAME_SENT,) for n in (1, 2, 10)),
    *((point, n) for point in (Point.TAKEN, Point.TABLE_SENT, Point.RELEASED) for n in (1, 2)),
    (Point.PURGE_SENT, 1),
]


@pytest.mark.row("RT-2")
@pytest.mark.parametrize(("point", "n"), STEPS, ids=str)
async def test_an_owner_killed_at_any_step_loses_nothing_and_doubles_nothing(
    cluster: Cluster, point: Point, n: int
) -> None:
    """A relay in one shard passes on what comes to a recorder in the other; one pod owns both, and dies."""
    pool = await cluster.pool(shards=2)
    relay, recorder = AgentId("relay", pool.key("relay", 0)), AgentId("recorder", pool.key("recorder", 1))
    await pool.map("w-0")
    first = pool.start("w-0", fault=f"{point}:{n}")
    async with cluster.client() as mesh:

        async def send() -> None:
            for value in range(1, MESSAGES + 1):
                await mesh.send(relay, Relayed(recorder.key, value))
                if value > BURST and value % GROUP == 0:  # few at a time: many commits, and grouped anew after a crash
                    assert (await mesh.call(relay, Tell(), timeout=60)).last == value

        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(send())
            if point is Point.RELEASED:
                await sending
                await pool.owns("w-0", 0, 1)
                first.stop()
            assert await first.ended() == -signal.SIGKILL
            pool.start("w-0")
        passed: Passed = await mesh.call(relay, Tell(), timeout=60)
        assert (passed.passed, passed.last, passed.wrong) == ({recorder.key: MESSAGES}, MESSAGES, 0)
        record = Record()
        async with asyncio.timeout(60):
            while record.count < MESSAGES:
                record = await mesh.call(recorder, Tell(), timeout=60)
        assert (record.count, record.last, record.wrong) == (MESSAGES, {relay.key: MESSAGES}, [])


def test_every_point_is_a_step_of_the_loop() -> None:
    assert {point for point, _ in STEPS} == set(Point)
