"""`python -m benchmarks`: measure, compare with peers, judge the targets; writes build/bench.json."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks import page
from benchmarks.bench import Bench, told, within
from benchmarks.environment import environment
from benchmarks.groups import GROUPS
from benchmarks.kept import keep

GROUP_TIMEOUT: Final = 900.0


async def run(bench: Bench, names: list[str], target: Path) -> None:
    """Run the groups; what is known so far is in the file after each, so that a run that is stopped was not in vain."""
    taken_on = environment()
    bench.say(", ".join(f"{name} {fact}" for name, fact in taken_on.items()))
    started = time.monotonic()
    for name in names:
        bench.group = name
        bench.say(f"== {name}")
        await within(GROUP_TIMEOUT, GROUPS[name], bench)
        value: dict[str, Any] = {
            "environment": taken_on,
            "rounds": bench.rounds,
            "quick": bench.quick,
            "seconds": round(time.monotonic() - started, 1),
            "cases": [case.as_json() for case in bench.cases],
        }
        keep(value, target)


def main() -> int:
    """Return the exit code: 1 when something could not be measured, or with --strict when a target is missed."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="short loads, one round: to see that everything works, not for figures"
    )
    parser.add_argument("--only", action="append", choices=sorted(GROUPS), help="this group; may be given again")
    parser.add_argument("--rounds", type=int, help="of each comparison, default 5 (1 with --quick)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="file to write")
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks.md too")
    parser.add_argument("--strict", action="store_true", help="exit code 1 also when a target is missed")
    given = parser.parse_args()
    if given.rounds is not None and given.rounds < 1:
        parser.error(f"--rounds is {given.rounds}; give at least 1")
    bench = Bench(rounds=given.rounds or (1 if given.quick else 5), quick=given.quick, say=_say)
    started = time.monotonic()
    try:
        uvloop.run(run(bench, given.only or list(GROUPS), given.json))
    finally:
        bench.close()
    if given.page:
        page.write([given.json], page.PAGE, Path("build/faults.json"))
    failed = [case for case in bench.cases if case.error]
    missed = [(case.title, outcome) for case in bench.cases for outcome in case.outcomes if not outcome.ok]
    for title, outcome in missed:
        _say(f"missed: {title}: {told(outcome)}")
    for case in failed:
        _say(f"failed: {case.title}: {case.error}")
    seconds = time.monotonic() - started
    _say(f"written to {given.json}; `python -m benchmarks.page --json {given.json}` makes docs/benchmarks.md of it")
    _say(f"{len(bench.cases)} measurements, {len(failed)} failed, {len(missed)} targets missed, {seconds:.0f} s")
    return 1 if failed or (given.strict and missed) else 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
