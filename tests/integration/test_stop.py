"""A pod that is asked to end hands its shards over, and ends in time whatever its handlers do."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starling import AgentId
from starling.core.record import Kind

from tests.integration.probes import Busy, Nap, Numbered, Passed, Record, Relayed, Tell

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster


@pytest.mark.row("RT-37", part="under load nothing is lost")
async def test_a_pod_stopped_under_load_loses_nothing_and_leaves_its_shards_free(cluster: Cluster) -> None:
    pool = await cluster.pool(shards=2)
    relay, recorder = AgentId("relay", pool.key("relay", 0)), AgentId("recorder", pool.key("recorder", 1))
    await pool.map("w-0")
    first = pool.start("w-0")
    await pool.owns("w-0", 0, 1)
    sent = 0
    stop = asyncio.Event()
    async with cluster.client() as mesh:

        async def load() -> None:
            nonlocal sent
            while not stop.is_set():
                await mesh.send(relay, Relayed(recorder.key, sent + 1))
                sent += 1

        async def many() -> bool:
            return sent > 200

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load())
            await cluster.until(many)
            first.stop()
            assert await first.ended() == 0
            for shard in (0, 1):
                record = await pool.owner(shard)
                assert (record.kind, record.owner) == (Kind.FREE, "")
            assert await pool.member("w-0") is None
            pool.start("w-0")
            stop.set()
        passed = Passed()
        while passed.last < sent:
            passed = await mesh.call(relay, Tell(), timeout=60)
        assert (passed.passed, passed.wrong) == ({recorder.key: sent}, 0)
        record_of = Record()
        while record_of.count < sent:
            record_of = await mesh.call(recorder, Tell(), timeout=60)
        assert (record_of.count, record_of.last, record_of.wrong) == (sent, {relay.key: sent}, [])


@pytest.mark.row("RT-37", part="a hanging handler ends at the limit and its message is handled elsewhere")
async def test_a_handler_that_hangs_does_not_keep_the_pod_and_its_message_is_handled_elsewhere(
    cluster: Cluster, tmp_path: Path
) -> None:
    pool = await cluster.pool(moveWaitSeconds=0.5, drainSeconds=0.5)
    sleeper, recorder = AgentId("sleeper", "k"), AgentId("recorder", "k")
    note = tmp_path / "note"
    await pool.map("w-0")
    first = pool.start("w-0")
    await pool.owns("w-0", 0)
    async with cluster.client() as mesh:
        await mesh.send(sleeper, Nap(8.0, str(note)))
        await mesh.send(recorder, Numbered("me", 1))

        async def starts() -> int:
            return len((await asyncio.to_thread(note.read_text)).split()) if await asyncio.to_thread(note.exists) else 0

        async def once() -> bool:
            return await starts() == 1

        await cluster.until(once)
        assert (await mesh.call(recorder, Tell())).count == 1
        first.stop()
        assert await first.ended(bound=7.0) == 0  # the turn goes on for longer than that
        record = await pool.owner()
        assert (record.kind, record.owner) == (Kind.FREE, "")

        pool.start("w-1")
        await pool.map("w-1")
        naps: Busy = await mesh.call(sleeper, Tell(), timeout=60)
        assert naps.naps == 1
        assert await starts() == 2
        assert (await mesh.call(recorder, Tell())).wrong == []


async def test_a_move_goes_on_under_way_without_a_restart_of_either_pod(cluster: Cluster) -> None:
    pool = await cluster.pool()
    recorder = AgentId("recorder", "k")
    await pool.map("w-0")
    pods = [pool.start("w-0"), pool.start("w-1")]
    await pool.owns("w-0", 0)
    async with cluster.client() as mesh:
        value = 0
        for turn in range(6):
            to = f"w-{(turn + 1) % 2}"
            rev = (await pool.map(to)).rev
            for _ in range(30):
                value += 1
                await mesh.send(recorder, Numbered("me", value))
            await pool.owns(to, 0)
            assert (await pool.owner()).map_rev == rev
        record = Record()
        while record.count < value:
            record = await mesh.call(recorder, Tell(), timeout=60)
    assert (record.count, record.wrong) == (value, [])
    assert [pod.process.poll() for pod in pods] == [None, None]


@pytest.mark.row("RT-51", part="forced stop with a hanging handler; its message is handled elsewhere")
async def test_a_forced_stop_does_not_wait_for_a_hanging_handler(cluster: Cluster, tmp_path: Path) -> None:
    note = tmp_path / "naps"
    pool = await cluster.pool(moveWaitSeconds=3600.0, drainSeconds=3600.0)
    await pool.map("w-0")
    first = pool.start("w-0")
    await pool.owns("w-0", 0)
    sleeper = AgentId("sleeper", "deep")

    async def naps(count: int) -> bool:
        return note.exists() and len(note.read_text().splitlines()) == count

    async with cluster.client() as mesh:
        await mesh.send(sleeper, Nap(1e6, str(note)))
        await cluster.until(lambda: naps(1))
        first.process.send_signal(signal.SIGINT)
        assert await first.ended() == 0  # an orderly one would take an hour
        assert (await pool.owner(0)).kind == Kind.FREE
        await pool.map("w-1")
        pool.start("w-1")
        await pool.owns("w-1", 0)
        await cluster.until(lambda: naps(2))


@pytest.mark.row("RT-51", part="readiness and the state gauge follow", completes=True)
async def test_readiness_and_the_state_gauge_follow_the_pods_life(cluster: Cluster) -> None:
    pool = await cluster.pool(moveWaitSeconds=3600.0, drainSeconds=3600.0)
    await pool.map("w-0")
    pod = pool.start("w-0")
    member = await pool.owns("w-0", 0)
    host, _, port = member.metrics.partition(":")

    async def told(path: str) -> str:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        return text

    async def state(number: int) -> bool:
        return f'starling_worker_state{{pool="{pool.name}"}} {number}.0' in await told("/metrics")

    assert (await told("/readyz")).startswith("HTTP/1.1 200")
    assert await state(1)
    pod.stop()
    await cluster.until(lambda: state(2))
    await pool.map("w-1", draining=["w-0"])
    assert await pod.ended() == 0
