"""A thousand worlds: whatever the seed's faults, P1 to P4 hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .runner import run_many, run_seed

SEEDS = 1000
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_a_thousand_seeds_keep_every_promise() -> None:
    workers = min(2, os.cpu_count() or 1)
    wrong = [result for result in run_many(range(SEEDS), workers=workers) if result.problems]
    assert wrong == []


def test_a_seed_runs_the_same_way_in_another_process() -> None:
    program = (
        "from tests.simulation.runner import run_seed\n"
        "for seed in (3, 44): print('\\n'.join(run_seed(seed, trace=True).trace))"
    )
    traces = []
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        made = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        traces.append(made.stdout.splitlines())
    assert traces[0] == traces[1]
    assert len(traces[0]) > 100


def test_a_seed_that_is_run_twice_in_one_process_runs_the_same_way() -> None:
    assert run_seed(7, trace=True) == run_seed(7, trace=True)
