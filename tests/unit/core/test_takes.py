"""Who may take a shard, who adopts an orphan, and when an owner lets go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core import limits
from starling.core.ids import Epoch, PodName, ShardId
from starling.core.membership import Member, ShardMap
from starling.core.takes import (
    LastRecord,
    Presence,
    Right,
    TakeView,
    heir,
    is_gone,
    is_next,
    right_to_take,
    should_release,
)

SHARD = ShardId(3)
US, THEM, THIRD = PodName("p-0"), PodName("p-1"), PodName("p-2")
NOW = 1000.0
NOBODY = LastRecord(PodName(""), "", 0)


def member(pod: PodName, start: str = "s", *shards: ShardId) -> Member:
    return Member(pod, start, "i", "v", ready=True, draining=False, shards=dict.fromkeys(shards, Epoch(1)))


def here(pod: PodName, start: str = "s", *shards: ShardId) -> Presence:
    return Presence(member(pod, start, *shards))


GONE = Presence(None, NOW - limits.ORPHAN_AFTER, silent=True)


def view(
    named: PodName | None,
    last: LastRecord,
    *,
    rev: int = 7,
    owner: Presence | None = None,
    mapped: Presence | None = None,
    wanted_since: float = NOW,
    present: tuple[PodName, ...] = (US,),
    draining: tuple[PodName, ...] = (),
    fenced: bool = False,
) -> TakeView:
    return TakeView(
        shard=SHARD,
        pod=US,
        start="s",
        map=ShardMap(rev, {} if named is None else {SHARD: named}, draining),
        last=last,
        owner=owner or Presence(),
        mapped=mapped or Presence(),
        wanted_since=wanted_since,
        present=present,
        drain_seconds=30.0,
        fenced=fenced,
    )


def owned(pod: PodName, start: str = "s", rev: int = 7) -> LastRecord:
    return LastRecord(pod, start, rev)


# The one of three pods that rendezvous hashing picks; the cases below are named after it.
HEIR = heir(SHARD, (US, THEM, THIRD))
OTHERS_HEIR = heir(SHARD, (THEM, THIRD))

ALIVE = here(THEM, "s", SHARD)
DROPPED = here(THEM, "s", ShardId(SHARD + 1))
RESTARTED = here(THEM, "later")
SILENT = Presence(member(THEM), None, silent=True)

CASES = {
    # free: the map's pod, when the last record has no owner
    "free": (view(US, NOBODY), Right.FREE),
    "free, of an older map": (view(US, replace(NOBODY, map_rev=9)), Right.FREE),
    "free, but the map names another": (view(THEM, NOBODY, mapped=ALIVE), None),
    "free, and the map names nobody": (view(None, NOBODY), None),
    "free, but we are to be emptied": (view(US, NOBODY, draining=(US,)), None),
    # in place: a new process of the pod that the last record names
    "in place": (view(US, owned(US, "before")), Right.IN_PLACE),
    "in place, a take of ours that nobody could tell": (view(US, owned(US)), Right.IN_PLACE),
    "in place, and the map names nobody": (view(None, owned(US, "before")), Right.IN_PLACE),
    "in place, adopted by the same map": (view(THEM, owned(US, "before"), mapped=ALIVE), Right.IN_PLACE),
    "in place, but a newer map names another": (view(THEM, owned(US, "before", rev=6), mapped=ALIVE), None),
    "in place, but we are to be emptied": (view(US, owned(US, "before"), draining=(US,)), None),
    "in place, but a process that replaced us has it": (view(US, owned(US, "later"), fenced=True), None),
    "in place, after a fence, by our own record": (view(US, owned(US), fenced=True), Right.IN_PLACE),
    # by map: a smaller map was acted on, and the owner is gone, or overdue
    "by map, owner gone": (view(US, owned(THEM, rev=6), owner=Presence(None, NOW, True)), Right.BY_MAP),
    "by map, owner silent though its key is there": (view(US, owned(THEM, rev=6), owner=SILENT), Right.BY_MAP),
    "by map, owner restarted": (view(US, owned(THEM, rev=6), owner=RESTARTED), Right.BY_MAP),
    "by map, owner at work": (view(US, owned(THEM, rev=6), owner=ALIVE), None),
    "by map, owner has dropped it": (view(US, owned(THEM, rev=6), owner=DROPPED, wanted_since=NOW - 2), Right.BY_MAP),
    "by map, owner may not have said yet that it has it": (
        view(US, owned(THEM, rev=6), owner=DROPPED, wanted_since=NOW - 1.9),
        None,
    ),
    "by map, owner has dropped it, but that map was acted on": (
        view(US, owned(THEM), owner=DROPPED, wanted_since=NOW - 100),
        None,
    ),
    "by map, owner's key expired": (view(US, owned(THEM, rev=6), owner=Presence(None, NOW)), Right.BY_MAP),
    "by map, owner never seen": (view(US, owned(THEM, rev=6), owner=Presence(None, None)), None),
    "by map, owner overdue": (view(US, owned(THEM, rev=6), owner=ALIVE, wanted_since=NOW - 35), Right.BY_MAP),
    "by map, owner almost overdue": (view(US, owned(THEM, rev=6), owner=ALIVE, wanted_since=NOW - 34.9), None),
    "by map, but that map was acted on": (view(US, owned(THEM), owner=Presence(None, NOW, True)), None),
    "by map, but we are to be emptied": (view(US, owned(THEM, rev=6), owner=GONE, draining=(US,)), None),
    "fenced, then named by a larger map": (view(US, owned(THEM, rev=6), owner=GONE, fenced=True), Right.BY_MAP),
    # adopt: owner and map's pod both long absent and silent, and we are the heir
    "adopt": (view(THEM, owned(THEM), owner=GONE, mapped=GONE), Right.ADOPT),
    "adopt, owner and map's pod differ": (view(THIRD, owned(THEM), owner=GONE, mapped=GONE), Right.ADOPT),
    "adopt, free but the map's pod is gone": (view(THEM, NOBODY, mapped=GONE), Right.ADOPT),
    "adopt, no map names it": (view(None, owned(THEM), owner=GONE), Right.ADOPT),
    "adopt, ours by a map that was acted on": (view(US, owned(THEM), owner=GONE), Right.ADOPT),
    "adopt, ours by record and the map's pod gone": (
        view(THEM, owned(US, "before", rev=6), mapped=GONE, present=(US, THEM, THIRD)),
        Right.ADOPT,
    ),
    "adopt, map's pod lives": (view(THIRD, owned(THEM), owner=GONE, mapped=here(THIRD)), None),
    "adopt, owner lives": (view(THIRD, owned(THEM), owner=ALIVE, mapped=GONE), None),
    "adopt, too early": (
        view(THIRD, owned(THEM), owner=replace(GONE, absent_since=NOW - 14.9), mapped=GONE),
        None,
    ),
    "adopt, key gone but it answers": (
        view(THEM, owned(THEM), owner=replace(GONE, silent=False), mapped=replace(GONE, silent=False)),
        None,
    ),
    "adopt, silent but its key is there": (view(THEM, owned(THEM), owner=SILENT, mapped=SILENT), None),
    "adopt, cut off ourselves": (
        view(THEM, owned(THEM), owner=replace(GONE, absent_since=None), mapped=replace(GONE, absent_since=None)),
        None,
    ),
    "adopt, but we are to be emptied": (view(THEM, owned(THEM), owner=GONE, mapped=GONE, draining=(US,)), None),
    "adopt, but we are not present": (view(THEM, owned(THEM), owner=GONE, mapped=GONE, present=()), None),
    "adopt after a fence": (view(THEM, owned(THEM), owner=GONE, mapped=GONE, fenced=True), Right.ADOPT),
}


@pytest.mark.parametrize(("seen", "right"), CASES.values(), ids=CASES.keys())
def test_each_right_has_its_conditions(seen: TakeView, right: Right | None) -> None:
    assert right_to_take(seen, NOW) is right


@pytest.mark.parametrize(
    ("seen", "next_one"),
    [
        (view(US, owned(THEM, rev=6), owner=ALIVE), True),
        (view(THIRD, owned(THEM, rev=6), owner=ALIVE), False),
        (view(None, owned(THEM, rev=6), owner=ALIVE), False),
        (view(US, owned(THEM, rev=7), owner=ALIVE), False),
        (view(US, owned(US, "before", rev=6)), False),
        (view(US, NOBODY), False),
        (view(US, owned(THEM, rev=6), owner=ALIVE, draining=(US,)), False),
    ],
    ids=["named", "another", "nobody", "map-was-acted-on", "ours", "free", "we-are-to-be-emptied"],
)
def test_a_pod_is_next_when_a_newer_map_than_the_owner_acted_on_names_it(seen: TakeView, next_one: bool) -> None:
    assert is_next(seen) is next_one


def test_only_the_heir_adopts() -> None:
    pods = (US, THEM, THIRD)
    gone = PodName("gone")
    adopting = [
        pod
        for pod in pods
        if right_to_take(replace(view(gone, owned(gone), owner=GONE, mapped=GONE, present=pods), pod=pod), NOW)
    ]
    assert adopting == [HEIR]


def test_a_pod_that_is_to_be_emptied_is_no_heir() -> None:
    assert HEIR is not None
    assert OTHERS_HEIR is not None
    gone = PodName("gone")
    seen = view(gone, owned(gone), owner=GONE, mapped=GONE, present=(US, THEM, THIRD), draining=(HEIR,))
    left = tuple(pod for pod in (US, THEM, THIRD) if pod != HEIR)
    assert [pod for pod in (US, THEM, THIRD) if right_to_take(replace(seen, pod=pod), NOW)] == [heir(SHARD, left)]


@pytest.mark.parametrize(
    ("owner", "gone"),
    [
        (ALIVE, False),
        (RESTARTED, True),
        (SILENT, True),
        (Presence(None, NOW, True), True),
        (Presence(None, NOW), True),
        (Presence(None, NOW + 1), False),
    ],
    ids=["alive", "restarted", "silent", "silent-without-key", "key-gone", "key-gone-on-a-new-connection"],
)
def test_a_process_is_gone_when_it_restarted_is_silent_or_its_key_has_expired(owner: Presence, gone: bool) -> None:
    assert is_gone(owned(THEM), owner, NOW) is gone


PODS = st.sampled_from([PodName(f"p-{n}") for n in range(5)])


@given(
    shard=st.integers(0, 50).map(ShardId),
    named=st.none() | PODS,
    owner=st.none() | PODS,
    acted_on=st.sampled_from([6, 7]),
    alive=st.sets(PODS, min_size=1),
    restarted=st.booleans(),
    draining=st.sets(PODS, max_size=2),
)
def test_once_all_is_known_to_be_gone_that_had_a_shard_exactly_one_pod_may_take_it(
    shard: ShardId,
    named: PodName | None,
    owner: PodName | None,
    acted_on: int,
    alive: set[PodName],
    restarted: bool,
    draining: set[PodName],
) -> None:
    """All see the same, for long enough: then nobody waits for ever, and no two pods fight for the shard."""
    last = LastRecord(owner or PodName(""), "before" if restarted else "s", acted_on)

    def seen(pod: PodName | None) -> Presence:
        return here(pod) if pod in alive else GONE

    views = {
        pod: TakeView(
            shard=shard,
            pod=pod,
            start="s",
            map=ShardMap(7, {} if named is None else {shard: named}, tuple(sorted(draining))),
            last=last,
            owner=seen(owner) if owner else Presence(),
            mapped=seen(named) if named else Presence(),
            wanted_since=0.0,
            present=tuple(sorted(alive - draining)),
            drain_seconds=30.0,
        )
        for pod in sorted(alive)
    }
    takers = [pod for pod, one in views.items() if right_to_take(one, NOW) is not None]
    able = alive - draining
    if owner in alive and not restarted and owner != named and named is not None and acted_on < 7:
        assert set(takers) - {owner} == {named} & able  # a living owner hands over, and is not waited for for ever
    elif named in alive and named not in able:
        assert set(takers) <= {owner}  # to be emptied and still named: the control plane is about to say more
    elif named is None and (owner is None or owner in alive - able):
        assert takers == []  # asleep, or to be emptied
    elif owner in alive - able:
        assert set(takers) <= {named}  # the map's pod waits for the map that empties the owner
    elif able:
        assert len(takers) == 1
    else:
        assert takers == []


@given(st.integers(0, 200).map(ShardId), st.sets(PODS, min_size=1), PODS)
def test_a_pod_that_comes_or_goes_changes_the_heir_only_for_what_it_gets_or_had(
    shard: ShardId, pods: set[PodName], other: PodName
) -> None:
    before, after = heir(shard, pods - {other}), heir(shard, pods | {other})
    assert after in (before, other)


@given(st.integers(0, 200).map(ShardId), st.lists(PODS, min_size=1))
def test_all_pods_agree_on_the_heir_in_whatever_order_they_saw_the_members(shard: ShardId, pods: list[PodName]) -> None:
    assert heir(shard, pods) == heir(shard, sorted(set(pods), reverse=True))
    assert heir(shard, pods) in pods


def test_heirs_spread_over_the_pods_and_nobody_inherits_from_an_empty_list() -> None:
    heirs = [heir(ShardId(n), (US, THEM, THIRD)) for n in range(300)]
    assert all(heirs.count(pod) > 60 for pod in (US, THEM, THIRD))
    assert heir(SHARD, ()) is None


@pytest.mark.parametrize(
    ("named", "rev", "acted_on", "release"),
    [(THEM, 8, 7, True), (US, 8, 7, False), (None, 8, 7, False), (THEM, 7, 7, False), (THEM, 6, 7, False)],
    ids=["moved", "still-ours", "named-by-nobody", "acted-on", "older-map"],
)
def test_an_owner_lets_go_when_a_newer_map_names_another(
    named: PodName | None, rev: int, acted_on: int, release: bool
) -> None:
    current = ShardMap(rev, {} if named is None else {SHARD: named})
    assert should_release(SHARD, US, acted_on, current) is release


def test_an_owner_whose_pod_is_emptied_lets_go_of_what_the_map_names_nobody_for() -> None:
    assert should_release(SHARD, US, 7, ShardMap(8, {}, draining=(US,)))
    assert not should_release(SHARD, US, 8, ShardMap(8, {}, draining=(US,)))
    assert not should_release(SHARD, US, 7, ShardMap(8, {}, draining=(THEM,)))
