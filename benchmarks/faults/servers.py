"""NATS servers that die, freeze, or run out of room."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats
from starling.adapters.nats import EmbeddedServer
from starling.core.ids import AgentId, PoolName, ShardId
from starling.core.names import MeshNames
from starling.errors import MailboxFull

from benchmarks.agents import Add
from benchmarks.checked import CheckedLoad
from benchmarks.faults.trial import Report, Trial, trial
from benchmarks.stage import MESH, POOL

AWAY = 2.0


async def killed_one(folder: Path, report: Report) -> None:
    """The only server gets SIGKILL and is away for two seconds, twice."""
    async with trial(folder, report) as it:
        for _ in range(2):
            since = it.now
            await it.mesh.servers[0].kill()
            await asyncio.sleep(AWAY)
            await it.mesh.servers[0].start()
            await it.recovered(since)


async def frozen_one(folder: Path, report: Report) -> None:
    """The only server stands still for seven seconds: connections stay open and nobody answers."""
    async with trial(folder, report) as it:
        since = it.now
        it.mesh.servers[0].pause()
        await asyncio.sleep(7)
        it.mesh.servers[0].resume()
        await it.recovered(since)


async def leader_killed(folder: Path, report: Report) -> None:
    """Three servers: the leader of a shard's journal gets SIGKILL, and comes back after the shard recovered."""
    async with trial(folder, report, servers=3, per_second=150) as it:
        await _killed(it, report, await leader(it))


async def follower_killed(folder: Path, report: Report) -> None:
    """Three servers: one that does not lead the journal of shard 0 gets SIGKILL."""
    async with trial(folder, report, servers=3, per_second=150) as it:
        await _killed(it, report, await follower(it))


async def _killed(it: Trial, report: Report, server: EmbeddedServer) -> None:
    since = it.now
    await server.kill()
    await it.recovered(since)
    await server.start()
    report.facts["killed"] = server.name
    await asyncio.sleep(1)


async def leader_frozen(folder: Path, report: Report) -> None:
    """Three servers: the leader of a shard's journal stands still for 15 seconds, then goes on as a stale leader.

    How soon the others notice is theirs to decide (the servers' ping_interval), so that recovery may wait for the thaw.
    """
    async with trial(folder, report, servers=3, per_second=150) as it:
        await _frozen(it, await leader(it))


async def follower_frozen(folder: Path, report: Report) -> None:
    """Three servers: one that does not lead the journal of shard 0 stands still for 15 seconds."""
    async with trial(folder, report, servers=3, per_second=150) as it:
        await _frozen(it, await follower(it))


async def _frozen(it: Trial, server: EmbeddedServer) -> None:
    since = it.now
    async with asyncio.TaskGroup() as tasks:
        server.pause()
        try:
            tasks.create_task(it.recovered(since))
            await asyncio.sleep(15)
        finally:
            server.resume()
    await asyncio.sleep(2)


async def all_restarted(folder: Path, report: Report) -> None:
    """Three servers are killed at once and start again."""
    async with trial(folder, report, servers=3, per_second=150) as it:
        since = it.now
        await asyncio.gather(*(server.kill() for server in it.mesh.servers))
        await asyncio.sleep(1)
        await asyncio.gather(*(server.start() for server in it.mesh.servers))
        await it.recovered(since)


async def follower(it: Trial) -> EmbeddedServer:
    """A server that does not lead the journal of shard 0."""
    leading = await leader(it)
    return next(server for server in it.mesh.servers if server is not leading)


async def leader(it: Trial, shard: int = 0) -> EmbeddedServer:
    """The server that leads the journal of a shard."""
    connection = await nats.connect(servers=[server.url for server in it.mesh.servers])
    try:
        stream = MeshNames(MESH).pool(PoolName(POOL)).journal(ShardId(shard))
        info = await connection.jetstream().stream_info(stream)
    finally:
        await connection.close()
    assert info.cluster is not None
    return next(server for server in it.mesh.servers if server.name == info.cluster.leader)


async def storage_full(folder: Path, report: Report) -> None:
    """The server's storage limit is reached by somebody else's stream for five seconds; then there is room again.

    The limit holds what the mesh's streams reserve (a gigabyte for dead letters), so the filler has to be as large.
    """
    config = folder / "nats.conf"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text("jetstream { max_file_store: 1200MB }\n")
    spec = {"streams": {"replicas": 1, "maxBytes": "8Mi"}}
    async with trial(
        folder / "mesh", report, server_arguments=("--config", str(config)), spec=spec, shards=4, per_second=200
    ) as it:
        connection = await nats.connect(it.mesh.url)
        stream = connection.jetstream()
        try:
            await stream.add_stream(name="filler", subjects=["filler.>"])
            filled = await _fill(stream)
            report.check(filled, "the storage could not be filled")
            since = it.now
            await asyncio.sleep(5)
            await stream.delete_stream("filler")
        finally:
            await connection.close()
        await it.recovered(since)


async def _fill(stream: nats.js.JetStreamContext) -> bool:
    """Publish until the server refuses, in ever smaller pieces."""
    for size_bytes in (900_000, 100_000, 10_000, 500):
        for _ in range(2000):
            try:
                await stream.publish("filler.x", b"x" * size_bytes, timeout=2)
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                break
        else:
            return False
    return True


async def mailbox_full(folder: Path, report: Report) -> None:
    """Nobody reads: mailboxes fill up and senders are refused; what was accepted is handled once, in order."""
    keys, each = 20, 20
    spec = {"streams": {"replicas": 1, "mailboxLimit": 500}, "drainSeconds": 0}
    async with trial(folder, report, spec=spec, shards=4) as it:
        it.load.stop()
        await it.mesh.stop_workers()
        report.check(await _until_refused(it), "no sender was refused although nobody reads")
        patient = CheckedLoad(it.client, keys=keys, prefix="full")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(patient.send([key for _ in range(each) for key in range(keys)]))
            await asyncio.sleep(1)
            report.check(not waiting.done(), "a patient sender was not held back by full mailboxes")
            since = it.now
            await it.mesh.start_workers()
        await it.recovered(since)
        verdict = await patient.verdict()
        report.check(verdict.ok, f"of a patient sender: {verdict}")


async def _until_refused(it: Trial) -> bool:
    """Send to other agents, each message with an id (and so a frame) of its own, until senders are refused."""
    refused = 0
    for start in range(0, 10_000, 100):
        sends = [
            it.client.send(AgentId("counter", f"fill{number}"), Add(), id=f"fill-{number}", timeout=10)
            for number in range(start, start + 100)
        ]
        answers = await asyncio.gather(*sends, return_exceptions=True)
        refused += sum(isinstance(answer, MailboxFull) for answer in answers)
        if refused > 300:
            return True
    return False
