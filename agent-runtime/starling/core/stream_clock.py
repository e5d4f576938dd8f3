"""The store's time, told by our own monotonic clock: what a machine's wall clock says decides nothing."""

from __future__ import annotations

from collections.abc import Callable


class StreamClock:
    """Seconds since 1970 by the store's clock, as far as it was heard.

    Between two hearings it runs by `ticks`, a monotonic clock, so that a wall clock may jump as it likes. Before
    the first one it is the wall clock's time. Each hearing corrects it to within the time that the answer took
    (Cristian's algorithm, 1989, as an interval).
    """

    def __init__(self, wall: Callable[[], float], ticks: Callable[[], float]) -> None:
        self._wall = wall
        self._ticks = ticks
        self._ahead: float | None = None

    @property
    def is_heard(self) -> bool:
        """Whether the store has said its time at least once."""
        return self._ahead is not None

    def now(self) -> float:
        """Return the store's present time, seconds since 1970."""
        return self._wall() if self._ahead is None else self._ticks() + self._ahead

    def heard(self, time: float, *, asked: float, answered: float) -> float:
        """Learn that the store's clock read `time` at some moment between these two of `ticks`.

        Returns by how many seconds the clock was put forward (or back, negative).
        """
        before = self.now()
        least, most = time - answered, time - asked
        ahead = (least + most) / 2 if self._ahead is None else self._ahead
        self._ahead = min(max(ahead, least), most)
        return self.now() - before
