"""`python -m benchmarks.in_process '{"workload": "calls"}'`: loads without a server; prints one JSON line."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import starling
from starling.core.ids import AgentId

from benchmarks.agents import AddNow, Count, Counter, Hoard, Hoarder, Read
from benchmarks.figures import latencies
from benchmarks.processes import resident_bytes


async def timed(in_flight: int, seconds: float, act: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    """Keep so many calls under way for so long; return rate and latencies."""
    taken: list[float] = []
    now = time.perf_counter
    started = now()
    end = started + seconds
    number = 0

    async def client() -> None:
        nonlocal number
        while (begun := now()) < end:
            number += 1
            await act(number)
            taken.append(now() - begun)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(client())
    return {"per_second": len(taken) / (now() - started), **latencies(taken)}


async def calls(in_flight: int = 1, keys: int = 1000, seconds: float = 2.0) -> dict[str, float]:
    """Calls in the local runtime: the real engine over an in-memory store."""
    async with starling.local(Counter) as mesh:
        for key in range(keys):
            await mesh.call(AgentId("counter", f"k{key}"), AddNow(0))
        return await timed(in_flight, seconds, lambda n: mesh.call(AgentId("counter", f"k{n % keys}"), AddNow()))


async def batches(size: int = 100, keys: int = 1000, seconds: float = 60.0) -> dict[str, float]:
    """Calls in batches: the next batch starts when the last one is answered. Latencies are those of the calls."""
    taken: list[float] = []
    now = time.perf_counter
    async with starling.local(Counter) as mesh:

        async def call(number: int) -> None:
            begun = now()
            await mesh.call(AgentId("counter", f"k{number % keys}"), AddNow())
            taken.append(now() - begun)

        started = now()
        while now() - started < seconds:
            await asyncio.gather(*(call(len(taken) + number) for number in range(size)))
        return {"per_second": len(taken) / (now() - started), **latencies(taken)}


async def fresh(keys: int = 1000) -> dict[str, float]:
    """First calls of agents that have never been there, one after the other."""
    taken: list[float] = []
    async with starling.local(Counter) as mesh:
        await mesh.call(AgentId("counter", "first"), AddNow())
        for key in range(keys):
            begun = time.perf_counter()
            await mesh.call(AgentId("counter", f"k{key}"), AddNow())
            taken.append(time.perf_counter() - begun)
    return latencies(taken)


async def large(size_bytes: int = 10_000_000) -> dict[str, float]:
    """A state of so many bytes: the call that saves it, and the call that finds the agent out of memory."""
    async with starling.local(Hoarder) as mesh:
        hoarder = AgentId("hoarder", "k")
        begun = time.perf_counter()
        await mesh.call(hoarder, Hoard(size_bytes))
        saved = time.perf_counter()
        async with asyncio.timeout(60):
            await Hoarder.left.wait()
        asked = time.perf_counter()
        found: Count = await mesh.call(hoarder, Read())
        loaded = time.perf_counter()
    if found.handled != size_bytes:
        raise RuntimeError(f"{found.handled} bytes of state came back, not {size_bytes}")
    return {"save_ms": (saved - begun) * 1000, "load_ms": (loaded - asked) * 1000}


async def idle(keys: int = 10_000) -> dict[str, float]:
    """Resident memory of this process that agents in memory add, their (small) states and what is stored included."""
    async with starling.local(Counter) as mesh:
        for key in range(500):  # what a first use of everything costs
            await mesh.call(AgentId("counter", f"first{key}"), AddNow())
        gc.collect()
        before = resident_bytes(os.getpid())
        for key in range(keys):
            await mesh.call(AgentId("counter", f"k{key}"), AddNow())
        gc.collect()
        added = resident_bytes(os.getpid()) - before
    return {"bytes_per_agent": added / keys}


async def deques(in_flight: int = 1, keys: int = 1000, seconds: float = 2.0) -> dict[str, float]:
    """The ceiling: a task and a deque per agent, no promises."""
    counts = [0] * keys
    waiting: list[deque[asyncio.Future[int]]] = [deque() for _ in range(keys)]
    work = [asyncio.Event() for _ in range(keys)]

    async def agent(key: int) -> None:
        while True:
            await work[key].wait()
            work[key].clear()
            while waiting[key]:
                counts[key] += 1
                waiting[key].popleft().set_result(counts[key])

    def call(number: int) -> asyncio.Future[int]:
        key = number % keys
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting[key].append(future)
        work[key].set()
        return future

    agents = [asyncio.ensure_future(agent(key)) for key in range(keys)]
    try:
        return await timed(in_flight, seconds, call)
    finally:
        for task in agents:
            task.cancel()
        await asyncio.gather(*agents, return_exceptions=True)


WORKLOADS: Final[dict[str, Callable[..., Awaitable[dict[str, float]]]]] = {
    "calls": calls,
    "batches": batches,
    "fresh": fresh,
    "large": large,
    "idle": idle,
    "deques": deques,
}


async def main(given: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one workload."""
    workload = WORKLOADS[given.pop("workload")]
    return await workload(**given)


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))))
