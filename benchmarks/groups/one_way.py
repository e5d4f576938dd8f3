"""One-way messages to keyed agents with state, one and two hops, and fan-out."""

from __future__ import annotations

from benchmarks.bench import Bench, Target, loading
from benchmarks.peers import faststream, nats_by_hand

OURS = "Starling, 2 workers, with state"
UNFRAMED = "Starling, a message a frame"
FRAMED = "Starling, frames of 16"
ZIPF = "Starling, Zipf keys"
FAST = "FastStream, 2 workers, no state"
BY_HAND = "nats-py by hand, no state"
BY_HAND_STATE = "nats-py by hand, with state"
SHARDS = 16


async def one_way(bench: Bench) -> None:
    """Uniform and Zipf keys; two hops."""
    many = bench.size(100_000, 5_000)
    few = bench.size(20_000, 2_000)
    async with (
        bench.mesh() as mesh,
        nats_by_hand(bench.folder(), state=False) as hand,
        nats_by_hand(bench.folder(), state=True) as stateful,
        faststream(bench.folder()) as fast,
    ):
        await mesh.load("one_way", messages=2_000)
        await bench.compare(
            "One way over 1,000 keys",
            {
                FRAMED: loading(mesh.load, "one_way", messages=many, in_flight=16 * SHARDS),
                OURS: loading(mesh.load, "one_way", messages=many),
                UNFRAMED: loading(mesh.load, "one_way", messages=few, ids=True),
                ZIPF: loading(mesh.load, "one_way", messages=many, zipf=1.0),
                FAST: loading(fast.load, "one_way", messages=few),
                BY_HAND: loading(hand.load, "one_way", messages=few),
                BY_HAND_STATE: loading(stateful.load, "one_way", messages=few),
            },
            [
                Target("without frames over FastStream", UNFRAMED, "per_second", 3, FAST, aim=5),
                Target("frames of 16 over nats-py by hand without state", FRAMED, "per_second", 5, BY_HAND),
                Target("Zipf keys over uniform ones", ZIPF, "per_second", 0.9, OURS),
                Target("messages lost", OURS, "lost", 0, at_least=False),
                Target("messages doubled", OURS, "doubled", 0, at_least=False),
            ],
        )
        await bench.compare(
            "Two hops, both durable",
            {
                OURS: loading(mesh.load, "relayed", messages=few),
                FAST: loading(fast.load, "relayed", messages=few // 2),
                BY_HAND_STATE: loading(stateful.load, "relayed", messages=few // 2),
            },
            [Target("two hops over FastStream", OURS, "per_second", 3, FAST)],
        )


async def fan_out(bench: Bench) -> None:
    """One message in, many out."""
    async with bench.mesh() as mesh, faststream(bench.folder()) as fast:
        await mesh.load("fan_out", messages=50, targets=10)
        deliveries = bench.size(400_000, 5_000)
        for targets in (1, 10, 100):
            entries = {
                OURS: loading(
                    mesh.load,
                    "fan_out",
                    messages=max(1, deliveries // (10 if targets == 1 else targets)),
                    targets=targets,
                )
            }
            if targets == 10:
                entries[FAST] = loading(fast.load, "fan_out", messages=deliveries // 50)
            await bench.compare(
                f"Fan-out to {targets}, deliveries",
                entries,
                [Target("deliveries over FastStream", OURS, "per_second", 5, FAST)] if targets == 10 else (),
            )
