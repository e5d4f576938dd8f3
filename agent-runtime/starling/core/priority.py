"""One scale of priorities, and who is next by it: with a bound on how long the lower ones wait."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final, Generic, Protocol, TypeVar

from starling.core.names import Lane


class Priority(IntEnum):
    """How urgent a message is: for messages, queues and HTTP alike."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    URGENT = 3


LANES: Final = (Lane.NORMAL, Lane.NORMAL, Lane.URGENT, Lane.URGENT)
"""The lane of each priority."""

BOUND: Final = 8
"""At least one start in so many goes to the lower of two that wait."""


def lane_of(priority: int) -> Lane:
    """Return the lane that messages of this priority travel in; a priority out of range counts as the nearest."""
    return LANES[min(max(priority, 0), 3)]


class Queued(Protocol):
    """Something that may wait in a `Ready`. ready: the level that it waits at, -1 for none; kept by `Ready`."""

    ready: int


Q = TypeVar("Q", bound=Queued)


class Ready(Generic[Q]):
    """What is ready to start, by priority; first come, first served within one.

    Of two levels that wait, the upper goes first, but at least one start in eight is of the lower lane, and within
    a lane at least one in eight of the lower priority: a low one starts within 64 starts at the latest.
    """

    __slots__ = ("_levels", "_runs", "_size")

    def __init__(self) -> None:
        self._levels: tuple[deque[Q], ...] = (deque(), deque(), deque(), deque())
        self._runs = [0, 0, 0]
        """Starts in a row that passed over somebody: normal over low, urgent over high, upper lane over lower."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, item: Q, priority: int) -> None:
        """Let the item wait at a level; one that waits already moves up, never down."""
        if item.ready >= priority:
            return
        if item.ready < 0:
            self._size += 1
        item.ready = priority
        self._levels[priority].append(item)

    def pop(self) -> Q:
        """Return who is next. Raises IndexError when nobody waits."""
        low, normal, high, urgent = self._levels
        if normal and normal[0].ready == Priority.NORMAL and not (low or high or urgent):  # nearly always
            self._runs[0] = self._runs[2] = 0
            item = normal.popleft()
            item.ready = -1
            self._size -= 1
            return item
        low, normal, high, urgent = (self._live(level) for level in range(4))
        if (low or normal) and (high or urgent):
            upper = self._runs[2] < BOUND - 1
            self._runs[2] = self._runs[2] + 1 if upper else 0
        else:
            upper = bool(high or urgent)
            self._runs[2] = 0
        return self._take(2, high, urgent) if upper else self._take(0, low, normal)

    def _live(self, level: int) -> deque[Q]:
        """The level without those at its head that have moved up since."""
        waiting = self._levels[level]
        while waiting and waiting[0].ready != level:
            waiting.popleft()
        return waiting

    def _take(self, base: int, lower: deque[Q], upper: deque[Q]) -> Q:
        run = base // 2
        if lower and upper:
            take_lower = self._runs[run] >= BOUND - 1
            self._runs[run] = 0 if take_lower else self._runs[run] + 1
        else:
            take_lower = not upper
            self._runs[run] = 0
        item = (lower if take_lower else upper).popleft()
        item.ready = -1
        self._size -= 1
        return item
