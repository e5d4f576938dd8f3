"""The store's time, told by a monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.stream_clock import StreamClock


@dataclass(slots=True)
class Machine:
    """A machine whose wall clock may be set at any time. true: the store's time."""

    true: float = 1_000_000.0
    wall_error: float = 0.0
    ticks_from: float = 999_000.0

    def wall(self) -> float:
        return self.true + self.wall_error

    def ticks(self) -> float:
        return self.true - self.ticks_from

    def ask(self, clock: StreamClock, there: float = 0.0, back: float = 0.0) -> float:
        """Ask the store's time over a network that takes so long each way."""
        asked = self.ticks()
        self.true += there
        said = self.true
        self.true += back
        return clock.heard(said, asked=asked, answered=self.ticks())


def test_before_the_store_was_heard_it_is_the_wall_clock() -> None:
    machine = Machine(wall_error=7.0)
    clock = StreamClock(machine.wall, machine.ticks)
    assert not clock.is_heard
    assert clock.now() == machine.true + 7.0


@pytest.mark.parametrize("error", [3600.0, -3600.0])
def test_once_heard_a_wrong_wall_clock_means_nothing(error: float) -> None:
    machine = Machine(wall_error=error)
    clock = StreamClock(machine.wall, machine.ticks)
    assert machine.ask(clock) == pytest.approx(-error)
    assert clock.now() == pytest.approx(machine.true)


def test_a_wall_clock_that_jumps_changes_nothing() -> None:
    machine = Machine()
    clock = StreamClock(machine.wall, machine.ticks)
    machine.ask(clock)
    for jump in (3600.0, -7200.0):
        machine.wall_error += jump
        machine.true += 1.0
        assert clock.now() == pytest.approx(machine.true)


def test_a_store_whose_clock_is_set_is_followed() -> None:
    machine = Machine()
    clock = StreamClock(machine.wall, machine.ticks)
    machine.ask(clock)
    for set_to in (50.0, -300.0):
        machine.true += set_to
        machine.ticks_from += set_to  # our own monotonic clock goes on as before
        machine.ask(clock)
        assert clock.now() == pytest.approx(machine.true)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.floats(0, 100)), min_size=1))
def test_the_error_is_never_more_than_the_quickest_answer_took(rounds: list[tuple[float, float, float]]) -> None:
    machine = Machine(wall_error=3600.0)
    clock = StreamClock(machine.wall, machine.ticks)
    for there, back, pause in rounds:
        machine.ask(clock, there, back)
        machine.true += pause
    quickest = min(there + back for there, back, _ in rounds)
    assert abs(clock.now() - machine.true) <= quickest + 1e-6
