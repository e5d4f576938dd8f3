"""How many pods: by the waiting messages, within bounds, in steps, and never down in the dark."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.membership import ShardMap
from starling_operator.api.names import Pause
from starling_operator.plan import decide
from starling_operator.plan.decide import STALE_AFTER
from starling_operator.plan.scaling import desired_replicas
from starling_operator.plan.values import ConditionWish, Memory, PoolSeen, PoolWish, ScalingPolicy
from starling_operator.status import conditions, transitions

from tests.unit.operator.plan.pools import NOTHING, SCALING, measured, running, wish

EVEN = (0, 1, 0, 1, 0, 1, 0, 1)
SCALED = wish(2, scaling=SCALING)


def lagging(lag: float, replicas: int | None = 2, *, busy: float = 0.08, age: float = 1.0) -> PoolSeen:
    return replace(running(*EVEN, loads=measured(*(busy / 8,) * 8, lag=lag, age=age)), replicas=replicas)


def desired(policy: PoolWish, seen: PoolSeen, memory: Memory = NOTHING, now: float = 1000.0) -> int:
    return desired_replicas(policy, seen, memory, now)[0]


def quiet(*wanted: int, since: float = 10.0, now: float = 1000.0) -> Memory:
    """Wishes of the last seconds, evenly spread."""
    step = since / len(wanted)
    wishes = tuple((now - since + step * each, number) for each, number in enumerate(wanted))
    return Memory(wishes=wishes, watched=(now - since, wishes[-1][0]))


@pytest.mark.parametrize(
    ("own", "asked", "pods"),
    [(3, 2, 3), (0, 2, 0), (None, 4, 4), (None, None, 1), (2, None, 2)],
    ids=["more", "none", "somebody else's number", "nobody's number", "the first time"],
)
def test_without_a_target_the_pool_says_how_many(own: int | None, asked: int | None, pods: int) -> None:
    assert desired(wish(own), lagging(0, asked)) == pods


@pytest.mark.row("CP-9", part="more pods when over target, never above the maximum, starting pods count")
@pytest.mark.parametrize(
    ("lag", "asked", "pods"),
    [(200, 2, 2), (201, 2, 3), (499, 2, 5), (10_000, 2, 5), (10_000, 5, 5), (201, 3, 3)],
    ids=["on target", "over it", "far over it", "beyond the maximum", "at the maximum", "one is starting"],
)
def test_more_pods_when_too_much_waits_for_those_that_were_asked_for(lag: float, asked: int, pods: int) -> None:
    assert desired(SCALED, lagging(lag, asked)) == pods


def test_a_step_up_has_a_bound() -> None:
    slow = wish(2, scaling=replace(SCALING, step_up=1))
    assert desired(slow, lagging(10_000)) == 3


def test_fewer_pods_only_after_a_quiet_time_and_one_step_at_a_time() -> None:
    assert desired(SCALED, lagging(0, 4)) == 4
    assert desired(SCALED, lagging(0, 4), quiet(1, 1, 1, since=5.0)) == 4
    assert desired(SCALED, lagging(0, 4), quiet(1, 1, 1)) == 3
    assert desired(SCALED, lagging(0, 4), quiet(1, 4, 1)) == 4
    assert desired(SCALED, lagging(0, 4), quiet(1, 3, 1)) == 3
    fast = wish(2, scaling=replace(SCALING, step_down=9))
    assert desired(fast, lagging(0, 4), quiet(1, 1, 1)) == 1


def test_wishes_older_than_the_quiet_time_are_forgotten_and_smaller_ones_than_a_later_one() -> None:
    _, memory = desired_replicas(SCALED, lagging(0, 4), Memory(wishes=((900.0, 4), (994.0, 1), (995.0, 2))), 1000.0)
    assert memory.wishes == ((995.0, 2), (1000.0, 1))


def looked(policy: PoolWish, series: Iterable[tuple[float, PoolSeen]], memory: Memory = NOTHING) -> list[int]:
    """What is wanted at each of the looks."""
    wanted = []
    for now, seen in series:
        number, memory = desired_replicas(policy, seen, memory, now)
        wanted.append(number)
    return wanted


@pytest.mark.parametrize("pause", [0.3, 1.1, 4.7, 12.0])
def test_what_was_said_of_fewer_pods_stands_while_nothing_else_is_seen_however_often_that_is(pause: float) -> None:
    wanted = looked(SCALED, [(1000.0 + pause * look, lagging(0, 4)) for look in range(100)])
    falls = [(before, after) for before, after in itertools.pairwise(wanted) if before != after]
    assert falls == [(4, 3)]


@pytest.mark.parametrize(("gap", "pods"), [(14.0, 3), (16.0, 4)], ids=["a blink", "a time in the dark"])
def test_a_quiet_time_begins_anew_after_a_time_without_measurements(gap: float, pods: int) -> None:
    memory = quiet(1, 1, 1, now=1000.0 - gap)
    assert memory.watched is not None
    now = memory.watched[1] + gap
    assert desired(SCALED, lagging(0, 4), memory, now) == pods


@pytest.mark.row("CP-10", part="fewer pods only when those that stay have room for the work")
@pytest.mark.parametrize(
    ("busy", "asked", "pods"),
    [(0.9, 3, 2), (1.1, 3, 3), (4.4, 10, 9), (4.6, 10, 10), (0.4, 2, 1), (0.6, 2, 2), (9.0, 2, 2)],
    ids=["room in 2 of 3", "none in 2", "room in 9 of 10", "none in 9", "room in 1", "none in 1", "never more"],
)
def test_pods_leave_only_those_that_have_room_for_their_work(busy: float, asked: int, pods: int) -> None:
    policy = wish(2, scaling=replace(SCALING, maximum=10))
    assert desired(policy, lagging(0, asked, busy=busy), quiet(1, 1, 1)) == pods


@pytest.mark.parametrize(("busy", "pods"), [(0.0, 0), (0.1, 0), (0.12, 1), (0.3, 1)])
def test_the_last_pod_of_a_pool_that_may_sleep_goes_when_there_is_next_to_no_work(busy: float, pods: int) -> None:
    policy = wish(2, scaling=replace(SCALING, minimum=0))
    assert desired(policy, lagging(0, 1, busy=busy), quiet(0, 0, 0)) == pods


# The demo's aircraft pool with 3 pods under one steady load, once a second: messages that wait, busy seconds a second.
WAITING = (
    "416 558 231 22 22 184 381 306 879 274 398 398 33 111 0 694 "
    "326 656 838 180 2 2 512 579 17 44 449 828 447 575 956 47"
)
BUSY = (
    "2.17 2.11 2.14 1.85 1.83 1.73 1.72 1.31 1.37 1.40 1.48 1.48 1.41 1.38 1.32 1.30 "
    "1.12 1.12 1.16 1.18 1.16 1.18 1.11 1.10 1.25 1.26 1.24 1.27 1.26 1.25 1.23 1.30"
)
MEASURED = tuple(zip(map(float, WAITING.split()), map(float, BUSY.split()), strict=True))
DEMO = wish(2, scaling=ScalingPolicy(minimum=2, maximum=3, lag_per_pod=500, stabilization=5))


def test_a_steady_load_that_keeps_three_pods_busy_keeps_three_pods() -> None:
    series = [(1000.0 + second, lagging(lag, 3, busy=busy)) for second, (lag, busy) in enumerate(MEASURED)]
    assert set(looked(DEMO, series)) == {3}
    idle = [(2000.0 + second, lagging(0, 3, busy=0.3)) for second in range(10)]
    assert looked(DEMO, [*series, *idle])[-1] == 2


def falls_of(lag_of_two: float, seconds: int) -> list[int]:
    """When pods leave under a load that shows in nothing but what waits: three pods keep up with it."""
    asked, memory = 3, NOTHING
    falls: list[int] = []
    for now in range(seconds):
        lag = 100.0 if asked == 3 else lag_of_two if now > falls[-1] + 3 else 0.0
        wanted, memory = desired_replicas(DEMO, lagging(lag, asked, busy=0.1), memory, float(now))
        if wanted < asked:
            falls.append(now)
        asked = wanted
    return falls


def test_a_load_that_soon_needs_the_pods_again_is_left_them_for_ever_longer() -> None:
    falls = falls_of(lag_of_two=1600.0, seconds=7200)
    stays = [after - before for before, after in itertools.pairwise(falls)]
    assert stays == sorted(stays)
    assert stays[0] < 20
    assert 900 <= stays[-1] < 920
    assert len(falls) < 20


def test_the_quiet_time_is_the_target_s_own_again_once_fewer_pods_have_held() -> None:
    left = Memory(left=(1000.0, 3), quiet=80.0)
    assert desired_replicas(DEMO, lagging(0, 2), left, 1160.0)[1].quiet == 80.0
    assert desired_replicas(DEMO, lagging(0, 2), left, 1161.0)[1].quiet == 0.0
    assert desired_replicas(DEMO, lagging(1600, 2), left, 1161.0)[1].quiet == 0.0
    assert desired_replicas(DEMO, lagging(1600, 2), left, 1160.0)[1].quiet == 160.0
    assert desired_replicas(DEMO, lagging(900, 2), left, 1160.0)[1].quiet == 80.0


def test_a_pool_that_fell_asleep_and_is_woken_is_not_kept_awake_for_it() -> None:
    _, memory = desired_replicas(MAY_SLEEP, lagging(0, 1), quiet(0, 0, 0), 1000.0)
    assert memory.left is None


@pytest.mark.row("CP-13", part="missing or old metrics never scale down; fallback replicas")
@pytest.mark.parametrize(
    ("fallback", "asked", "pods"),
    [(None, 4, 4), (3, 4, 4), (3, 2, 3), (9, 2, 5)],
    ids=["as it is", "a fallback below", "a fallback above", "a fallback beyond the maximum"],
)
def test_without_measurements_the_number_never_falls(fallback: int | None, asked: int, pods: int) -> None:
    policy = wish(2, scaling=replace(SCALING, fallback=fallback))
    for seen in (replace(lagging(0, asked), loads=None), lagging(0, asked, age=STALE_AFTER + 1)):
        assert decide(policy, seen, quiet(1, 1, 1), 1000.0).desired == pods


@pytest.mark.parametrize(
    ("asked", "pods"), [(0, 1), (9, 5), (None, 2)], ids=["below the minimum", "above the maximum", "the first time"]
)
def test_the_number_is_brought_into_the_target_s_bounds(asked: int | None, pods: int) -> None:
    assert desired(SCALED, replace(lagging(0, asked), loads=None)) == pods


def test_without_a_signal_the_number_stays_in_the_bounds_and_nothing_more() -> None:
    bounds = wish(2, scaling=ScalingPolicy(minimum=2, maximum=3))
    assert desired(bounds, lagging(10_000, 2)) == 2
    assert desired(bounds, lagging(0, 3)) == 3


def test_a_target_of_nothing_a_pod_asks_for_the_minimum() -> None:
    assert desired(wish(2, scaling=replace(SCALING, lag_per_pod=0)), lagging(500, 2)) == 2


def test_a_first_number_comes_from_the_target_where_the_pool_has_none() -> None:
    assert desired(wish(None, scaling=replace(SCALING, minimum=3)), PoolSeen((), None, None, None)) == 3


@pytest.mark.row("CP-11", part="lag read from the streams brings a sleeping pool back")
def test_a_pool_at_zero_comes_back_when_messages_wait_in_its_streams() -> None:
    policy = wish(2, scaling=replace(SCALING, minimum=0))
    asleep = PoolSeen((), 0, ShardMap(4), None)
    assert desired(policy, asleep) == 0
    assert desired(policy, replace(asleep, waiting=3)) == 1
    assert desired(policy, replace(asleep, owing=1)) == 1
    held = replace(policy, paused=frozenset({Pause.SCALE_OUT}))
    assert desired(held, replace(asleep, waiting=3)) == 0
    assert desired(held, replace(asleep, owing=1)) == 0


MAY_SLEEP = wish(2, scaling=replace(SCALING, minimum=0))
ASLEEP = PoolSeen((), 0, ShardMap(4), None)
STUCK = replace(ASLEEP, undelivered=2)
AWAKE = replace(ASLEEP, replicas=1, pods=running(*EVEN).pods)


def slept(memory: Memory, seen: PoolSeen, since: float) -> tuple[float, Memory]:
    """Look at a sleeping pool every five seconds; return how long it is not woken, and what is remembered then."""
    for look in range(1000):
        wanted, memory = desired_replicas(MAY_SLEEP, seen, memory, since + 5.0 * look)
        if wanted:
            return 5.0 * look, memory
    raise AssertionError("never woken")


def test_a_pool_that_cannot_deliver_is_woken_at_once_and_then_after_ever_longer_sleeps() -> None:
    memory, now, pauses = NOTHING, 1000.0, []
    for _ in range(8):
        pause, memory = slept(memory, STUCK, now)
        assert desired(MAY_SLEEP, STUCK, memory, now + pause) == 1  # and asked again, if the first time went wrong
        pauses.append(pause)
        for look in range(3):
            _, memory = desired_replicas(MAY_SLEEP, AWAKE, memory, now + pause + 100.0 * look)
        now += pause + 300.0
    assert pauses == [0.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0]


@pytest.mark.parametrize("more", [replace(STUCK, waiting=3), replace(STUCK, owing=1)], ids=["a message", "a timer"])
def test_what_comes_or_is_due_meanwhile_wakes_it_at_once(more: PoolSeen) -> None:
    memory = Memory(wake_pause=480.0)
    wanted, memory = desired_replicas(MAY_SLEEP, STUCK, memory, 1000.0)
    assert wanted == 0
    assert desired(MAY_SLEEP, more, memory, 1005.0) == 1


def test_once_it_has_delivered_the_next_time_is_a_first_time_again() -> None:
    _, memory = desired_replicas(MAY_SLEEP, STUCK, Memory(wake_pause=480.0), 1000.0)
    _, memory = desired_replicas(MAY_SLEEP, AWAKE, memory, 1500.0)
    wanted, memory = desired_replicas(MAY_SLEEP, ASLEEP, memory, 2000.0)
    assert wanted == 0
    assert desired(MAY_SLEEP, STUCK, memory, 2005.0) == 1


def test_a_pool_that_sleeps_with_what_it_could_not_deliver_says_so_once() -> None:
    def said(seen: PoolSeen, memory: Memory) -> list[ConditionWish]:
        return [each for each in decide(MAY_SLEEP, seen, memory, 1000.0).conditions if each.type == "Undelivered"]

    assert said(STUCK, NOTHING) == []
    assert said(ASLEEP, Memory(wake_pause=60.0)) == []
    (condition,) = said(STUCK, Memory(wake_pause=60.0))
    assert (condition.status, condition.reason) == (True, "TargetsTakeNothing")
    assert "2 shards" in condition.message
    assert "60 s" in condition.message
    before = conditions([condition], (), 1)
    (event,) = transitions((), before)
    assert (event.reason, event.warning) == ("TargetsTakeNothing", True)
    assert transitions(before, before) == []


def test_an_idle_pool_whose_minimum_is_zero_goes_to_zero() -> None:
    policy = wish(2, scaling=replace(SCALING, minimum=0))
    assert desired(policy, lagging(0, 1), quiet(0, 0, 0)) == 0


@pytest.mark.row("CP-9", part="never above the maximum")
@given(
    st.floats(0, 1e6),
    st.integers(0, 12),
    st.integers(0, 3),
    st.integers(3, 8),
    st.lists(st.tuples(st.floats(980, 1000), st.integers(0, 9)), max_size=5).map(sorted),
)
def test_the_number_stays_in_its_bounds_and_steps(
    lag: float, asked: int, minimum: int, maximum: int, wishes: list[tuple[float, int]]
) -> None:
    policy = wish(2, scaling=replace(SCALING, minimum=minimum, maximum=maximum, step_up=2))
    number, memory = desired_replicas(policy, lagging(lag, asked), Memory(wishes=tuple(wishes)), 1000.0)
    assert minimum <= number <= maximum
    inside = min(max(asked, minimum), maximum)
    assert inside - 1 <= number <= inside + 2
    assert all(1000.0 - at <= SCALING.stabilization for at, _ in memory.wishes)
