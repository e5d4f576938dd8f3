"""Workers that die: how long their agents are away, and what it costs those who use them."""

from __future__ import annotations

import asyncio
import signal

from starling.client import Mesh
from starling.core.ids import AgentId
from starling.errors import MeshError

from benchmarks.agents import Wait
from benchmarks.bench import Bench, Target
from benchmarks.checked import CheckedLoad
from benchmarks.figures import Sample, latencies
from benchmarks.probes import answer_times
from benchmarks.stage import Stage

BACK = "its parent starts it again"
GONE = "it does not come back"
FROZEN = "it is frozen, as if cut off"
OURS = "Starling, 2 workers"
CALLS = 100


async def takeover(bench: Bench) -> None:
    """From the end of a worker to the first answer of each of its shards, at 200 messages a second."""
    times: dict[str, list[float]] = {BACK: [], GONE: [], FROZEN: []}
    async with bench.mesh(workers=2) as mesh, mesh.client() as client:
        await _warm(mesh, client)
        load = asyncio.create_task(mesh.load("paced", per_second=200, seconds=500))
        try:
            for number in range(bench.size(5, 1)):
                victim = mesh.names()[number % 2]
                await _until_spare(mesh)
                times[BACK] += await _answers_after(mesh, client, victim, signal.SIGKILL)
                await mesh.scale(2)
            for number in range(bench.size(4, 1)):
                victim = mesh.names()[number % 2]
                mesh.broken_pods.add(victim)
                times[GONE] += await _answers_after(mesh, client, victim, signal.SIGKILL)
                mesh.broken_pods.clear()
                await mesh.scale(2)
            for number in range(bench.size(2, 1)):
                victim = mesh.names()[number % 2]
                times[FROZEN] += await _answers_after(mesh, client, victim, signal.SIGSTOP)
                mesh.kill(victim, signal.SIGCONT)
                await mesh.scale(2)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
    bench.note(
        "Takeover: from SIGKILL (or SIGSTOP) of a worker to the first answer of each of its shards",
        {label: [latencies(taken)] for label, taken in times.items()},
        [
            Target("p50 where the parent sees the exit, in microseconds", BACK, "p50_us", 1e6, at_least=False),
            Target("p50 where the pod does not come back, in microseconds", GONE, "p50_us", 4e6, at_least=False),
            Target("slowest where it is cut off, in microseconds", FROZEN, "max_us", 15e6, at_least=False),
        ],
    )


async def _warm(mesh: Stage, client: Mesh) -> None:
    shards = mesh.options.shards
    await answer_times(client, range(shards), shards, since=asyncio.get_running_loop().time())


async def _until_spare(mesh: Stage) -> None:
    """Deaths come one at a time: by the next one the supervisor has a process in waiting again."""
    async with asyncio.timeout(60):
        while not mesh.pods.has_spare:
            await asyncio.sleep(0.05)


async def _answers_after(mesh: Stage, client: Mesh, victim: str, number: signal.Signals) -> list[float]:
    """Signal the pod and call all its shards."""
    affected = mesh.shards_of(victim)
    since = asyncio.get_running_loop().time()
    mesh.kill(victim, number)
    return await answer_times(client, affected, mesh.options.shards, since=since)


async def kill(bench: Bench) -> None:
    """One worker of two killed at 1,000 messages a second, with 100 calls in flight; handlers of 0 and 100 ms."""
    messages = bench.size(10_000, 1_500)
    for seconds, name in ((0.0, "0 ms"), (0.1, "100 ms")):
        samples: list[Sample] = []
        for number in range(min(bench.rounds, bench.size(3, 1))):
            async with bench.mesh() as mesh, mesh.client("kill") as client:
                samples.append(await _killed(mesh, client, messages, seconds, mesh.names()[number % 2]))
        bench.note(
            f"One worker of two killed at 1,000 messages a second, {messages:,} messages, handlers of {name}",
            {OURS: samples},
            [
                Target("messages lost", OURS, "lost", 0, at_least=False),
                Target("messages doubled", OURS, "doubled", 0, at_least=False),
                Target("messages out of order", OURS, "out_of_order", 0, at_least=False),
                Target("calls not answered", OURS, "calls_failed", 0, at_least=False),
                Target("longest call, in milliseconds", OURS, "longest_call_ms", 4000, at_least=False),
            ],
        )


async def _killed(mesh: Stage, client: Mesh, messages: int, seconds: float, victim: str) -> dict[str, float]:
    load = CheckedLoad(client, keys=1000, per_second=1000, seconds_of_turn=seconds)
    loop = asyncio.get_running_loop()
    taken: list[float] = []
    failed = 0

    async def call(number: int) -> None:
        nonlocal failed
        begun = loop.time()
        try:
            await client.call(AgentId("checker", f"call{number}"), Wait(seconds), timeout=60.0)
        except MeshError:
            failed += 1
        taken.append(loop.time() - begun)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run(messages))
        while load.sent < messages // 2:
            await asyncio.sleep(0.01)
        for number in range(CALLS):
            tasks.create_task(call(number))
        await asyncio.sleep(0.05 if seconds else 0.002)
        mesh.kill(victim)
    verdict = await load.verdict()
    return {
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "out_of_order": verdict.out_of_order,
        "counted": verdict.accepted - verdict.lost + verdict.doubled,
        "calls_failed": failed,
        "longest_call_ms": max(taken) * 1000,
    }
