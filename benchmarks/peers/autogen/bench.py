"""autogen-core: routed agents by key, in process and over its gRPC runtime. Nothing is stored.

`bench.py drive '{"workload": …}'` prints figures as one JSON line; `bench.py worker '{"address": …}'` runs a gRPC
worker, `bench.py host '{"address": …}'` the host that joins workers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    message_handler,
    try_get_known_serializers_for_type,
)


@dataclass
class Add:
    amount: int


@dataclass
class Count:
    handled: int


class Counter(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("counts")
        self.handled = 0

    @message_handler
    async def add(self, message: Add, ctx: MessageContext) -> Count:
        self.handled += message.amount
        return Count(self.handled)


def latencies(taken):
    ordered = sorted(taken)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e6  # noqa: E731
    return {"p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1.0)}


async def timed(runtime, in_flight, keys, seconds):
    taken = []
    now = time.perf_counter
    for key in range(keys):
        await runtime.send_message(Add(0), AgentId("counter", f"k{key}"))
    started, number = now(), 0
    end = started + seconds

    async def client():
        nonlocal number
        while (begun := now()) < end:
            number += 1
            await runtime.send_message(Add(1), AgentId("counter", f"k{number % keys}"))
            taken.append(now() - begun)

    await asyncio.gather(*(client() for _ in range(in_flight)))
    return {"per_second": len(taken) / (now() - started), **latencies(taken)}


async def in_process(in_flight=1, keys=1000, seconds=2.0):
    runtime = SingleThreadedAgentRuntime()
    await Counter.register(runtime, "counter", Counter)
    runtime.start()
    try:
        return await timed(runtime, in_flight, keys, seconds)
    finally:
        await runtime.stop()


async def over_grpc(address, in_flight=1, keys=100, seconds=2.0):
    from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime

    runtime = GrpcWorkerAgentRuntime(address)
    for cls in (Add, Count):
        for serializer in try_get_known_serializers_for_type(cls):
            runtime.add_message_serializer(serializer)
    await runtime.start()
    try:
        return await timed(runtime, in_flight, keys, seconds)
    finally:
        await runtime.stop()


async def worker(given):
    from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime

    runtime = GrpcWorkerAgentRuntime(given["address"])
    for serializer in try_get_known_serializers_for_type(Count):
        runtime.add_message_serializer(serializer)
    await runtime.start()
    await Counter.register(runtime, "counter", Counter)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def host(given):
    from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntimeHost

    GrpcWorkerAgentRuntimeHost(given["address"]).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def drive(given):
    workload = {"in_process": in_process, "over_grpc": over_grpc}[given.pop("workload")]
    print(json.dumps(await workload(**given)))


if __name__ == "__main__":
    asyncio.run({"drive": drive, "worker": worker, "host": host}[sys.argv[1]](json.loads(sys.argv[2])))
