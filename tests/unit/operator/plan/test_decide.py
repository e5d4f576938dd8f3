"""The next step for a pool: each situation, and what it comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.ids import PodName, ShardId
from starling.core.membership import ShardMap
from starling_operator.api.names import Pause
from starling_operator.plan import decide
from starling_operator.plan.decide import HOLD, STALE_AFTER
from starling_operator.plan.values import ConditionWish, Memory, PodView, PoolSeen
from starling_operator.status import conditions, transitions

from tests.unit.operator.plan.pools import (
    NOTHING,
    REBALANCE,
    SCALING,
    SHARDS,
    V2,
    absent,
    condition,
    counts,
    followed,
    measured,
    name,
    pod,
    running,
    shard_map,
    wish,
    with_pods,
)

EVEN = (0, 1, 0, 1, 0, 1, 0, 1)
ALL = tuple(range(SHARDS))
HOT = measured(0.6, 0.1, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1)
BALANCED = wish(rebalance=REBALANCE)


# -- the first time


def test_a_new_pool_gets_its_pods_and_a_map_before_any_of_them_is_there() -> None:
    plan = decide(wish(2), PoolSeen((), None, None, None), NOTHING, 0.0)
    assert plan.replicas == 2
    assert plan.map is not None
    assert plan.map.rev == 1
    assert counts(plan.map.shards) == {"p-0": 4, "p-1": 4}
    assert {move.reason for move in plan.moves} == {"first"}


def test_a_new_pool_without_replicas_of_its_own_starts_with_one_pod() -> None:
    assert decide(wish(None), PoolSeen((), None, None, None), NOTHING, 0.0).replicas == 1


def test_a_new_pool_of_no_pods_gets_no_map() -> None:
    plan = decide(wish(0), PoolSeen((), None, None, None), NOTHING, 0.0)
    assert (plan.replicas, plan.map) == (0, None)


def test_pods_that_are_starting_keep_what_the_map_gave_them() -> None:
    seen = PoolSeen((absent(0), absent(1)), 2, shard_map(*EVEN), None)
    plan = decide(wish(2), seen, NOTHING, 1.0)
    assert (plan.map, plan.replicas) == (None, None)
    assert condition(plan, "Ready") == (False, "ShardsWaiting")
    assert condition(plan, "Progressing") == (True, "PodsOrShardsMoving")


def test_a_pool_as_it_should_be_is_left_alone() -> None:
    plan = decide(wish(2), running(*EVEN), NOTHING, 0.0)
    assert (plan.map, plan.moves, plan.replicas, plan.replace, plan.text) == (None, (), None, None, "")
    assert condition(plan, "Ready") == (True, "ShardsServed")
    assert condition(plan, "Progressing") == (False, "Settled")
    assert condition(plan, "Degraded") == (False, "AsExpected")


# -- pods come and go


def test_a_pod_that_joins_takes_its_share_at_once() -> None:
    seen = with_pods(replace(running(*EVEN), replicas=3), pod(2))
    plan = decide(wish(3), seen, NOTHING, 0.0)
    assert plan.map is not None
    assert counts(plan.map.shards)["p-2"] == 2
    assert {move.reason for move in plan.moves} == {"joined"}


def test_a_pod_that_is_not_ready_gets_nothing() -> None:
    seen = with_pods(replace(running(*EVEN), replicas=3), pod(2, ready=False))
    assert decide(wish(3), seen, NOTHING, 0.0).map is None


@pytest.mark.parametrize(
    ("view", "moved"),
    [
        (absent(1, gone_for=1.9, phase="running"), False),
        (absent(1, gone_for=2.0, phase="running"), True),
        (absent(1, gone_for=2.0), True),
        (pod(1, (1, 3, 5, 7), draining=True), True),
        (pod(1, (1, 3, 5, 7), phase="terminating"), True),
        (absent(1, phase="failed"), True),
        (absent(1, phase="starting"), False),
    ],
    ids=[
        *("silent within the grace", "silent for longer", "ended", "draining by itself", "being deleted", "failed"),
        "starting again",
    ],
)
def test_shards_leave_a_pod_once_it_is_lost_and_not_before(view: PodView, moved: bool) -> None:
    seen = with_pods(running(*EVEN), view)
    plan = decide(wish(2), seen, NOTHING, 100.0)
    assert (plan.map is not None) is moved
    if plan.map is not None:
        assert set(plan.map.shards.values()) == {"p-0"}
        assert {move.reason for move in plan.moves} == {"lost"}


def test_shards_that_had_to_move_rest_before_they_move_by_load() -> None:
    lost = with_pods(running(*EVEN), absent(1, gone_for=5.0, phase="running"))
    plan = decide(BALANCED, lost, NOTHING, 50.0)
    assert set(plan.memory.moved_at.values()) == {50.0}
    assert sorted(plan.memory.moved_at) == [1, 3, 5, 7]
    assert plan.memory.moves == 0


def test_when_all_are_lost_the_map_stays_as_it_is() -> None:
    seen = with_pods(running(*EVEN), *(absent(each, gone_for=99.0) for each in (0, 1)))
    plan = decide(wish(2), seen, Memory(hold_until=40.0), 50.0)
    assert plan.map is None


def test_when_all_are_draining_nobody_is_there_to_take() -> None:
    seen = with_pods(running(*EVEN), *(pod(each, draining=True, phase="terminating") for each in (0, 1)))
    assert decide(wish(2), seen, NOTHING, 0.0).map is None


@pytest.mark.row("CP-8", part="an empty or suddenly halved member list moves nothing")
@pytest.mark.parametrize("gone", [(0, 1), (1, 2)], ids=["all", "more than half"])
def test_members_that_vanish_all_at_once_move_nothing_for_a_while(gone: tuple[int, ...]) -> None:
    owners = (0, 1, 2, 0, 1, 2, 0, 1) if 2 in gone else EVEN
    pods = len(set(owners))
    seen = with_pods(running(*owners), *(absent(each, gone_for=3.0, phase="running") for each in gone))

    held = decide(wish(pods), seen, NOTHING, 100.0)
    assert (held.map, held.moves) == (None, ())
    assert condition(held, "Degraded") == (True, "MembersUnknown")

    still = decide(wish(pods), seen, held.memory, 100.0 + HOLD - 0.1)
    assert still.map is None
    assert condition(still, "Degraded") == (True, "MembersUnknown")

    after = decide(wish(pods), seen, held.memory, 100.0 + HOLD)
    assert condition(after, "Degraded") == (False, "AsExpected")
    assert (after.map is not None) is (2 in gone)  # with nobody left, the map stays


def test_a_pool_that_holds_still_asks_for_more_pods_but_not_for_fewer() -> None:
    seen = with_pods(running(*EVEN), *(absent(each, gone_for=3.0, phase="running") for each in (0, 1)))
    assert decide(wish(3), seen, NOTHING, 0.0).replicas == 3
    assert decide(wish(1), seen, NOTHING, 0.0).replicas is None


def test_one_lost_pod_of_two_is_no_reason_to_hold() -> None:
    seen = with_pods(running(*EVEN), absent(1, gone_for=3.0, phase="running"))
    assert condition(decide(wish(2), seen, NOTHING, 0.0), "Degraded") == (False, "AsExpected")


# -- fewer pods


@pytest.mark.row("CP-10", part="replicas fall only once the leaving pods own no shard")
def test_replicas_fall_only_when_the_leaving_pods_own_nothing_and_have_said_so() -> None:
    seen, desired = running(0, 1, 2, 0, 1, 2, 0, 1), wish(2)

    first = decide(desired, seen, NOTHING, 0.0)
    assert first.map is not None
    assert first.map.draining == ("p-2",)
    assert "p-2" not in first.map.shards.values()
    assert {move.reason for move in first.moves} == {"draining"}
    assert first.replicas is None

    written = replace(seen, map=first.map)
    owes = decide(desired, written, first.memory, 1.0)
    assert (owes.map, owes.replicas) == (None, None)

    old_report = with_pods(written, pod(2, (), rev=first.map.rev - 1))
    assert decide(desired, old_report, first.memory, 2.0).replicas is None

    empty = with_pods(written, pod(2, (), rev=first.map.rev))
    assert decide(desired, empty, first.memory, 3.0).replicas == 2


@pytest.mark.parametrize(
    ("view", "replicas"),
    [(absent(2, gone_for=9.0, phase="running"), 2), (absent(2, phase="running"), None), (absent(2), 2)],
    ids=["known to be gone", "running and not heard of yet", "not started yet"],
)
def test_a_leaving_pod_that_is_no_member_counts_as_empty_only_when_it_is_not_running(
    view: PodView, replicas: int | None
) -> None:
    seen = with_pods(replace(running(*EVEN), replicas=3, map=shard_map(*EVEN, draining=(2,))), view)
    assert decide(wish(2), seen, NOTHING, 0.0).replicas == replicas


def test_the_highest_ordinals_leave_first() -> None:
    plan = decide(wish(1), running(0, 1, 2, 3, 0, 1, 2, 3), NOTHING, 0.0)
    assert plan.map is not None
    assert plan.map.draining == ("p-1", "p-2", "p-3")


def test_a_pod_that_has_left_is_taken_off_the_map_s_list() -> None:
    seen = replace(running(*EVEN), map=shard_map(*EVEN, draining=(2,)))
    plan = decide(wish(2), seen, NOTHING, 0.0)
    assert plan.map == replace(shard_map(*EVEN), rev=2)
    assert plan.text == "draining: nobody"


@pytest.mark.row("CP-5", part="no pods gives an empty map")
def test_a_pool_of_no_pods_gives_its_shards_up_before_its_pods_go() -> None:
    seen = running(*EVEN)
    plan = decide(wish(0), seen, NOTHING, 0.0)
    assert plan.map == ShardMap(2, {}, (name(0), name(1)))
    assert plan.replicas is None

    written = replace(seen, map=plan.map)
    assert decide(wish(0), written, NOTHING, 1.0).replicas is None
    empty = replace(written, pods=(pod(0, rev=2), pod(1, rev=2)))
    assert decide(wish(0), empty, NOTHING, 2.0).replicas == 0

    asleep = decide(wish(0), PoolSeen((), 0, ShardMap(3), None), NOTHING, 3.0)
    assert (asleep.map, asleep.replicas) == (None, None)
    assert condition(asleep, "Ready") == (True, "Asleep")
    assert condition(asleep, "Progressing") == (False, "Settled")


def test_a_pool_that_comes_back_from_zero_gets_its_shards_placed_when_pods_are_ready() -> None:
    asleep = PoolSeen((), 0, ShardMap(3), None)
    assert decide(wish(2), asleep, NOTHING, 0.0).replicas == 2

    starting = PoolSeen((absent(0), absent(1)), 2, ShardMap(3), None)
    assert decide(wish(2), starting, NOTHING, 1.0).map is None

    plan = decide(wish(2), PoolSeen((pod(0), pod(1)), 2, ShardMap(3), None), NOTHING, 2.0)
    assert plan.map is not None
    assert counts(plan.map.shards) == {"p-0": 4, "p-1": 4}


# -- moves by load


@pytest.mark.row("CP-22", part="small steps")
def test_a_hot_pod_gives_its_best_shard_away() -> None:
    seen = running(*EVEN, loads=HOT)
    plan = decide(BALANCED, seen, NOTHING, 100.0)
    assert [str(move) for move in plan.moves] == ["shard 2: p-0 -> p-1 (load)"]
    assert plan.map is not None
    assert plan.map.shards[plan.moves[0].shard] == name(1)
    assert plan.memory.moves == 1
    assert plan.imbalance is not None


def test_rounds_keep_their_interval() -> None:
    seen, memory = running(*EVEN, loads=HOT), Memory(round_at=100.0)
    assert decide(BALANCED, seen, memory, 100.0 + REBALANCE.interval - 0.1).moves == ()
    assert decide(BALANCED, seen, memory, 100.0 + REBALANCE.interval).moves != ()


def test_a_moved_shard_rests_until_it_has_settled() -> None:
    resting = Memory(round_at=0.0, moved_at={ShardId(each): 100.0 for each in ALL})
    seen = running(*EVEN, loads=HOT)
    assert decide(BALANCED, seen, resting, 100.0 + REBALANCE.settle - 0.1).moves == ()
    assert decide(BALANCED, seen, resting, 100.0 + REBALANCE.settle).moves != ()


@pytest.mark.parametrize(
    ("shards", "most", "moves"),
    [(8, None, 1), (16, None, 1), (40, None, 4), (1000, None, 20), (8, 3, 3)],
    ids=["few", "a tenth of 16", "a tenth of 40", "never above 20", "as the target says"],
)
def test_a_round_has_a_bound(shards: int, most: int | None, moves: int) -> None:
    assert replace(REBALANCE, max_moves=most).moves(shards) == moves


@pytest.mark.row("CP-13", part="missing or old metrics move nothing")
@pytest.mark.parametrize(
    "loads",
    [None, replace(HOT, age=STALE_AFTER + 1), measured(), measured(0.6, 0.1, 0.3)],
    ids=["none", "old", "empty", "some shards are missing"],
)
def test_without_fresh_measurements_of_every_shard_nothing_moves(loads: object) -> None:
    plan = decide(BALANCED, running(*EVEN, loads=loads), NOTHING, 0.0)  # type: ignore[arg-type]
    assert (plan.moves, plan.map, plan.replicas) == ((), None, None)


def test_the_condition_says_whether_there_are_measurements() -> None:
    assert condition(decide(BALANCED, running(*EVEN, loads=HOT), NOTHING, 0.0), "MetricsAvailable") == (
        True,
        "Measured",
    )
    blind = decide(BALANCED, running(*EVEN), NOTHING, 0.0)
    assert condition(blind, "MetricsAvailable") == (False, "NoMeasurements")
    assert "MetricsAvailable" not in {each.type for each in decide(wish(), running(*EVEN), NOTHING, 0.0).conditions}


@pytest.mark.parametrize(
    "view",
    [
        pod(1, (1, 3, 5, 7), version=V2),
        pod(1, (1, 3, 5, 7), ready=False),
        pod(1, (1, 3, 5)),
        absent(1, phase="running"),
    ],
    ids=["of another version", "not ready", "a shard is on its way", "not a member yet"],
)
def test_no_round_while_a_pod_is_starting_or_versions_differ_or_shards_are_on_their_way(view: PodView) -> None:
    plan = decide(BALANCED, with_pods(running(*EVEN, loads=HOT), view), NOTHING, 0.0)
    assert not [move for move in plan.moves if move.reason == "load"]
    assert plan.memory.round_at is None


def test_without_a_rebalance_policy_nothing_moves_by_load() -> None:
    assert decide(wish(), running(*EVEN, loads=HOT), NOTHING, 0.0).moves == ()


# -- a new version


@pytest.mark.row("CP-14", part="one emptied pod at a time, no rebalance while versions differ")
def test_a_new_version_empties_the_highest_pod_and_then_replaces_it() -> None:
    desired, seen = wish(2, version=V2), running(*EVEN)

    plan = decide(desired, seen, NOTHING, 0.0)
    assert plan.map is not None
    assert plan.map.draining == ("p-1",)
    assert plan.replace is None

    emptied = replace(seen, map=plan.map, pods=(pod(0, ALL, rev=2), pod(1, (), rev=2)))
    assert decide(desired, emptied, NOTHING, 1.0).replace == 1

    back = replace(emptied, pods=(pod(0, ALL, rev=2), pod(1, (), rev=2, version=V2)))
    third = decide(desired, back, NOTHING, 2.0)
    assert third.map is not None
    assert third.map.draining == ("p-0",)
    assert set(third.map.shards.values()) == {"p-1"}


def test_a_pod_is_not_emptied_for_a_new_version_while_another_one_is_down() -> None:
    seen = with_pods(running(*EVEN), absent(0, phase="running"))
    plan = decide(wish(2, version=V2), seen, NOTHING, 0.0)
    assert (plan.map, plan.replace) == (None, None)


def test_fewer_pods_come_before_a_new_version() -> None:
    plan = decide(wish(1, version=V2), running(*EVEN), NOTHING, 0.0)
    assert plan.map is not None
    assert plan.map.draining == ("p-1",)
    emptied = replace(running(*EVEN), map=plan.map, pods=(pod(0, ALL, rev=2), pod(1, (), rev=2)))
    after = decide(wish(1, version=V2), emptied, NOTHING, 1.0)
    assert (after.replace, after.replicas) == (None, 1)


def test_a_pod_is_not_replaced_before_a_map_has_emptied_it_whatever_its_last_report_says() -> None:
    """It may take by the map that still names it; the pods that shall take over are not there yet."""
    alone = replace(running(0, 0, 0, 0, 0, 0, 0, 0), pods=(pod(0, ()),), replicas=1)
    plan = decide(wish(3, version=V2), alone, NOTHING, 0.0)
    assert (plan.map, plan.replace, plan.replicas) == (None, None, 3)


def test_a_single_pod_is_replaced_though_nobody_can_take_its_shards_meanwhile() -> None:
    seen = running(0, 0, 0, 0, 0, 0, 0, 0)
    plan = decide(wish(1, version=V2), seen, NOTHING, 0.0)
    assert (plan.map, plan.replace) == (None, 0)

    ending = with_pods(seen, pod(0, ALL, phase="terminating", draining=True))
    assert decide(wish(1, version=V2), ending, NOTHING, 1.0).replace is None


# -- people


@pytest.mark.row("CP-19", part="each annotation stops its part, condition shown")
@pytest.mark.parametrize("stopped", list(Pause), ids=str)
def test_a_pause_stops_exactly_its_part(stopped: Pause) -> None:
    more = decide(wish(3, paused=frozenset({stopped})), running(*EVEN), NOTHING, 0.0)
    assert (more.replicas == 3) is (stopped not in (Pause.ALL, Pause.SCALE_OUT))

    fewer = decide(wish(1, paused=frozenset({stopped})), running(*EVEN), NOTHING, 0.0)
    assert (fewer.map is not None) is (stopped not in (Pause.ALL, Pause.SCALE_IN))

    paused = wish(2, rebalance=REBALANCE, paused=frozenset({stopped}))
    moved = decide(paused, running(*EVEN, loads=HOT), NOTHING, 0.0)
    assert bool(moved.moves) is (stopped not in (Pause.ALL, Pause.MOVES))

    joined = decide(paused, with_pods(running(*EVEN), pod(2)), NOTHING, 0.0)
    lost = decide(paused, with_pods(running(*EVEN), absent(1, gone_for=9.0, phase="running")), NOTHING, 0.0)
    assert (lost.map is not None) is (stopped is not Pause.ALL)
    assert {move.reason for move in joined.moves} <= {"joined", "draining"}
    for plan in (more, fewer, moved, lost):
        assert condition(plan, "Progressing")[1] == "Paused"


def test_paused_moves_keep_shards_from_a_pod_that_joins() -> None:
    seen = with_pods(replace(running(*EVEN), replicas=3), pod(2))
    assert decide(wish(3, paused=frozenset({Pause.MOVES})), seen, NOTHING, 0.0).map is None


# -- deciding again


@st.composite
def situations(draw: st.DrawFn) -> PoolSeen:
    pods = draw(st.integers(1, 5))
    owners = draw(st.lists(st.integers(0, pods - 1), min_size=SHARDS, max_size=SHARDS))
    busy = draw(st.lists(st.floats(0, 1), min_size=SHARDS, max_size=SHARDS))
    loads = measured(*busy, lag=draw(st.floats(0, 2000))) if draw(st.booleans()) else None
    seen = running(*owners, pods=pods, loads=loads)
    if draw(st.booleans()):
        seen = with_pods(seen, absent(draw(st.integers(0, pods - 1)), gone_for=draw(st.floats(0, 9)), phase="running"))
    return seen


@pytest.mark.row("CP-5", part="deciding twice plans nothing new")
@given(situations(), st.integers(1, 6))
def test_following_the_plan_and_deciding_again_ends_in_a_plan_of_nothing(seen: PoolSeen, replicas: int) -> None:
    desired, memory, now = wish(replicas, rebalance=REBALANCE), NOTHING, 100.0
    for _ in range(6):
        plan = decide(desired, seen, memory, now)
        assert decide(desired, seen, memory, now) == plan
        memory = plan.memory
        if memory.hold_until > now:
            now = memory.hold_until
        else:
            seen = followed(seen, plan)  # lost pods are back then
    final = decide(desired, seen, memory, now)
    assert (final.map, final.moves, final.replicas, final.replace) == (None, (), None, None)
    assert len(seen.pods) == seen.replicas == replicas


@given(situations(), st.integers(0, 6))
def test_a_map_names_every_shard_or_none_and_never_an_emptied_pod(seen: PoolSeen, replicas: int) -> None:
    plan = decide(wish(replicas, rebalance=REBALANCE), seen, NOTHING, 100.0)
    if plan.map is not None:
        assert sorted(plan.map.shards) == ([] if replicas == 0 else list(range(SHARDS)))
        assert not set(plan.map.draining) & set(plan.map.shards.values())
        assert plan.map.rev == 2
    assert plan.replicas is None or plan.replicas >= min(replicas, 2) or replicas == 0


@given(situations())
def test_with_a_scaling_target_the_number_of_pods_stays_in_its_bounds(seen: PoolSeen) -> None:
    plan = decide(wish(2, scaling=SCALING), seen, NOTHING, 100.0)
    assert SCALING.minimum <= plan.desired <= SCALING.maximum
    assert plan.replicas is None or SCALING.minimum <= plan.replicas <= SCALING.maximum


def test_the_plan_reads_as_lines_for_people() -> None:
    plan = decide(wish(3), running(*EVEN), NOTHING, 0.0)
    assert plan.text == "replicas: 3"
    drained = decide(wish(1), running(*EVEN), NOTHING, 0.0)
    assert drained.text.splitlines()[0] == "shard 1: p-1 -> p-0 (draining)"
    emptied = replace(running(*EVEN), map=shard_map(0, 0, 0, 0, 0, 0, 0, 0, draining=(1,)), pods=(pod(0, ALL), pod(1)))
    assert decide(wish(2, version=V2), emptied, NOTHING, 0.0).text == "replace pod 1"
    first = decide(wish(2), PoolSeen((), None, None, None), NOTHING, 0.0)
    assert first.text.splitlines()[0] == "shard 0: nobody -> p-0 (first)"


def test_owners_are_what_members_report_and_then_what_the_map_says() -> None:
    seen = running(*EVEN)
    assert seen.owner(next(iter(seen.map.shards))) == name(0)  # type: ignore[union-attr]
    moved = with_pods(seen, pod(0, ()), pod(1, ALL))
    assert moved.owner(min(moved.map.shards)) == name(1)  # type: ignore[union-attr]
    silent = with_pods(seen, absent(0), absent(1))
    assert silent.owner(min(silent.map.shards)) == name(0)  # type: ignore[union-attr]
    assert replace(silent, map=None).owner(min(shard_map(*EVEN).shards)) is None
    assert silent.pod(PodName("p-9")) is None


@pytest.mark.row("RT-39", part="the pool's condition tells how many agents are parked and names one; an event once")
def test_parked_agents_are_a_condition_of_the_pool_and_one_event() -> None:
    def seen(*parked: tuple[int, str]) -> PoolSeen:
        healthy = running(0, 0, 0, 0, 1, 1, 1, 1)
        views = (
            replace(view, member=replace(view.member, parked=count, parked_agent=agent))
            for view, (count, agent) in zip(healthy.pods, parked, strict=True)
            if view.member is not None
        )
        return with_pods(healthy, *views)

    def said(found: PoolSeen) -> list[ConditionWish]:
        return [each for each in decide(wish(), found, NOTHING, 0.0).conditions if each.type == "AgentsParked"]

    nobody, some, more = seen((0, ""), (0, "")), seen((0, ""), (1, "till/7")), seen((2, "till/3"), (1, "till/7"))
    assert said(nobody) == []
    (first,) = said(some)
    assert (first.status, first.reason) == (True, "StateUnreadable")
    (second,) = said(more)
    assert second.message.startswith("3 agents are parked, till/3 among them")
    before = conditions([first], (), 1)
    (event,) = transitions((), before)
    assert (event.reason, event.message, event.warning) == ("StateUnreadable", first.message, True)
    assert transitions(before, conditions([second], before, 1)) == []
