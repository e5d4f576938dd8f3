"""`python -m benchmarks.in_process '{"workload": "calls"}'`: loads without a server; prints one JSON line."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import starling
from starling.core.ids import AgentId

from benchmarks.agents import AddNow, Counter
from benchmarks.figures import latencies


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


async def main(given: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one workload."""
    workload = {"calls": calls, "deques": deques}[given.pop("workload")]
    return await workload(**given)


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))))
