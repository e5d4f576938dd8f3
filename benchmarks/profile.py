"""`python -m benchmarks.profile calls in_flight=100`: what a turn or query costs under one load of benchmarks.load.

Two passes on one worker: first without a profiler, for the CPU microseconds each of worker, server and load; then
with cProfile switched on in the worker while the load runs (profiling/sitecustomize.py). The profiler makes small
functions look dearer than they are: read its calls for each, and shares of time between functions of one size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pstats
import resource
import signal
import tempfile
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Final

import uvloop
from starling.errors import SpecError

from benchmarks.cost import cpu_seconds
from benchmarks.load import Load
from benchmarks.stage import Stage, StageOptions, stage

_COUNTED: Final = ("starling_turns_total", "starling_queries_total", "starling_commits_total")


async def profile(workload: str, parameters: Mapping[str, Any], *, shown: int) -> None:
    """Run one load twice and print what it cost."""
    with tempfile.TemporaryDirectory(prefix="starling-profile-") as name:
        folder = Path(name)
        target = folder / "profile"
        extra = {"PYTHONPATH": str(Path(__file__).parent / "profiling"), "STARLING_BENCH_PROFILE": str(target)}
        async with stage(folder / "mesh", StageOptions(workers=1, extra=lambda pod: extra)) as mesh:
            worker = mesh.pid(mesh.names()[0])
            await mesh.load("one_way", messages=2000)
            micros, _ = await _costs(mesh, worker, workload, parameters)
            os.kill(worker, signal.SIGUSR1)
            _, handled = await _costs(mesh, worker, workload, parameters, say=False)
            os.kill(worker, signal.SIGUSR2)
            async with asyncio.timeout(30):
                while not target.exists():
                    await asyncio.sleep(0.05)
        _show(target, handled, micros, shown)


async def _costs(
    mesh: Stage, worker: int, workload: str, parameters: Mapping[str, Any], *, say: bool = True
) -> tuple[float, float]:
    """Run the load; return the worker's CPU microseconds for a turn or query, and how many of them there were.

    Raises SpecError for a load without any.
    """
    server = mesh.servers[0].pid
    assert server is not None
    before = cpu_seconds(worker), cpu_seconds(server), _children()
    start = [await mesh.metric(name) for name in _COUNTED]
    figures = await mesh.load(workload, **parameters)
    turns, queries, commits = [await mesh.metric(name) - then for name, then in zip(_COUNTED, start, strict=True)]
    after = cpu_seconds(worker), cpu_seconds(server), _children()
    handled = turns + queries
    if not handled:
        raise SpecError("workload", f"{workload!r} had no turn and no query: {json.dumps(figures)}")
    micros = [(b - a) / handled * 1e6 for a, b in zip(before, after, strict=True)]
    if say:
        print(f"{workload} {dict(parameters)}: {json.dumps(figures)}")
        print(f"{turns:,.0f} turns in {commits:,.0f} commits, {queries:,.0f} queries; CPU for each: ", end="")
        labels = ("worker", "server", "load with its start")
        print(", ".join(f"{label} {value:.1f} us" for label, value in zip(labels, micros, strict=True)))
    return micros[0], handled


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _show(target: Path, handled: float, micros: float, shown: int) -> None:
    table: Mapping[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(str(target)).stats  # type: ignore[attr-defined]
    every = sum(row[2] for row in table.values())
    print(f"\n{'share':>6} {'us':>6} {'calls':>7}  for each, in the function itself (us scaled to the unprofiled cost)")
    for (file, line, function), (_, calls, own, _, _) in sorted(table.items(), key=lambda row: -row[1][2])[:shown]:
        where = (
            f"{file.rpartition('/site-packages/')[2].rpartition('/agent-runtime/')[2]}:{line}" if line else "built in"
        )
        print(f"{own / every:6.1%} {own / every * micros:6.1f} {calls / handled:7.2f}  {function}  {where}")


def parameters_of(workload: str, given: Sequence[str]) -> dict[str, Any]:
    """Return the parameters as values by name. Raises ValueError, which names what the load takes."""
    loads = {name: load for name, load in vars(Load).items() if callable(load) and not name.startswith("_")}
    if workload not in loads:
        raise ValueError(f"workload: {workload!r} is none of {', '.join(sorted(loads))}")
    known = list(signature(loads[workload]).parameters)[1:]
    parameters: dict[str, Any] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in known:
            raise ValueError(f"{workload}: {name!r} is none of its parameters: {', '.join(known)}")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            raise ValueError(f"{workload}: {text!r} is not of the form {name}=JSON, such as {name}=1") from None
    return parameters


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.profile", description=__doc__)
    parser.add_argument("workload", help="a method of benchmarks.load.Load")
    parser.add_argument("parameters", nargs="*", help="name=value, value as JSON")
    parser.add_argument("--shown", type=int, default=40, help="rows")
    given = parser.parse_args()
    try:
        parameters = parameters_of(given.workload, given.parameters)
    except ValueError as error:
        parser.error(str(error))
    uvloop.run(profile(given.workload, parameters, shown=given.shown))


if __name__ == "__main__":
    main()
