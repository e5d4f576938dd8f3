"""What waits for one agent: in order, in little memory when it is little, and without being moved when it is much."""

from __future__ import annotations

from collections import deque

import pytest
from starling import Agent
from starling.agent import definition
from starling.core.ids import AgentId
from starling.core.names import NORMAL_LANE, Lane
from starling.engine.activation import LONG, Activation
from starling.engine.work import Work


class Waited(Agent[None], type="waited"):
    pass


def _activation() -> Activation:
    return Activation(AgentId("waited", "a"), definition(Waited), "key")


def _work(lane: Lane, number: int) -> Work:
    return Work(None, None, None, number, 0, 0.0, lane=lane)


@pytest.mark.parametrize("lane", [NORMAL_LANE, Lane.URGENT])
def test_many_that_wait_go_in_order_and_leaving_moves_none_of_the_others(lane: Lane) -> None:
    activation = _activation()
    for number in range(3 * LONG):
        activation.lane(lane).append(_work(lane, number))
    gone = []
    while (work := activation.next_work(0.0)) is not None:
        activation.ended(work)
        gone.append(work.index)
        if len(gone) == 1:  # the first of a list leaves at the price of moving all the others
            assert isinstance(activation.lane(lane), deque)
            activation.lane(lane).append(_work(lane, 3 * LONG))
    assert gone == list(range(3 * LONG + 1))
    assert activation.is_idle


def test_few_that_wait_take_a_list_which_is_small_when_empty() -> None:
    activation = _activation()
    for number in range(LONG):
        activation.lane(NORMAL_LANE).append(_work(NORMAL_LANE, number))
    while (work := activation.next_work(0.0)) is not None:
        activation.ended(work)
    assert isinstance(activation.normal, list)


def test_one_that_is_not_the_first_leaves_a_long_queue_too() -> None:
    activation = _activation()
    works = [_work(NORMAL_LANE, number) for number in range(3 * LONG)]
    activation.lane(NORMAL_LANE).extend(works)
    activation.ended(works[0])
    activation.ended(works[2 * LONG])
    assert [work.index for work in activation.normal] == [n for n in range(1, 3 * LONG) if n != 2 * LONG]
