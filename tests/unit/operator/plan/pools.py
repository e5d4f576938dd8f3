"""Pools as the rules see them, in as few words as a table of cases needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from starling.core.ids import Epoch, PodName, ShardId
from starling.core.membership import Member, ShardMap
from starling_operator.plan.values import (
    Memory,
    Plan,
    PodView,
    PoolSeen,
    PoolWish,
    RebalancePolicy,
    ScalingPolicy,
    ShardLoads,
)

SHARDS = 8
V1, V2 = "v1", "v2"
SCALING = ScalingPolicy(minimum=1, maximum=5, lag_per_pod=100, stabilization=10, step_up=4, step_down=1)
REBALANCE = RebalancePolicy(interval=5, tolerance=0.2, max_moves=1, settle=10, window=15)
NOTHING = Memory()


def name(ordinal: int) -> PodName:
    return PodName(f"p-{ordinal}")


def wish(replicas: int | None = 2, **changes: Any) -> PoolWish:
    """The pool `p` with 8 shards, version 1."""
    return replace(PoolWish("p", SHARDS, replicas, V1), **changes)


def pod(ordinal: int, shards: Iterable[int] = (), *, rev: int = 1, version: str = V1, **changes: Any) -> PodView:
    """A ready pod that owns these shards, as it said after reading map `rev`; ready and draining may be changed."""
    member = Member(
        name(ordinal),
        start=f"start-{ordinal}",
        incarnation="inc",
        version=version,
        ready=changes.pop("ready", True),
        draining=changes.pop("draining", False),
        shards={ShardId(shard): Epoch(1) for shard in shards},
        map_rev=rev,
    )
    return replace(PodView(name(ordinal), ordinal, version, member=member), **changes)


def absent(ordinal: int, *, gone_for: float | None = None, phase: str = "starting", version: str = V1) -> PodView:
    """A pod that is no member; gone_for None: it never was one."""
    return PodView(name(ordinal), ordinal, version, phase=phase, gone_for=gone_for)


def shard_map(*owners: int, rev: int = 1, draining: Iterable[int] = ()) -> ShardMap:
    """The map that gives shard 0 to the first ordinal, shard 1 to the second, and so on."""
    shards = {ShardId(shard): name(ordinal) for shard, ordinal in enumerate(owners)}
    return ShardMap(rev, shards, tuple(map(name, draining)))


def running(*owners: int, loads: ShardLoads | None = None, rev: int = 1, pods: int | None = None) -> PoolSeen:
    """Everything is as it should be: each pod is ready and owns what the map says."""
    count = pods if pods is not None else max(owners) + 1
    views = tuple(
        pod(ordinal, [shard for shard, owner in enumerate(owners) if owner == ordinal], rev=rev)
        for ordinal in range(count)
    )
    return PoolSeen(views, count, shard_map(*owners, rev=rev), loads)


def with_pods(seen: PoolSeen, *views: PodView) -> PoolSeen:
    """The same with these pods in the place of those of their ordinals."""
    by_ordinal = {view.ordinal: view for view in (*seen.pods, *views)}
    return replace(seen, pods=tuple(by_ordinal[ordinal] for ordinal in sorted(by_ordinal)))


def measured(*busy: float, lag: float = 0.0, age: float = 1.0) -> ShardLoads:
    """Busy seconds of shards 0, 1, ...; lag: of the whole pool."""
    return ShardLoads({ShardId(shard): value for shard, value in enumerate(busy)}, {ShardId(0): lag}, age)


def counts(shards: Mapping[ShardId, PodName]) -> dict[str, int]:
    """Pod to its number of shards."""
    found: dict[str, int] = {}
    for owner in shards.values():
        found[owner] = found.get(owner, 0) + 1
    return found


def followed(seen: PoolSeen, plan: Plan) -> PoolSeen:
    """What the pool is once everybody has done what the plan says."""
    current = plan.map or seen.map
    replicas = plan.replicas if plan.replicas is not None else seen.replicas
    assert replicas is not None
    known = {view.ordinal: view for view in seen.pods}
    stays = [view.ordinal for view in seen.pods if view.ordinal < replicas or plan.replicas is None]
    views = []
    for ordinal in sorted({*range(replicas), *stays}):
        view = known.get(ordinal) or pod(ordinal)
        owned = [shard for shard, owner in (current.shards if current else {}).items() if owner == view.name]
        version = V1 if plan.replace == ordinal else view.version
        views.append(pod(ordinal, owned, rev=current.rev if current else 0, version=version))
    return replace(seen, pods=tuple(views), replicas=replicas, map=current)


def condition(plan: Plan, kind: str) -> tuple[bool, str]:
    """Status and reason of one of the plan's conditions."""
    return next((each.status, each.reason) for each in plan.conditions if each.type == kind)
