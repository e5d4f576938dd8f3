"""Deadlines: many waits, a timer for all that end together."""

from __future__ import annotations

import asyncio

import pytest
from starling.deadlines import Deadlines


@pytest.mark.parametrize("seconds", [0.0, 0.05, 1.0])
async def test_a_wait_ends_when_its_time_has_passed_and_not_before(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    until = loop.time() + seconds
    Deadlines().watch(waiter, seconds)
    async with asyncio.timeout(30):
        with pytest.raises(TimeoutError):
            await waiter
    assert loop.time() >= until - 0.001  # the resolution of a timer


@pytest.mark.parametrize("seconds", [0.02, 1.0])
async def test_a_wait_that_was_taken_out_is_left_alone_and_one_that_has_ended_as_well(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    taken_out, answered, late = (loop.create_future() for _ in range(3))
    deadlines.watch(taken_out, seconds).pop(taken_out)
    deadlines.watch(answered, seconds)
    answered.set_result("in time")
    deadlines.watch(late, seconds + 0.07)  # in a later slot
    async with asyncio.timeout(30):
        with pytest.raises(TimeoutError):
            await late
    assert not taken_out.done()
    assert await answered == "in time"


async def test_waits_that_end_together_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    monkeypatch.setattr(loop, "call_at", lambda when, *_: timers.append(when))
    monkeypatch.setattr(loop, "time", lambda: 100.0)
    deadlines = Deadlines()
    for number in range(1000):
        deadlines.watch(loop.create_future(), 30.0 + number / 1000)
    assert len(timers) <= 17
    assert min(timers) >= 130.0
