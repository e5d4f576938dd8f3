"""Without any server: the local runtime against others in process."""

from __future__ import annotations

from benchmarks.bench import Bench, Target, loading
from benchmarks.peers import Peer, autogen_over_grpc
from benchmarks.processes import json_of

OURS = "Starling, local runtime"
AUTOGEN = "autogen-core 0.7.5, in process"
GRPC = "autogen-core 0.7.5, gRPC, 1 worker"
CEILING = "asyncio, a deque per agent"


async def local(bench: Bench) -> None:
    """Calls over 1,000 agents in one process, and what autogen's gRPC runtime does."""
    peer = Peer("autogen")
    seconds = bench.seconds

    async def ours(workload: str, in_flight: int) -> dict[str, float]:
        return await in_process(workload, in_flight=in_flight, seconds=seconds)

    async with autogen_over_grpc() as (grpc, address):
        for in_flight in (1, 100):
            await bench.compare(
                f"Calls in one process, {in_flight} in flight",
                {
                    OURS: loading(ours, "calls", in_flight),
                    AUTOGEN: loading(peer.load, "in_process", in_flight=in_flight, seconds=seconds),
                    CEILING: loading(ours, "deques", in_flight),
                    GRPC: loading(grpc.load, "over_grpc", address=address, in_flight=in_flight, seconds=seconds),
                },
                [Target("calls a second over autogen-core in process", OURS, "per_second", 5, AUTOGEN)]
                + ([Target("p50 in microseconds", OURS, "p50_us", 25, at_least=False)] if in_flight == 1 else []),
            )


async def local_sizes(bench: Bench) -> None:
    """The local runtime for long, for new agents, for a state of 10 MB, and for many idle agents."""
    agents = bench.size(10_000, 2_000)
    cases: tuple[tuple[str, str, dict[str, float]], ...] = (
        (
            f"A run of {bench.size(60, 2)} s in one process, in batches of 100",
            "batches",
            {"seconds": bench.size(60, 2)},
        ),
        ("First call of a new agent in one process", "fresh", {"keys": bench.size(1_000, 100)}),
        ("A state of 10 MB, saved and loaded in one process", "large", {}),
        (f"Memory of {agents:,} idle agents in one process", "idle", {"keys": agents}),
    )
    targets = {
        "batches": [Target("calls a second", OURS, "per_second", 10_000)],
        "fresh": [Target("p50 of the first call in microseconds", OURS, "p50_us", 10_000, at_least=False)],
        "large": [
            Target("milliseconds to save", OURS, "save_ms", 100, at_least=False),
            Target("milliseconds to load", OURS, "load_ms", 100, at_least=False),
        ],
        "idle": [Target("bytes an agent", OURS, "bytes_per_agent", 1_000_000, at_least=False)],
    }
    for title, workload, given in cases:
        bench.note(title, {OURS: [await in_process(workload, **given)]}, targets[workload])


async def in_process(workload: str, **given: float) -> dict[str, float]:
    """The figures of a workload in a process of its own."""
    return await json_of("-m", "benchmarks.in_process", {"workload": workload, **given})
