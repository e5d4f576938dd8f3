"""Who is next by priority: the upper first, but nobody waits for ever, and nobody is started twice."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.names import Lane
from starling.core.priority import BOUND, Priority, Ready, lane_of


class Waiting:
    """Something that waits."""

    def __init__(self, name: object = None) -> None:
        self.name = name
        self.ready = -1


def filled(**levels: int) -> Ready[Waiting]:
    ready: Ready[Waiting] = Ready()
    for name, count in levels.items():
        for number in range(count):
            ready.push(Waiting((name, number)), Priority[name.upper()])
    return ready


def started(ready: Ready[Waiting], count: int) -> list[str]:
    return [str(ready.pop().name[0]) for _ in range(count)]  # type: ignore[index]


@pytest.mark.parametrize(
    ("priority", "lane"),
    [(-5, Lane.NORMAL), (0, Lane.NORMAL), (1, Lane.NORMAL), (2, Lane.URGENT), (3, Lane.URGENT), (99, Lane.URGENT)],
)
def test_the_two_upper_priorities_travel_in_the_urgent_lane(priority: int, lane: Lane) -> None:
    assert lane_of(priority) is lane


def test_the_upper_goes_first_whatever_waits_below() -> None:
    ready = filled(low=1000)
    ready.push(Waiting(("urgent", 0)), Priority.URGENT)
    assert started(ready, 1) == ["urgent"]


def test_within_one_priority_the_first_to_come_is_the_first_to_start() -> None:
    ready = filled(normal=20)
    assert [ready.pop().name for _ in range(20)] == [("normal", number) for number in range(20)]


@pytest.mark.parametrize(
    ("upper", "lower"), [("urgent", "low"), ("high", "normal"), ("urgent", "high"), ("normal", "low")]
)
def test_one_start_in_eight_is_of_the_lower_of_two(upper: str, lower: str) -> None:
    ready = filled(**{upper: 1000, lower: 1000})
    assert Counter(started(ready, 10 * BOUND)) == {upper: 10 * (BOUND - 1), lower: 10}


def test_under_endless_upper_load_a_low_one_starts_within_64() -> None:
    ready = filled(low=1, normal=1000, high=1000, urgent=1000)
    assert "low" in started(ready, 64)


def test_a_lower_one_that_comes_later_does_not_profit_from_starts_before_it_waited() -> None:
    ready = filled(urgent=100)
    assert started(ready, 20) == ["urgent"] * 20
    ready.push(Waiting(("low", 0)), Priority.LOW)
    assert started(ready, BOUND - 1) == ["urgent"] * (BOUND - 1)
    assert started(ready, 1) == ["low"]


def test_one_that_waits_already_moves_up_and_never_down() -> None:
    ready = filled(normal=3)
    late = Waiting(("late", 0))
    ready.push(late, Priority.LOW)
    ready.push(late, Priority.URGENT)
    ready.push(late, Priority.NORMAL)
    assert len(ready) == 4
    assert started(ready, 4) == ["late", "normal", "normal", "normal"]
    with pytest.raises(IndexError):
        ready.pop()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.sampled_from(Priority)), max_size=80))
def test_each_is_started_once_for_each_time_that_it_began_to_wait(steps: list[tuple[bool, int, Priority]]) -> None:
    ready: Ready[Waiting] = Ready()
    items = [Waiting(number) for number in range(6)]
    waiting: set[Waiting] = set()
    for push, number, priority in steps:
        if push:
            ready.push(items[number], priority)
            waiting.add(items[number])
        elif waiting:
            waiting.remove(ready.pop())
        assert len(ready) == len(waiting)
    for _ in range(len(waiting)):
        waiting.remove(ready.pop())
    assert (len(ready), waiting) == (0, set())


@given(st.lists(st.sampled_from(Priority), min_size=1, max_size=30), st.lists(st.sampled_from(Priority), max_size=120))
def test_whatever_else_comes_nobody_waits_for_more_than_the_bound(
    before: list[Priority], meanwhile: list[Priority]
) -> None:
    """A level's head starts within 64 starts, though something new comes before each of them."""
    ready: Ready[Waiting] = Ready()
    heads = {priority: Waiting(priority) for priority in set(before)}
    for priority, head in heads.items():
        ready.push(head, priority)
    left = set(heads.values())
    for priority in [*meanwhile, *[Priority.URGENT, Priority.HIGH, Priority.NORMAL] * 30][:64]:
        ready.push(Waiting(), priority)
        left.discard(ready.pop())
    assert not left
