"""`python -m tests.simulation --seeds 1000`, or `--seed 7 --trace` to see one run again."""

from __future__ import annotations

import argparse
import os
import sys

from .runner import Rate, Result, run_many, run_seed

TRACE_LINES = 60


def main() -> int:
    """Exit code 0 when every seed is fine."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--trace", action="store_true", help="print everything that happened")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    given = parser.parse_args()
    if given.seed is not None:
        return _one(given.seed, given.trace)
    return _many(range(given.first, given.first + given.seeds), given.workers)


def _one(seed: int, whole: bool) -> int:
    result = run_seed(seed, trace=True)
    for line in result.trace if whole else result.trace[-TRACE_LINES:]:
        print(line)
    _report(result)
    return 1 if result.problems else 0


def _many(seeds: range, workers: int) -> int:
    rate = Rate()
    failures = 0
    for result in run_many(seeds, workers=workers):
        if result.problems:
            failures += 1
            _report(result)
    print(rate.text(len(seeds)))
    print(f"{len(seeds)} seeds, {failures} failures")
    return 1 if failures else 0


def _report(result: Result) -> None:
    if not result.problems:
        print(f"seed {result.seed}: fine")
        return
    print(
        f"seed {result.seed}: {len(result.problems)} problems; again: python -m tests.simulation --seed {result.seed}"
    )
    for problem in result.problems[:8]:
        print(f"  {problem}")


if __name__ == "__main__":
    sys.exit(main())
