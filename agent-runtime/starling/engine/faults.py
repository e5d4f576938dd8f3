"""Points at which a process may be made to die, so that tests can see what survives it.

`STARLING_FAULT=record-sent:3` ends the process without a goodbye when it passes that point for the third time.
What is sent is still in a buffer of this process at first: there the end comes a few rounds of the loop later, when
it is on its way and not answered yet.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from starling.errors import SpecError


class Point(StrEnum):
    """Where a shard's owner is in its work."""

    TAKEN = "taken"
    ACCEPTED = "accepted"
    TURN_DONE = "turn-done"
    RECORD_SENT = "record-sent"
    RECORD_ACKED = "record-acked"
    FRAME_SENT = "frame-sent"
    TABLE_SENT = "table-sent"
    PURGE_SENT = "purge-sent"
    RELEASED = "released"


SENT: Final = frozenset({Point.RECORD_SENT, Point.FRAME_SENT, Point.TABLE_SENT})
ROUNDS: Final = 5

Passed = Callable[[Point], None]
"""Told of each point that is passed; it may end the process."""


def no_fault(point: Point) -> None:
    """Nothing happens."""


def fault(text: str) -> Passed:
    """Return what `STARLING_FAULT` asks for: `point` or `point:n`, "" for no fault. Raises SpecError."""
    if not text:
        return no_fault
    name, _, times = text.partition(":")
    if name not in set(Point):
        raise SpecError("STARLING_FAULT", f"{name!r} is no point; there are {', '.join(Point)}")
    if times and not (times.isdecimal() and int(times) > 0):
        raise SpecError("STARLING_FAULT", f"{times!r} is no count of passes; give 1 or more")
    fatal, left = Point(name), int(times or 1)

    def passed(point: Point) -> None:
        nonlocal left
        if point is fatal:
            left -= 1
            if left == 0:
                _end(ROUNDS if point in SENT else 0)

    return passed


def _end(rounds: int) -> None:
    if rounds:
        asyncio.get_running_loop().call_soon(_end, rounds - 1)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
