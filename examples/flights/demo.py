"""The demo: all flights through a mesh that loses a worker, gains one and moves shards meanwhile.

python -m examples.flights.demo              on `starling dev`; writes build/demo/result.json
python -m examples.flights.demo --cluster    on a real Kubernetes control plane; writes build/demo-cluster/result.json
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starling import Mesh, connect
from starling.adapters.nats import connect as connect_store
from starling.errors import SpecError
from starling.loops import run

from examples.flights.check import read_states, wait_until_handled
from examples.flights.expected import compare, expected
from examples.flights.owners import Owners
from examples.flights.replay import HOLD_SECONDS, Hold, Row, feed, read_rows
from examples.flights.result import Result
from examples.flights.stage import Stage

POOL: Final = "aircraft"
"""The pool that loses a worker."""
RECOVERY_TIMEOUT: Final = 60.0
OPERATOR_AWAY: Final = 30.0
LINE_EVERY: Final = 2.0
STAGES: Final = {
    "dev": "examples.flights.dev_stage:DevStage",
    "cluster": "examples.flights.cluster_stage:ClusterStage",
}
RESULTS: Final = {"dev": Path("build/demo/result.json"), "cluster": Path("build/demo-cluster/result.json")}


@dataclass(frozen=True, slots=True)
class Options:
    """every: replays each so many-th row; moves: whether a move and a scale-up must be seen; seconds: for all of it."""

    result: Path
    every: int = 1
    kill_operator: bool = False
    moves: bool = True
    hold_seconds: float = HOLD_SECONDS
    seconds: float = 900.0


class Demo:
    """One run of the demo."""

    def __init__(self, stage: Stage, options: Options, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._options = options
        self._say = say
        self._sent = 0
        self._total = 0
        self._third = asyncio.Event()
        self._half = asyncio.Event()
        self.result = Result(stage.name)

    async def run(self) -> None:
        """Run to the end; the result's checks say how it went. Raises what went wrong on the way."""
        rows = await asyncio.to_thread(read_rows, every=self._options.every)
        self._total = self.result.flights = len(rows)
        self._say(f"{self._total:,} flights read; starting")
        await self._stage.start()
        self._say(f"started: NATS at {self._stage.nats_url}")
        store = await connect_store(self._stage.nats_url, name="demo owners")
        try:
            async with connect(self._stage.nats_url, mesh=self._stage.mesh, name="demo") as mesh:
                await self._replay(mesh, rows, Owners(store, self._stage.mesh, POOL))
                self._say("everything is handled; reading every state")
                self.result.compared(compare(expected(rows), await read_states(mesh, rows)))
            for name, (ok, reason) in (await self._stage.checks()).items():
                self.result.check(name, ok, reason)
        finally:
            await store.close()
        if self.result.turns and self.result.seconds:
            self.result.turns_per_second = round(self.result.turns / self.result.seconds, 1)

    async def _replay(self, mesh: Mesh, rows: Sequence[Row], owners: Owners) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(owners.run(), name="owners"), tasks.create_task(self._lines(started))]
            faults = [tasks.create_task(self._kill_worker(owners), name="kill")]
            if self._options.kill_operator:
                faults.append(tasks.create_task(self._kill_operator(), name="kill operator"))
            hold = Hold(self._moved_and_scaled, self._options.hold_seconds) if self._options.moves else None
            held = await feed(mesh, rows, progress=self._progress, hold=hold)
            self.result.held_seconds = round(held, 1)
            self._say(f"all {self._total:,} flights are sent; waiting until they are handled")
            movements = await wait_until_handled(mesh, rows)
            self.result.seconds = round(loop.time() - started, 1)
            self.result.check(
                "handled", movements >= 2 * self._total, f"{movements:,} of {2 * self._total:,} movements handled"
            )
            await asyncio.gather(*faults)
            await self._moved_and_scaled()
            for follower in followers:
                follower.cancel()
        if self._options.moves:
            self.result.check("moved", self.result.moves > 0, f"{self.result.moves} moves because of load")
            self.result.check("scaled up", self.result.scale_ups > 0, f"{self.result.scale_ups} scale-ups")

    def _progress(self, sent: int) -> None:
        self._sent = sent
        if sent >= self._total // 3:
            self._third.set()
        if sent >= self._total // 2:
            self._half.set()

    async def _moved_and_scaled(self) -> bool:
        """Look at moves and scale-ups; whether there was one of each."""
        result = self.result
        for seen, now in (
            (result.moves_seen, await self._stage.moves()),
            (result.scale_ups_seen, await self._stage.scale_ups()),
        ):
            for line in now[len(seen) :]:
                self._say(f"seen: {line}")
                seen.append(line)
        result.moves, result.scale_ups = len(result.moves_seen), len(result.scale_ups_seen)
        return result.moves > 0 and result.scale_ups > 0

    async def _kill_worker(self, owners: Owners) -> None:
        """SIGKILL a worker a third of the way, and measure until all of its shards have a newer owner."""
        loop = asyncio.get_running_loop()
        await self._third.wait()
        before = owners.now()
        killed = await self._stage.kill_worker(POOL)
        self.result.kills += 1
        lost = before.get(killed.pod, {})
        self._say(f"killed {killed.pod}, which ran {len(lost)} shards")
        self.result.check("killed", bool(lost), f"{killed.pod} ran {len(lost)} shards")
        try:
            async with asyncio.timeout(RECOVERY_TIMEOUT):
                await owners.taken_again(lost)
        except TimeoutError:
            self.result.check("recovered", False, f"its shards had no new owner after {RECOVERY_TIMEOUT:.0f} s")
            return
        self.result.recovery_seconds = round(loop.time() - killed.at, 3)
        self.result.check("recovered", True, f"its shards had new owners after {self.result.recovery_seconds} s")
        self._say(f"its shards run again after {self.result.recovery_seconds} s")

    async def _kill_operator(self) -> None:
        await self._half.wait()
        await self._stage.kill_operator()
        self.result.operator_kills += 1
        self._say(f"killed the operator; it is away for {OPERATOR_AWAY:.0f} s")
        await asyncio.sleep(OPERATOR_AWAY)
        await self._stage.start_operator()
        self._say("started the operator again")

    async def _lines(self, started: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LINE_EVERY)
            await self._moved_and_scaled()
            pods = ", ".join(f"{pool} {count} pods" for pool, count in sorted((await self._stage.pods()).items()))
            self._say(
                f"{loop.time() - started:6.1f} s  {self._sent:,} of {self._total:,} sent, {pods}, "
                f"moves {self.result.moves}"
            )


async def run_demo(stage: Stage, options: Options, say: Callable[[str], None] = print) -> Result:
    """Run the demo and write its result, whatever happens; a crash is a failed check."""
    demo = Demo(stage, options, say)
    result = demo.result
    result.check("finished", False, "it was interrupted")
    try:
        async with asyncio.timeout(options.seconds):
            await demo.run()
        del result.checks["finished"]
        result.check("finished", True, "it ran to the end")
    except Exception as error:
        result.checks["finished"].reason = _reasons(error)
    finally:
        try:
            await stage.stop()
        except Exception as error:
            result.check("stopped", False, _reasons(error))
        result.write(options.result)
    for name, check in result.checks.items():
        say(f"{'ok    ' if check.ok else 'FAILED'} {name}: {check.reason}")
    say(result.last_line())
    return result


def _reasons(error: BaseException) -> str:
    return "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def stage_of(name: str, folder: Path) -> Stage:
    """Return a stage by its short name, or by "module:Class" of one that is made from a folder. Raises SpecError."""
    module, colon, cls = STAGES.get(name, name).partition(":")
    if not colon:
        raise SpecError("--stage", f"{name!r} is neither one of {', '.join(STAGES)} nor of the form module:Class")
    made: Stage = getattr(importlib.import_module(module), cls)(folder)
    return made


def share(text: str) -> float:
    """Read a part of the whole: above 0, at most 1."""
    part = float(text)
    if not 0 < part <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: give a number above 0, at most 1")
    return part


def arguments() -> argparse.ArgumentParser:
    """Return what the command takes."""
    parser = argparse.ArgumentParser(description="Replay the flights of 2013 through a mesh under trouble.")
    parser.add_argument("--stage", default="dev", help=f"{', '.join(STAGES)}, or module:Class")
    parser.add_argument("--cluster", dest="stage", action="store_const", const="cluster", help="--stage cluster")
    parser.add_argument("--result", type=Path, help="file to write (default build/demo[-cluster]/result.json)")
    parser.add_argument("--share", type=share, default=1.0, help="part of the flights to replay, such as 0.05")
    parser.add_argument(
        "--kill-operator",
        action=argparse.BooleanOptionalAction,
        help="kill the operator half way, for half a minute (default: on a cluster)",
    )
    parser.add_argument("--no-moves", action="store_true", help="do not wait for a move and a scale-up")
    return parser


def main() -> int:
    """Return the exit code: 1 when any check fails."""
    given = arguments().parse_args()
    file = given.result or RESULTS.get(given.stage, RESULTS["dev"])
    kill_operator = given.stage == "cluster" if given.kill_operator is None else given.kill_operator
    options = Options(file, round(1 / given.share), kill_operator, not given.no_moves)
    result = run(run_demo(stage_of(given.stage, file.parent.absolute()), options))
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
