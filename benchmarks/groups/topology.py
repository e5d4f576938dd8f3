"""One to four workers, one and three replicas, and planned moves under load."""

from __future__ import annotations

import asyncio

from benchmarks.bench import Bench, Target, loading
from benchmarks.figures import Sample, latencies
from benchmarks.probes import Probe

R1, R3 = "one server", "three servers, three replicas"
MOVES = "moves"


async def workers(bench: Bench) -> None:
    """The same load on one to four workers; on two cores more than two can only cost."""
    messages = bench.size(100_000, 4_000)
    one_way: dict[str, list[Sample]] = {}
    calls: dict[str, list[Sample]] = {}
    async with bench.mesh(workers=1) as mesh:
        await mesh.load("one_way", messages=2_000)
        for _ in range(bench.rounds):
            for number in (1, 2) if bench.quick else (1, 2, 3, 4):
                await mesh.scale(number)
                await mesh.load("one_way", messages=2_000)
                label = f"{number} worker{'s' if number > 1 else ''}"
                one_way.setdefault(label, []).append(await mesh.load("one_way", messages=messages))
                calls.setdefault(label, []).append(await mesh.load("calls", in_flight=100, seconds=bench.seconds))
    bench.note("One way over 1,000 keys by number of workers", one_way)
    bench.note("Durable calls, 100 in flight, by number of workers", calls)


async def replicas(bench: Bench) -> None:
    """One server against a cluster of three, all on this machine."""
    messages = bench.size(30_000, 2_000)
    seconds = bench.seconds
    async with bench.mesh() as one, bench.mesh(servers=3) as three:
        for mesh in (one, three):
            await mesh.load("one_way", messages=2_000)
        await bench.compare(
            "One way over 1,000 keys by number of replicas",
            {
                R1: loading(one.load, "one_way", messages=messages),
                R3: loading(three.load, "one_way", messages=messages),
            },
        )
        for in_flight in (1, 100):
            await bench.compare(
                f"Durable calls by number of replicas, {in_flight} in flight",
                {
                    R1: loading(one.load, "calls", in_flight=in_flight, seconds=seconds),
                    R3: loading(three.load, "calls", in_flight=in_flight, seconds=seconds),
                },
            )


async def moves(bench: Bench) -> None:
    """Shards moved one by one while every shard is called all the time, beside 500 messages a second."""
    count = bench.size(100, 8)
    async with bench.mesh() as mesh, mesh.client() as client:
        load = asyncio.create_task(mesh.load("paced", per_second=500, seconds=count * 0.35 + 2))
        probes = {shard: Probe(client, shard, mesh.options.shards, pause=0.01) for shard in range(mesh.options.shards)}
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(probe.run()) for probe in probes.values()]
            await asyncio.sleep(1.0)  # the probes' agents are active, the load is on
            pauses: list[float] = []
            usual: list[float] = []
            for number in range(count):
                shard = number % mesh.options.shards
                moved, still = probes[shard], probes[(shard + 7) % mesh.options.shards]
                moved.longest = still.longest = 0.0
                owner = mesh.owners()[shard]
                target = next(pod for pod in mesh.names() if pod != owner)
                await mesh.move(shard, target)
                async with asyncio.timeout(30):
                    while mesh.owners().get(shard) != target:
                        await asyncio.sleep(0.01)
                    seen = moved.answers
                    while moved.answers < seen + 2:
                        await asyncio.sleep(0.005)
                pauses.append(moved.longest)
                usual.append(still.longest)
                await asyncio.sleep(0.1)
            for task in running:
                task.cancel()
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    bench.note(
        f"Pause of a shard that is moved under load, {count} moves: slowest call around each",
        {MOVES: [latencies(pauses)], "a shard that stays, meanwhile": [latencies(usual)]},
        [Target("p99 of the pause, in microseconds", MOVES, "p99_us", 100_000, at_least=False)],
    )
