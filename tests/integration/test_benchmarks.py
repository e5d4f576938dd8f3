"""The benchmarks and the fault suite run, and say what they saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, result: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", *arguments, "--json", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(result.read_text())
    return value


def test_a_killed_worker_loses_nothing_in_the_fault_suite(tmp_path: Path) -> None:
    value = run("benchmarks.faults", "--only", "worker-killed-for-good", result=tmp_path / "faults.json")

    (row,) = value["rows"]
    assert (row["lost"], row["doubled"], row["out_of_order"], row["failures"]) == (0, 0, 0, [])
    assert row["accepted"] > 100
    assert row["recovery_seconds"] > 0


@pytest.mark.row("RT-89", part="the short form runs with the tests, and its figures say where they were taken")
def test_a_benchmark_writes_its_figures_and_where_they_were_taken(tmp_path: Path) -> None:
    value = run("benchmarks", "--quick", "--only", "bodies", result=tmp_path / "bench.json")

    assert value["environment"]["cores"] >= 1
    assert value["environment"]["nats_server"].startswith("v2.")
    assert [case["error"] for case in value["cases"]] == [""] * len(value["cases"])
    assert value["cases"][0]["entries"]["Starling, 2 workers"]["figures"]["per_second"]["median"] > 0
