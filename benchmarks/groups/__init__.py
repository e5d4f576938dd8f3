"""The groups of measurements, in the order in which they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from benchmarks.bench import Bench
from benchmarks.groups.calls import calls, queries
from benchmarks.groups.compression import compression
from benchmarks.groups.local import local, local_sizes
from benchmarks.groups.one_way import fan_out, one_way
from benchmarks.groups.sizes import bodies, cold, drained, memory, million
from benchmarks.groups.topology import moves, replicas, workers
from benchmarks.groups.trouble import kill, takeover

Group = Callable[[Bench], Awaitable[None]]

GROUPS: Final[Mapping[str, Group]] = {
    "calls": calls,
    "queries": queries,
    "one-way": one_way,
    "fan-out": fan_out,
    "local": local,
    "local-sizes": local_sizes,
    "cold": cold,
    "bodies": bodies,
    "compression": compression,
    "memory": memory,
    "million": million,
    "workers": workers,
    "replicas": replicas,
    "moves": moves,
    "takeover": takeover,
    "kill": kill,
    "drained": drained,
}
