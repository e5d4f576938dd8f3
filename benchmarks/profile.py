"""`python -m benchmarks.profile calls in_flight=100`: where a worker's time goes under one load of benchmarks.load.

Prints CPU microseconds per turn of worker, server and load, then the worker's functions by share of its samples
(taken by a thread in the worker, see profiling/sitecustomize.py). One worker, so that nothing is averaged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.stage import StageOptions, stage

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def profile(workload: str, parameters: Mapping[str, Any], *, sampled: bool, shown: int) -> None:
    """Run one load and print what it cost."""
    with tempfile.TemporaryDirectory(prefix="starling-profile-") as name:
        folder = Path(name)
        extra = {
            "PYTHONPATH": str(Path(__file__).parent / "profiling"),
            "STARLING_BENCH_PROFILE": str(folder / "profile"),
        }
        options = StageOptions(workers=1, extra=lambda pod: extra if sampled else {})
        async with stage(folder / "mesh", options) as mesh:
            pod, server = mesh.names()[0], mesh.servers[0].pid
            assert server is not None
            worker = mesh.pid(pod)
            await mesh.load("one_way", messages=2000)
            before = cpu_seconds(worker), cpu_seconds(server), _children()
            turns = await mesh.metric("starling_turns_total")
            figures = await mesh.load(workload, **parameters)
            turns = await mesh.metric("starling_turns_total") - turns
            after = cpu_seconds(worker), cpu_seconds(server), _children()
            print(f"{workload} {dict(parameters)}: {json.dumps(figures)}")
            parts = zip(("worker", "server", "load with its start"), before, after, strict=True)
            print(f"{turns:,.0f} turns; CPU a turn: ", end="")
            print(", ".join(f"{label} {(b - a) / turns * 1e6:.1f} us" for label, a, b in parts))
            mesh.controlled = False
            os.kill(worker, signal.SIGINT)
            async with asyncio.timeout(30):
                while sampled and not list(folder.glob(f"profile.{worker}.json")):
                    await asyncio.sleep(0.05)
        for path in folder.glob(f"profile.{worker}.json"):
            _show(json.loads(path.read_text()), (after[0] - before[0]) / turns * 1e6, shown)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _show(sampled: Mapping[str, Any], micros_a_turn: float, shown: int) -> None:
    for key, text in (("own", "top of the stack"), ("total", "anywhere in the stack")):
        rows = sampled[key]
        every = sum(count for _, count in sampled["own"]) or 1
        print(f"\n{text}: share of samples, us a turn")
        for name, count in rows[:shown]:
            print(f"  {count / every:6.1%} {count / every * micros_a_turn:6.1f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", help="a method of benchmarks.load.Load")
    parser.add_argument("parameters", nargs="*", help="name=value, value as JSON")
    parser.add_argument("--plain", action="store_true", help="without sampling, for exact CPU figures")
    parser.add_argument("--shown", type=int, default=40, help="rows of each list")
    given = parser.parse_args()
    parameters = {name: json.loads(value) for name, _, value in (text.partition("=") for text in given.parameters)}
    uvloop.run(profile(given.workload, parameters, sampled=not given.plain, shown=given.shown))


if __name__ == "__main__":
    main()
