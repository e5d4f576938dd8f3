"""How much: cold agents, large bodies, memory of active agents, a long queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.bench import Bench, Target, loading
from benchmarks.figures import Sample
from benchmarks.processes import resident_bytes
from benchmarks.stage import Stage

COLD = "cold: state read from the table"
WARM = "the same agents, active"
OURS = "Starling, 2 workers"
PACE = 8_000
"""First messages a second, where what counts is that memory stays as it is."""


async def cold(bench: Bench) -> None:
    """Agents that are not in memory: one after the other, and 1,000 at a time."""
    agents = bench.size(10_000, 500)
    singly = bench.size(1_000, 100)
    async with bench.mesh() as mesh:
        await mesh.load("activations", keys=agents, in_flight=500)  # they exist now
        before: list[Sample] = []
        after: list[Sample] = []
        bulk: list[Sample] = []
        for _ in range(bench.rounds):
            await mesh.restart_workers()
            await mesh.load("calls", in_flight=8, keys=64, seconds=0.5)  # the processes are warm, those agents are not
            cold_calls = await mesh.load("activations", keys=singly)
            warm_calls = await mesh.load("activations", keys=singly)
            before.append({**cold_calls, "activation_p50_us": cold_calls["p50_us"] - warm_calls["p50_us"]})
            after.append(warm_calls)
            bulk.append(await mesh.load("activations", keys=agents - singly, first=singly, in_flight=1000))
        bench.note(
            f"First call of a cold agent, {singly:,} agents one after the other",
            {COLD: before, WARM: after},
            [Target("p50 that activation adds, in microseconds", COLD, "activation_p50_us", 1000, at_least=False)],
        )
        bench.note(f"First calls of {agents - singly:,} cold agents, 1,000 in flight", {COLD: bulk})


async def bodies(bench: Bench) -> None:
    """Calls with bodies of 1 KB and 64 KB, and of 5 MB, which go by reference."""
    async with bench.mesh() as mesh:
        for size_bytes, name in ((1_000, "1 KB"), (64_000, "64 KB"), (5_000_000, "5 MB")):
            await bench.compare(
                f"Durable calls with bodies of {name}, 4 in flight",
                {OURS: loading(mesh.load, "bodies", size_bytes=size_bytes, seconds=bench.seconds)},
            )


async def memory(bench: Bench) -> None:
    """What an agent in memory costs, its (small) state included."""
    agents = bench.size(50_000, 5_000)
    samples: list[Sample] = []
    for _ in range(min(bench.rounds, 3)):
        async with bench.mesh(workers=1) as mesh:
            await mesh.load("activations", keys=500, first=10_000_000, in_flight=500)
            pid = mesh.pid(mesh.names()[0])
            before = resident_bytes(pid)
            await mesh.load("activations", keys=agents, in_flight=500)
            grown = resident_bytes(pid) - before
            samples.append({"bytes_per_agent": grown / agents, "worker_mb": resident_bytes(pid) / 1e6})
    bench.note(
        f"Memory of {agents:,} active agents in one worker, state of one number included",
        {OURS: samples},
        [Target("bytes for each active agent", OURS, "bytes_per_agent", 3000, at_least=False, aim=1500)],
    )


async def million(bench: Bench) -> None:
    """One message to each of a million keys; agents leave memory after two idle seconds.

    At a steady rate, about half of what the workers can do: what waits for its turn is in memory too, and how much that
    is says more about the machine than about the keys. What it comes to when they are sent as fast as they go is noted.
    """
    keys = bench.size(1_000_000, 20_000)
    agents = [{"type": "counter", "entrypoint": "bench_agents:Counter", "passivation": {"idleSeconds": 2}}]
    async with bench.mesh(spec={"agents": agents}) as mesh:
        step = keys // 10
        await _first_messages(mesh, keys, step, PACE)  # warm: code, pools and buffers are there
        tenths: dict[str, Sample] = {}
        for done in range(0, keys, step):
            await _first_messages(mesh, done, step, PACE)
            tenths[f"after {done + step:,} keys"] = memory_now(mesh)
        active = await _at_rest(mesh)
        bench.note(
            f"{keys:,} distinct keys, a message each, {PACE:,} a second, passivated after 2 s; "
            "memory of both workers after each tenth",
            {
                **{label: [at] for label, at in tenths.items()},
                "at the end": [{**_flatness([at["worker_mb"] for at in tenths.values()]), "active_agents": active}],
            },
            [
                Target(
                    "workers' memory, farthest from its middle, as a share of it",
                    "at the end",
                    "memory_off_middle",
                    0.1,
                    at_least=False,
                ),
                Target("agents in memory at rest", "at the end", "active_agents", 0, at_least=False),
            ],
        )
        started = time.perf_counter()
        await _first_messages(mesh, keys + step, 3 * step)
        per_second = 3 * step / (time.perf_counter() - started)
        bench.note(
            f"{3 * step:,} further keys, as fast as they go", {OURS: [{"per_second": per_second, **memory_now(mesh)}]}
        )


async def _first_messages(mesh: Stage, first: int, messages: int, per_second: float = 0.0) -> None:
    """Send one to each of so many new keys; returns once all are handled."""
    turns = await mesh.metric("starling_turns_total")
    await mesh.load("first_messages", messages=messages, first=first, per_second=per_second)
    await _until_turns(mesh, turns + messages)


def _flatness(seen: Sequence[float]) -> Sample:
    """Largest over first, and how far the farthest is from the middle between smallest and largest, as its share."""
    middle = (max(seen) + min(seen)) / 2
    return {"memory_over_first": max(seen) / seen[0], "memory_off_middle": max(seen) / middle - 1}


async def _until_turns(mesh: Stage, turns: float) -> None:
    async with asyncio.timeout(300):
        while await mesh.metric("starling_turns_total") < turns:
            await asyncio.sleep(0.2)


async def _at_rest(mesh: Stage) -> float:
    """Active agents once nothing has come in for a while."""
    for _ in range(40):
        if not (active := await mesh.metric("starling_active_agents")):
            break
        await asyncio.sleep(0.5)
    return active


async def drained(bench: Bench) -> None:
    """Messages queued while no worker runs, then handled."""
    messages = bench.size(1_000_000, 20_000)
    async with bench.mesh(spec={"drainSeconds": 0}) as mesh:
        await mesh.load("one_way", messages=1_000)
        before = (await mesh.load("total", keys=1000))["counted"]
        await mesh.stop_workers()
        stored = await mesh.load("one_way", messages=messages, in_flight=8000, count=False)
        queued = memory_now(mesh)
        started = time.perf_counter()
        await mesh.start_workers()
        watched: list[Sample] = []
        watch = asyncio.create_task(_watch_memory(mesh, watched))
        handled = (await mesh.load("total", keys=1000))["counted"] - before
        seconds = time.perf_counter() - started
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        sample = {
            "stored_per_second": stored["stored_per_second"],
            "drained_per_second": messages / seconds,
            "lost": max(0.0, messages - handled),
            "doubled": max(0.0, handled - messages),
        }
        bench.note(
            f"{messages:,} messages queued without a worker, then drained by two (their start included)",
            {OURS: [sample], "memory, all of it queued": [queued], "memory, each second of draining": watched},
            [
                Target("messages lost", OURS, "lost", 0, at_least=False),
                Target("messages doubled", OURS, "doubled", 0, at_least=False),
            ],
        )


async def _watch_memory(mesh: Stage, seen: list[Sample]) -> None:
    while True:
        await asyncio.sleep(1.0)
        seen.append(memory_now(mesh))


def memory_now(mesh: Stage) -> Sample:
    """Memory of all workers that run, and of all servers, in MB."""
    workers = [pid for pod in mesh.names() if (pid := mesh.pods.process_of(pod)) is not None]
    servers = [server.pid for server in mesh.servers if server.pid is not None]
    return {
        "worker_mb": sum(map(resident_bytes, workers)) / 1e6,
        "server_mb": sum(map(resident_bytes, servers)) / 1e6,
    }
