"""What has been read, accepted and finished of one inlet of a mailbox: floor, window, done.

A position is the stream sequence of one frame. It is finished when all its messages are. The floor is the
position below and at which everything is finished; `done` holds what is finished above it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping

from starling.core import limits
from starling.core.record import Done, Source


class Position:
    """One frame that has been read: how many of its messages are not finished yet."""

    __slots__ = ("count", "finished", "left", "number", "sequence", "source")

    def __init__(self, sequence: int, count: int, source: Source | None, number: int) -> None:
        self.sequence = sequence
        self.count = count
        self.left = count
        self.finished: set[int] | None = None
        """Indices of finished messages, kept only while the frame is finished in part."""
        self.source = source
        self.number = number

    def finish(self, index: int) -> None:
        """Mark one message as finished: its turn is part of the commit that is being built."""
        self.left -= 1
        if self.left:
            if self.finished is None:
                self.finished = set()
            self.finished.add(index)


class Positions:
    """The read part of one inlet above its floor."""

    def __init__(self, floor: int, done: Done) -> None:
        self.floor = floor
        self.last_read = floor
        self._window: deque[Position] = deque()
        self._carried = [r for r in done.ranges if r[1] > floor]
        self._carried_partly = {p: i for p, i in done.partly.items() if p > floor}
        self.passed: dict[Source, int] = {}
        """Acceptance as of the floor: what changed since it was last cleared."""

    @property
    def is_open(self) -> bool:
        """Whether the window has room for a further position."""
        return len(self._window) < limits.WINDOW

    def position_at(self, depth: int) -> int:
        """Return the sequence of the position so many above the floor; there must be as many."""
        return self._window[depth].sequence

    @property
    def unfinished(self) -> int:
        """How many read positions are above the floor."""
        return len(self._window)

    @property
    def room(self) -> int:
        """How many further positions the window takes."""
        return limits.WINDOW - len(self._window)

    def arrive(self, sequence: int, count: int, source: Source | None, number: int) -> tuple[Position, frozenset[int]]:
        """Note that a frame was read; return it and the indices of messages that were finished by an earlier owner.

        source and number: of an accepted frame, so that acceptance is remembered as of the floor. A frame that
        is ignored arrives with a count of 0 and is finished at once.
        """
        position = Position(sequence, count, source, number)
        self._window.append(position)
        self.last_read = sequence
        already = self._finished_before(sequence, count)
        for index in already:
            position.finish(index)
        return position, already

    def _finished_before(self, sequence: int, count: int) -> frozenset[int]:
        partly = self._carried_partly.pop(sequence, None)
        if partly is not None:
            return frozenset(partly)
        if self._carried:
            at = bisect_right(self._carried, (sequence, 1 << 62)) - 1
            if at >= 0 and self._carried[at][1] >= sequence:
                return frozenset(range(count))
        return frozenset()

    def advance(self) -> int:
        """Move the floor over what is finished and return it."""
        window = self._window
        while window and not window[0].left:
            position = window.popleft()
            self.floor = position.sequence
            if position.source is not None:
                self.passed[position.source] = position.number
        return self.floor

    def done(self) -> Done:
        """Return what is finished above the floor, with what an earlier owner finished and we have not read yet."""
        if not (self._window or self._carried or self._carried_partly):
            return _NOTHING  # four of five looks of a commit at its inlets
        ranges: list[tuple[int, int]] = []
        partly: dict[int, tuple[int, ...]] = {}
        first = last = 0
        for position in self._window:
            if not position.left:
                first, last = first or position.sequence, position.sequence
                continue
            if first:
                ranges.append((first, last))
                first = 0
            if position.finished:
                partly[position.sequence] = tuple(sorted(position.finished))
        if first:
            ranges.append((first, last))
        read = self.last_read
        ranges.extend((max(start, read + 1), end) for start, end in self._carried if end > read)
        partly.update({p: i for p, i in self._carried_partly.items() if p > read})
        return Done(tuple(ranges), partly)


_NOTHING = Done()


def accepts(seen: Mapping[Source, int], source: Source, previous: int) -> bool:
    """Whether a frame counts: its predecessor is the last number accepted from that source.

    Otherwise it is a repeat, or behind a gap that the sender closes by sending again.
    """
    return seen.get(source, 0) == previous
