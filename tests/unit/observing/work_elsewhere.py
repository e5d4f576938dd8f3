"""Functions that run in other processes: found there by the name of this module."""

from __future__ import annotations

import os
import signal
import time


def pid_and_square(number: int) -> tuple[int, int]:
    return os.getpid(), number * number


def compute(seconds: float) -> int:
    """Keep a core busy."""
    end = time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < end:
        rounds += 1
    return rounds


def fail(text: str) -> None:
    raise ValueError(text)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
