"""One to four workers, one and three replicas, and planned moves under load."""

from __future__ import annotations

import asyncio

from starling.core.ids import AgentId

from benchmarks.agents import Wait
from benchmarks.bench import Bench, Target, loading
from benchmarks.figures import Sample, latencies
from benchmarks.probes import Probe, key_in
from benchmarks.stage import Stage

R1, R3 = "one server", "three servers, three replicas"
MOVES = "the shard that moves"
STAYS = "a shard that stays, meanwhile"
LONG_TURN = 5.0


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
    count = bench.size(200, 8)
    pauses, usual = await _moved(bench, count, long_turn=False)
    bench.note(
        f"Pause of a shard that is moved under load, {count} moves: slowest call around each",
        {MOVES: [latencies(pauses)], STAYS: [latencies(usual)]},
        [Target("p99 of the pause, in microseconds", MOVES, "p99_us", 100_000, at_least=False)],
    )
    count = bench.size(16, 2)
    pauses, usual = await _moved(bench, count, long_turn=True)
    bench.note(
        f"The same while an agent of the shard is in a turn of {LONG_TURN:.0f} seconds, {count} moves: the others",
        {MOVES: [latencies(pauses)], STAYS: [latencies(usual)]},
        [Target("p99 of the others' pause, in microseconds", MOVES, "p99_us", 100_000, at_least=False)],
    )


async def _moved(bench: Bench, count: int, *, long_turn: bool) -> tuple[list[float], list[float]]:
    """Move so many shards; return the slowest call of each moved shard, and of one that stayed meanwhile."""
    pauses: list[float] = []
    usual: list[float] = []
    async with bench.mesh() as mesh, mesh.client() as client:
        load = asyncio.create_task(mesh.load("paced", per_second=500, seconds=600))
        shards = mesh.options.shards
        probes = {shard: Probe(client, shard, shards, pause=0.01) for shard in range(shards)}
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(probe.run()) for probe in probes.values()]
            await asyncio.sleep(1.0)  # the probes' agents are active, the load is on
            for number in range(count):
                shard = number % shards
                if long_turn:
                    target = AgentId("checker", key_in(shard, shards, "checker", prefix="long"))
                    running.append(tasks.create_task(client.call(target, Wait(LONG_TURN), timeout=60.0)))
                    await asyncio.sleep(2.5)  # older than what a hand-off waits for with the door closed (1 s)
                moved, still = probes[shard], probes[(shard + 7) % shards]
                moved.longest = still.longest = 0.0
                await _move(mesh, shard, moved)
                pauses.append(moved.longest)
                usual.append(still.longest)
                await asyncio.sleep(0.1)
            for task in running:
                task.cancel()
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    return pauses, usual


async def _move(mesh: Stage, shard: int, probe: Probe) -> None:
    """Move a shard to the other pod; returns after two further answers of it."""
    owner = mesh.owners()[shard]
    target = next(pod for pod in mesh.names() if pod != owner)
    await mesh.move(shard, target)
    async with asyncio.timeout(60):
        while mesh.owners().get(shard) != target:
            await asyncio.sleep(0.01)
        seen = probe.answers
        while probe.answers < seen + 2:
            await asyncio.sleep(0.005)
