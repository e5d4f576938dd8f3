"""The demo on a real control plane, with a twentieth of the flights: the same checks, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hack.cluster import prometheus
from hack.tools.builder import wait_for
from hack.tools.programs import CLUSTER, missing
from tests.cluster.conftest import ROOT, tools_wait

SECONDS = 400.0
FIELDS = {
    *("flights", "turns", "lost", "doubled", "out_of_order", "kills", "operator_kills", "moves", "scale_ups"),
    *("recovery_seconds", "seconds", "turns_per_second"),
}


def left_in(folder: Path) -> list[str]:
    """Command lines of the processes that work in a folder or were told of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = os.readlink(process / "cwd")
        except OSError:
            continue  # it has ended meanwhile
        if str(folder) in command or place.startswith(str(folder)):
            found.append(command)
    return found


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.row("CP-27", part="every query of the boards on the demo's Prometheus")
@pytest.mark.row("CP-7", part="a killed pod under load, time printed")
@pytest.mark.row("CP-9", part="a step of load brings in a pod")
def test_a_twentieth_of_the_flights_on_a_cluster_loses_nothing_and_leaves_nothing_running(tmp_path: Path) -> None:
    wait_for(CLUSTER, tools_wait())
    if why := missing(CLUSTER) or prometheus.missing():
        pytest.skip(why)
    file = tmp_path / "demo" / "result.json"
    options = ["--cluster", "--share", "0.05", "--no-kill-operator", "--result", str(file)]

    done = subprocess.run(
        [sys.executable, "-m", "examples.flights.demo", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    print(done.stdout)
    result = json.loads(file.read_text())
    failed = {name: check["reason"] for name, check in result["checks"].items() if not check["ok"]}
    assert (failed, done.returncode) == ({}, 0), done.stderr[-2000:]
    assert set(result) >= FIELDS
    assert (result["lost"], result["doubled"], result["out_of_order"]) == (0, 0, 0)
    assert (result["flights"], result["turns"]) == (16_839, 3 * 16_839)
    assert (result["kills"], result["operator_kills"]) == (1, 0)
    assert result["moves"] > 0
    assert result["scale_ups"] > 0
    assert "boards" in result["checks"]
    assert done.stdout.splitlines()[-1] == "lost 0, doubled 0, out of order 0"
    assert left_in(tmp_path) == []


def test_without_the_programs_the_demo_says_which_are_missing_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "demo" / "result.json"
    empty = {"PATH": str(tmp_path), "STARLING_TOOLS": str(tmp_path), "HOME": os.environ.get("HOME", "")}

    done = subprocess.run(
        [sys.executable, "-m", "examples.flights.demo", "--cluster", "--share", "0.001", "--result", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=empty,
    )

    assert done.returncode == 1
    check = json.loads(file.read_text())["checks"]["finished"]
    assert check["ok"] is False
    assert check["reason"].startswith("DemoFailed: no etcd, kube-apiserver, kubectl")
