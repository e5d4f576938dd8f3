"""The benchmarks and the fault suite run, and say what they saw."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import short

ROOT = Path(__file__).parents[2]


def run(*arguments: str, result: Path) -> dict[str, Any]:
    """The JSON of a run, and what it has printed as `said`."""
    command = [sys.executable, "-m", *arguments, "--json", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(result.read_text())
    return {**value, "said": done.stdout}


def test_a_killed_worker_loses_nothing_in_the_fault_suite(tmp_path: Path) -> None:
    value = run("benchmarks.faults", "--only", "worker-killed-for-good", result=tmp_path / "faults.json")

    (row,) = value["rows"]
    assert (row["lost"], row["doubled"], row["out_of_order"], row["failures"]) == (0, 0, 0, [])
    assert row["accepted"] > 100
    assert row["recovery_seconds"] > 0


def test_a_profile_of_queries_says_what_one_costs_although_a_query_is_no_turn() -> None:
    command = [sys.executable, "-m", "benchmarks.profile", "queries", "in_flight=20", "seconds=0.3", "--shown", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    costs = re.search(
        r"^[\d,]+ turns in \d+ commits, ([\d,]+) queries; CPU for each: worker ([\d.]+) us", done.stdout, re.M
    )
    assert costs is not None, done.stdout
    assert int(costs[1].replace(",", "")) > 10
    assert float(costs[2]) > 0
    rows = done.stdout.partition("for each, in the function itself")[2].splitlines()[1:]
    assert len(rows) == 3


@pytest.mark.row("RT-89", part="the short form runs with the tests, and its figures say where they were taken")
def test_a_benchmark_writes_its_figures_and_where_they_were_taken(tmp_path: Path) -> None:
    value = run("benchmarks", "--quick", "--only", "bodies", result=tmp_path / "bench.json")

    assert value["environment"]["cores"] >= 1
    assert value["environment"]["nats_server"].startswith("v2.")
    assert [case["error"] for case in value["cases"]] == [""] * len(value["cases"])
    assert value["cases"][0]["entries"]["Starling, 2 workers"]["figures"]["per_second"]["median"] > 0


@pytest.mark.row("RT-83", part="resident memory of idle agents is reported, and under 1 MB each", completes=True)
@pytest.mark.row(
    "RT-89", part="a run in batches of 100 prints environment, rate and p50 to p99.9, and writes JSON", completes=True
)
@pytest.mark.row(
    "RT-82",
    part="rate and percentiles of a long run, first calls of new agents, 10 MB of state saved and loaded: each is "
    "printed beside its target, with the environment; `make bench` judges them, and the rate over autogen-core's",
)
def test_the_local_runtime_is_measured_in_batches_with_new_agents_large_state_and_idle_agents(tmp_path: Path) -> None:
    value = run("benchmarks", "--quick", "--only", "local-sizes", result=tmp_path / "bench.json")

    batches, fresh, large, idle = (
        {name: figure["median"] for name, figure in case["entries"]["Starling, local runtime"]["figures"].items()}
        for case in value["cases"]
    )
    for name in ("per_second", "p50_us", "p99_us", "p999_us"):
        assert batches[name] > 0
        assert f"{name} {short(batches[name])}" in value["said"]
    assert f"cpu {value['environment']['cpu']}" in value["said"]
    assert 0 < fresh["p50_us"] <= fresh["p999_us"]
    assert large["save_ms"] > 0
    assert large["load_ms"] > 0
    for judged in (
        "calls a second: at least 10000, is ",
        "p50 of the first call in microseconds: at most 10000, is ",
        "milliseconds to save: at most 100, is ",
        "milliseconds to load: at most 100, is ",
    ):
        assert judged in value["said"]
    assert 0 < idle["bytes_per_agent"] < 1_000_000


@pytest.mark.row("RT-92", part="size and CPU with and without are printed for a fixture", completes=True)
def test_what_compression_saves_and_costs_is_measured_for_a_fixture_and_printed(tmp_path: Path) -> None:
    value = run("benchmarks", "--quick", "--only", "compression", result=tmp_path / "bench.json")

    large, streams = (
        {
            label: {name: figure["median"] for name, figure in entry["figures"].items()}
            for label, entry in case["entries"].items()
        }
        for case in value["cases"]
    )
    for entry in (*large.values(), *streams.values()):
        assert entry["cpu_us"] > 0
        assert f"stored_mb {short(entry['stored_mb'])}, cpu_us {short(entry['cpu_us'])}" in value["said"]
    assert 0 < large["zstd"]["stored_mb"] < 0.3 * large["as they are"]["stored_mb"]
    assert 0 < streams["s2"]["stored_mb"] < 0.8 * streams["as they are"]["stored_mb"]
    assert streams["as they are"]["stored_mb"] >= streams["as they are"]["sent_mb"]
