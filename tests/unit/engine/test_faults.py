"""A process that is told to die at a point does so, at the pass that was asked for, and at no other."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from starling.engine.faults import Point, fault, no_fault
from starling.errors import SpecError

PASSES = """
from starling.engine.faults import Point, fault
passed = fault("turn-done:3")
for number in range(5):
    passed(Point.ACCEPTED)
    passed(Point.TURN_DONE)
    print(number + 1, flush=True)
"""


def test_the_process_ends_without_a_goodbye_at_the_pass_that_was_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", PASSES], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["1", "2"])


SENDS = """
import asyncio
from starling.engine.faults import Point, fault

async def main():
    passed = fault("record-sent:2")
    for number in range(1, 4):
        asyncio.get_running_loop().call_soon(print, number)
        passed(Point.RECORD_SENT)
        await asyncio.sleep(0.2)

asyncio.run(main())
"""


def test_what_is_sent_leaves_the_process_before_it_ends() -> None:
    command = [sys.executable, "-u", "-c", SENDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["1", "2"])


def test_without_a_fault_nothing_happens() -> None:
    assert fault("") is no_fault
    for point in Point:
        no_fault(point)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nowhere", "'nowhere' is no point; there are taken, accepted"),
        ("taken:0", "'0' is no count of passes; give 1 or more"),
        ("taken:x", "'x' is no count"),
        (":2", "'' is no point"),
    ],
)
def test_a_fault_that_is_none_is_refused_by_the_name_of_its_variable(text: str, problem: str) -> None:
    with pytest.raises(SpecError, match=f"^STARLING_FAULT: {problem}"):
        fault(text)
