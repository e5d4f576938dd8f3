"""Which pod runs which shard: what must always hold, and what the numbers come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.ids import PodName, ShardId
from starling_operator.plan.placement import IDLE, Weights, imbalance, place, rebalance

from tests.unit.operator.plan.pools import counts, measured, name, shard_map

PODS = st.lists(st.integers(0, 12).map(name), min_size=1, max_size=8, unique=True)
BUSY = st.dictionaries(st.integers(0, 31).map(ShardId), st.floats(0, 2), max_size=32)
SHARDS = 32


def even(shards: int) -> Weights:
    return Weights.measured(shards, None)


@st.composite
def maps(draw: st.DrawFn, pods: list[PodName]) -> dict[ShardId, PodName]:
    return {ShardId(shard): draw(st.sampled_from(pods)) for shard in range(SHARDS)}


@pytest.mark.row("CP-5")
@given(PODS, st.data(), BUSY)
def test_every_shard_has_exactly_one_owner_and_it_is_a_usable_pod(
    pods: list[PodName], data: st.DataObject, busy: dict[ShardId, float]
) -> None:
    before = data.draw(maps([*pods, name(13), name(14)]))
    placed, _ = place(SHARDS, before, pods, set(pods), Weights.measured(SHARDS, busy))
    assert sorted(placed) == list(range(SHARDS))
    assert set(placed.values()) <= set(pods)


@pytest.mark.row("CP-5")
@given(PODS, st.data(), BUSY)
def test_a_joining_pod_only_takes(pods: list[PodName], data: st.DataObject, busy: dict[ShardId, float]) -> None:
    before, joined = data.draw(maps(pods)), name(20)
    placed, moves = place(SHARDS, before, [*pods, joined], {joined}, Weights.measured(SHARDS, busy))
    assert all(placed[shard] in (before[shard], joined) for shard in placed)
    assert {move.shard for move in moves} == {shard for shard in placed if placed[shard] != before[shard]}


@pytest.mark.row("CP-5")
@given(st.lists(st.integers(0, 12).map(name), min_size=2, max_size=8, unique=True), st.data(), BUSY)
def test_a_lost_pods_shards_only_spread(pods: list[PodName], data: st.DataObject, busy: dict[ShardId, float]) -> None:
    before, lost = data.draw(maps(pods)), pods[0]
    placed, moves = place(SHARDS, before, pods[1:], (), Weights.measured(SHARDS, busy))
    assert all(placed[shard] == owner for shard, owner in before.items() if owner != lost)
    assert {move.shard for move in moves} == {shard for shard, owner in before.items() if owner == lost}
    assert {move.reason for move in moves} <= {"lost"}


@pytest.mark.row("CP-5")
@given(st.data(), BUSY)
def test_without_pods_the_map_is_empty_and_nothing_fails(data: st.DataObject, busy: dict[ShardId, float]) -> None:
    before = data.draw(maps([name(0), name(1)]))
    assert place(SHARDS, before, [], (), Weights.measured(SHARDS, busy)) == ({}, ())


@pytest.mark.row("CP-5")
@given(PODS, st.data(), BUSY)
def test_the_same_input_gives_the_same_map_and_a_placed_map_stays(
    pods: list[PodName], data: st.DataObject, busy: dict[ShardId, float]
) -> None:
    before, weights = data.draw(maps([*pods, name(13)])), Weights.measured(SHARDS, busy)
    placed, moves = place(SHARDS, before, pods, (), weights)
    assert place(SHARDS, before, pods, (), weights) == (placed, moves)
    assert place(SHARDS, placed, pods, (), weights) == (placed, ())


@given(st.integers(1, 8), st.integers(1, 64))
def test_a_first_map_is_even(pods: int, shards: int) -> None:
    placed, moves = place(shards, {}, [name(each) for each in range(pods)], (), even(shards))
    found = counts(placed)
    assert max(found.values()) - min(found.get(name(each), 0) for each in range(pods)) <= 1
    assert {move.reason for move in moves} == {"first"}
    assert {move.source for move in moves} == {None}


@given(st.integers(1, 7))
def test_a_pod_that_joins_an_even_pool_gets_its_share(pods: int) -> None:
    every = [name(each) for each in range(pods)]
    before, _ = place(SHARDS, {}, every, (), even(SHARDS))
    placed, moves = place(SHARDS, before, [*every, name(7)], {name(7)}, even(SHARDS))
    assert counts(placed)[name(7)] == SHARDS // (pods + 1)
    assert {move.reason for move in moves} == {"joined"}


def test_a_pod_that_joins_gets_load_not_only_shards() -> None:
    before = shard_map(0, 0, 0, 0, 1, 1, 1, 1).shards
    busy = measured(0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1).busy
    placed, _ = place(8, before, [name(0), name(1), name(2)], {name(2)}, Weights.measured(8, busy))
    assert placed[ShardId(0)] == name(2)


def test_a_pod_with_one_shard_gives_nothing_to_one_that_joins() -> None:
    before = shard_map(0, 1).shards
    assert place(2, before, [name(0), name(1), name(2)], {name(2)}, even(2)) == (dict(before), ())


def test_a_shard_beyond_the_count_is_dropped_from_the_map() -> None:
    placed, _ = place(2, shard_map(0, 0, 0).shards, [name(0)], (), even(2))
    assert sorted(placed) == [0, 1]


def test_a_shard_that_was_not_measured_weighs_as_much_as_the_mean() -> None:
    weights = Weights.measured(3, measured(1.0, 3.0).busy)
    assert weights.of[ShardId(2)] == pytest.approx(2.1)
    assert weights.total([ShardId(0), ShardId(1)]) == pytest.approx(4.2)


@pytest.mark.parametrize(
    ("owners", "busy", "ratio"),
    [
        ((0, 0, 1, 1), (1, 1, 1, 1), 1.0),
        ((0, 0, 1, 1), (3, 1, 0, 0), 2.0),
        ((0, 0, 1, 1), (0, 0, 0, 0), None),
        ((0, 0, 9, 9), (1, 0, 5, 5), 2.0),
    ],
    ids=["even", "all on one", "idle", "a pod that is gone does not count"],
)
def test_imbalance_is_the_heaviest_pod_over_the_mean(
    owners: tuple[int, ...], busy: tuple[float, ...], ratio: float | None
) -> None:
    assert imbalance(shard_map(*owners).shards, [name(0), name(1)], measured(*busy).busy) == ratio


def moves_of(owners: tuple[int, ...], busy: tuple[float, ...], *, most: int = 4, resting: tuple[int, ...] = ()) -> str:
    pods = [name(ordinal) for ordinal in range(max(owners) + 1)]
    moves = rebalance(
        shard_map(*owners).shards,
        pods,
        measured(*busy).busy,
        tolerance=0.2,
        most=most,
        resting={ShardId(shard) for shard in resting},
    )
    assert {move.reason for move in moves} <= {"load"}
    return " ".join(f"{move.shard}:{move.target[-1]}" for move in moves)


@pytest.mark.row("CP-22", part="best gain per move, limits per round, rest")
@pytest.mark.parametrize(
    ("owners", "busy", "options", "moves"),
    [
        ((0, 0, 1, 1), (0.5, 0.5, 0.5, 0.5), {}, ""),
        ((0, 0, 1, 1), (0.6, 0.5, 0.5, 0.4), {}, ""),
        ((0, 0, 0, 1), (0.5, 0.3, 0.2, 0.1), {}, "0:1"),
        ((0, 0, 0, 1), (0.5, 0.3, 0.2, 0.1), {"resting": (0,)}, "1:1 2:1"),
        ((0, 0, 0, 1), (0.5, 0.3, 0.2, 0.1), {"most": 0}, ""),
        ((0, 0, 0, 0, 0, 0, 1), (0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.0), {"most": 2}, "0:1 1:1"),
        ((0, 1), (0.9, 0.0), {}, ""),
        ((0, 0, 1), (IDLE / 2, IDLE / 4, 0.0), {}, ""),
        ((0, 0), (0.5, 0.5), {}, ""),
        ((0, 0, 1), (0.0, 0.0, 0.0), {}, ""),
    ],
    ids=[
        *("even", "within tolerance", "best gain first", "a resting shard stays", "no move allowed"),
        *("several in a round", "one big shard gains nothing", "idle", "one pod", "no load"),
    ],
)
def test_a_round_moves_the_best_shards_and_no_more_than_it_may(
    owners: tuple[int, ...], busy: tuple[float, ...], options: dict[str, object], moves: str
) -> None:
    assert moves_of(owners, busy, **options) == moves  # type: ignore[arg-type]


@pytest.mark.row("CP-22", part="two hot pods never fill one target")
def test_two_hot_pods_never_both_fill_the_same_target() -> None:
    owners, busy = (0, 0, 1, 1, 2, 3), (0.5, 0.5, 0.5, 0.5, 0.05, 0.1)
    assert moves_of(owners, busy) == "2:2 0:3"


def test_a_shard_without_a_measurement_does_not_move() -> None:
    moves = rebalance(
        shard_map(0, 0, 0, 1).shards,
        [name(0), name(1)],
        {ShardId(1): 0.5, ShardId(2): 0.4},
        tolerance=0.2,
        most=4,
        resting=(),
    )
    assert [move.shard for move in moves] == [1]


@pytest.mark.row("CP-22", part="no move makes the heaviest pod heavier")
@given(st.integers(2, 6), st.data())
def test_a_round_never_makes_the_heaviest_pod_heavier_and_moves_no_shard_twice(pods: int, data: st.DataObject) -> None:
    names = [name(each) for each in range(pods)]
    before = data.draw(maps(names))
    busy = {ShardId(shard): data.draw(st.floats(0, 1)) for shard in range(SHARDS)}
    moves = rebalance(before, names, busy, tolerance=0.2, most=6, resting=())
    after = {**before, **{move.shard: move.target for move in moves}}

    def heaviest(shards: dict[ShardId, PodName]) -> float:
        return max(sum(busy[s] for s, owner in shards.items() if owner == pod) for pod in names)

    assert heaviest(after) <= heaviest(before) + 1e-9
    assert len({move.shard for move in moves}) == len(moves) <= 6
    assert all(before[move.shard] == move.source != move.target for move in moves)
