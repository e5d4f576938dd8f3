"""Snapshots, purges and the table under load: the journal stays small, and an owner that knows only them knows all."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from starling import AgentId, Mesh
from starling.adapters.nats import connect
from starling.agent import definition
from starling.core import limits
from starling.core.ids import PodName, ShardId
from starling.core.names import bucket_stream, bucket_subject, cell_key
from starling.core.overlay import TableValue
from starling.core.record import Kind, Record
from starling.engine.shard_info import PoolSettings
from starling.node.worker import Identity, Worker

from tests.integration import probes
from tests.integration.probes import Numbered, Passed, Relayed, Tell

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster, Pool

EVERY = 40
BOUND = 60.0


@asynccontextmanager
async def pod(cluster: Cluster, pool: Pool, start: str, *, crash: bool = True) -> AsyncIterator[Worker]:
    """A worker in this process; at the end it is dropped where it stands, or stopped in order."""
    settings = PoolSettings(
        mesh=cluster.mesh,
        pool=pool.name,
        shards=pool.shards,
        incarnation=pool.incarnation,
        agents={kind.lower(): definition(getattr(probes, kind)) for kind in ("Recorder", "Relay")},
        wall=time.time,
        timer=time.perf_counter,
        chance=random.Random(1),
    )
    store = await connect(cluster.server.url, name=start)
    worker = Worker(store, settings, Identity(PodName("w-0"), start, "v1"), drain_seconds=0.0)
    running = asyncio.get_running_loop().create_task(worker.run())
    try:
        yield worker
        if not crash:
            worker.stop()
            await asyncio.wait([running], timeout=BOUND)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()


async def records(cluster: Cluster, pool: Pool, shard: int) -> dict[int, Record]:
    """Return what the journal of a shard holds, by sequence."""
    found: dict[int, Record] = {}
    stream, subject = pool.names.journal(ShardId(shard)), pool.names.journal_subject(ShardId(shard))
    first = 1
    while page := await cluster.store.page(stream, subject, first):
        found.update((message.sequence, Record.decode(message.data)) for message in page)
        first = page[-1].sequence + 1
    return found


async def in_table(cluster: Cluster, pool: Pool, shard: int, agent: AgentId) -> TableValue | None:
    """Return the agent's state as the table has it."""
    subject = bucket_subject(pool.names.table, cell_key(ShardId(shard), agent, "state"))
    message = await cluster.store.last(bucket_stream(pool.names.table), subject)
    return TableValue.decode(message.data) if message else None


class Flow:
    """Numbers that a relay in one shard passes on to a recorder in the other; each is a commit of its own."""

    def __init__(self, mesh: Mesh, pool: Pool) -> None:
        self.mesh = mesh
        self.relay = AgentId("relay", pool.key("relay", 0))
        self.recorder = AgentId("recorder", pool.key("recorder", 1))
        self.sent = 0

    async def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            await self.mesh.send(self.relay, Relayed(self.recorder.key, self.sent))
            await self.mesh.call(self.relay, Tell(), timeout=BOUND)

    async def check(self) -> None:
        """Wait until all has arrived, and fail on anything that came twice, or not, or out of order."""
        passed: Passed = await self.mesh.call(self.relay, Tell(), timeout=BOUND)
        assert (passed.passed, passed.last, passed.wrong) == ({self.recorder.key: self.sent}, self.sent, 0)
        async with asyncio.timeout(BOUND):
            count = 0
            while count < self.sent:
                record = await self.mesh.call(self.recorder, Tell(), timeout=BOUND)
                count = record.count
        assert (record.count, record.last, record.wrong) == (self.sent, {self.relay.key: self.sent}, [])


async def test_the_journal_stays_small_under_load_and_every_owner_goes_on_exactly(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_RECORDS", EVERY)
    pool = await cluster.pool(shards=2)
    await pool.map("w-0")
    longest = 0
    async with cluster.client() as mesh:
        flow = Flow(mesh, pool)
        for owner in range(4):
            async with pod(cluster, pool, f"start-{owner}"):
                await flow.send(5 * EVERY)
                await flow.check()

                async def purged() -> bool:
                    nonlocal longest
                    kept = await records(cluster, pool, 0)
                    longest = max(longest, len(kept))
                    snapshots = [sequence for sequence, record in kept.items() if record.kind is Kind.SNAPSHOT]
                    return bool(snapshots) and min(kept) >= max(snapshots) - EVERY

                await cluster.until(purged)
        last = max(await records(cluster, pool, 0))
    assert last > 4 * 5 * EVERY
    assert longest < last / 2


async def test_a_state_whose_records_are_purged_is_read_from_the_table(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_RECORDS", EVERY)
    pool = await cluster.pool(shards=2)
    old, busy = AgentId("recorder", pool.key("recorder", 0)), AgentId("relay", pool.key("relay", 0))
    await pool.map("w-0")
    async with cluster.client() as mesh:
        flow = Flow(mesh, pool)
        assert flow.relay == busy
        async with pod(cluster, pool, "first"):
            for value in range(1, 8):
                await mesh.send(old, Numbered("me", value))
            assert (await mesh.call(old, Tell(), timeout=BOUND)).count == 7

            async def written() -> bool:
                value = await in_table(cluster, pool, 0, old)
                return value is not None and b'"count":7' in (value.data or b"")

            await cluster.until(written)

            async def forgotten() -> bool:
                await flow.send(10)
                kept = await records(cluster, pool, 0)
                return all(old.key not in key for record in kept.values() for key in record.cells)

            await cluster.until(forgotten)
        async with pod(cluster, pool, "second"):
            record = await mesh.call(old, Tell(), timeout=BOUND)
            assert (record.count, record.last, record.wrong) == (7, {"me": 7}, [])
            await mesh.send(old, Numbered("me", 8))
            assert (await mesh.call(old, Tell())).count == 8
            await flow.check()


async def test_a_hot_agent_costs_the_table_few_writes_and_ends_there_with_its_last_state(cluster: Cluster) -> None:
    pool = await cluster.pool(shards=2)
    await pool.map("w-0")
    async with cluster.client() as mesh:
        flow = Flow(mesh, pool)
        async with pod(cluster, pool, "first"):
            await flow.send(200)

            async def written() -> bool:
                value = await in_table(cluster, pool, 0, flow.relay)
                return value is not None and b'"last":200' in (value.data or b"")

            await cluster.until(written)
            info = await cluster.store.stream_info(bucket_stream(pool.names.table))
            assert info is not None
            assert info.last_sequence < 60  # marks and all: a write a second or so for each of two cells


async def test_a_table_that_is_ahead_of_the_journal_stops_the_owner(cluster: Cluster) -> None:
    """It would mean that the journal is an old copy: nothing may be written over the newer state."""
    pool = await cluster.pool()
    recorder = AgentId("recorder", "k")
    newer = TableValue(10_000, 1, b'{"count":99}')
    subject = bucket_subject(pool.names.table, cell_key(ShardId(0), recorder, "state"))
    await (await cluster.store.publish(subject, newer.encode()))
    await pool.map("w-0")
    async with cluster.client() as mesh, pod(cluster, pool, "first") as worker:
        await mesh.send(recorder, Numbered("me", 1))

        async def stopped() -> bool:
            return ShardId(0) in worker.ownership.lost

        await cluster.until(stopped)
        assert "is ahead of the journal" in worker.ownership.lost[ShardId(0)]
        assert "is ahead of the journal" in worker.not_ready
        assert await in_table(cluster, pool, 0, recorder) == newer
