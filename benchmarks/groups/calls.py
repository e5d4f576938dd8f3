"""Durable calls: stored, handled by one keyed agent, its state stored, answered."""

from __future__ import annotations

from benchmarks.bench import Bench, Target, loading
from benchmarks.peers import nats_by_hand

OURS = "Starling, 2 workers"
BY_HAND = "nats-py by hand, 2 workers"
ACK = "nats-py publish ack, nothing else"
REQUEST = "nats-py request and reply, nothing stored"


async def calls(bench: Bench) -> None:
    """Calls with 1, 100 and 1,000 in flight over 1,000 agents; over two agents; and the ceiling."""
    seconds = bench.seconds
    async with bench.mesh() as mesh, nats_by_hand(bench.folder()) as hand:
        await mesh.load("calls", in_flight=100, seconds=seconds)  # everything is active before anything counts
        await hand.load("calls", in_flight=100, seconds=seconds)
        await bench.compare(
            "Durable call, one at a time",
            {
                OURS: loading(mesh.load, "calls", in_flight=1, seconds=seconds),
                BY_HAND: loading(hand.load, "calls", in_flight=1, seconds=seconds),
                ACK: loading(hand.load, "publish_ack", in_flight=1, seconds=seconds),
            },
            [
                Target("p50 over a raw publish ack", OURS, "p50_us", 4, ACK, at_least=False, aim=3),
                Target("p50 over the worker by hand", OURS, "p50_us", 1, BY_HAND, at_least=False),
            ],
        )
        for in_flight, bound in ((100, 3.0), (1000, 3.0)):
            await bench.compare(
                f"Durable calls, {in_flight:,} in flight over 1,000 agents",
                {
                    OURS: loading(mesh.load, "calls", in_flight=in_flight, seconds=seconds),
                    BY_HAND: loading(hand.load, "calls", in_flight=in_flight, seconds=seconds),
                    ACK: loading(hand.load, "publish_ack", in_flight=in_flight, seconds=seconds),
                },
                [Target("calls a second over the worker by hand", OURS, "per_second", bound, BY_HAND)],
            )
        await bench.compare(
            "Durable call that makes a durable call, one at a time",
            {OURS: loading(mesh.load, "calls_over_relay", in_flight=1, seconds=seconds)},
        )


COMMITTED = "Starling, committed"
FLEETING = "Starling, durability none"
QUERY = "Starling, query"


async def queries(bench: Bench) -> None:
    """Read-only questions past the log, against a bare request and reply; and the three ways beside each other."""
    seconds = bench.seconds
    async with bench.mesh() as mesh, nats_by_hand(bench.folder()) as hand:
        for in_flight in (1, 64):
            await bench.compare(
                f"Queries, {in_flight} in flight",
                {
                    OURS: loading(mesh.load, "queries", in_flight=in_flight, seconds=seconds),
                    REQUEST: loading(hand.load, "request_reply", in_flight=in_flight, seconds=seconds),
                },
                [Target("p50 over request and reply", OURS, "p50_us", 1.5, REQUEST, at_least=False)],
            )
            await bench.compare(
                f"An answer in three ways, {in_flight} in flight",
                {
                    COMMITTED: loading(mesh.load, "calls", in_flight=in_flight, seconds=seconds),
                    FLEETING: loading(mesh.load, "fleeting", in_flight=in_flight, seconds=seconds),
                    QUERY: loading(mesh.load, "queries", in_flight=in_flight, seconds=seconds),
                },
            )
