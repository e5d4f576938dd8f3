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
        return await json_of(
            "-m", "benchmarks.in_process", {"workload": workload, "in_flight": in_flight, "seconds": seconds}
        )

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
