"""Processes that belong to a folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.api import wait_until
from hack.cluster.errors import NotReady
from hack.cluster.processes import Processes, started_at
from hack.tools.programs import ROOT

SLEEP = ["sleep", "60"]
DEAF = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path, tied=True)
    yield found
    found.stop()


def test_what_was_started_is_listed_in_order_and_ended_by_stop(processes: Processes) -> None:
    pids = {name: processes.spawn(name, SLEEP) for name in ("z", "a")}
    assert list(processes.alive()) == ["z", "a"]
    assert processes.alive() == pids

    processes.stop()

    assert processes.alive() == {}
    assert not any(map(started_at, pids.values()))


def test_a_process_that_ignores_the_signal_is_killed_after_its_grace(processes: Processes) -> None:
    pid = processes.spawn("deaf", DEAF)
    wait_until("it is deaf", lambda: processes.tail("deaf") == "deaf")

    processes.stop(grace=0.2)

    assert not started_at(pid)


def test_a_killed_process_is_started_again_in_the_same_way(processes: Processes) -> None:
    first = processes.spawn("one", ["sh", "-c", "echo $GREETING; exec sleep 60"], env={"GREETING": "hello"})
    wait_until("it has spoken", lambda: processes.tail("one") == "hello")
    processes.kill("one")
    assert processes.alive() == {}

    second = processes.start("one")

    wait_until("it has spoken again", lambda: processes.tail("one") == "hello\nhello")
    assert processes.alive() == {"one": second}
    assert second != first


def test_another_process_with_the_same_number_is_not_taken_for_ours(processes: Processes, tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as stranger:
        (tmp_path / "old.json").write_text("{}")
        (tmp_path / "old.pid").write_text(f"{stranger.pid} 1")
        (tmp_path / "dead.json").write_text("{}")
        (tmp_path / "dead.pid").write_text("999999999 ")

        assert processes.alive() == {}
        processes.stop()
        assert started_at(stranger.pid)
        stranger.kill()


def test_a_process_that_has_ended_is_reported_with_its_last_words(processes: Processes) -> None:
    processes.spawn("short", ["sh", "-c", "echo no such disk; exit 3"])
    wait_until("it has ended", lambda: not processes.alive())

    with pytest.raises(NotReady, match="short has ended:\nno such disk"):
        processes.require("short")


def test_tied_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = """
import pathlib, sys, time
from hack.cluster.processes import Processes
Processes(pathlib.Path(sys.argv[1]), tied=True).spawn("one", ["sleep", "60"])
print("up", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        (pid,) = Processes(tmp_path).alive().values()
        parent.send_signal(signal.SIGKILL)

    wait_until("it is gone", lambda: not started_at(pid), seconds=5)


def test_killing_or_starting_the_wrong_one_is_refused_by_name(processes: Processes) -> None:
    processes.spawn("one", SLEEP)
    with pytest.raises(NotReady, match="two does not run; there are: one"):
        processes.kill("two")
    with pytest.raises(NotReady, match="two was never started"):
        processes.start("two")
    with pytest.raises(NotReady, match="one runs already"):
        processes.start("one")
