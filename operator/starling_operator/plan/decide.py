"""The next step for a pool: how many pods, which of them leave, which pod runs which shard."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from starling.core.ids import PodName, ShardId
from starling.core.membership import ShardMap

from starling_operator.api.names import Pause
from starling_operator.plan.placement import Weights, imbalance, place, rebalance
from starling_operator.plan.scaling import desired_replicas
from starling_operator.plan.values import (
    ConditionWish,
    Memory,
    Move,
    Plan,
    PodView,
    PoolSeen,
    PoolWish,
)

STALE_AFTER: Final = 60.0
"""Measurements older than this are no measurements, in seconds."""
VANISHED_WITHIN: Final = 10.0
HOLD: Final = 15.0


def decide(wish: PoolWish, seen: PoolSeen, memory: Memory, now: float) -> Plan:
    """Return the next step for the pool. Deciding again on what it leads to plans nothing new."""
    seen = _fresh(seen)
    desired, memory = desired_replicas(wish, seen, memory, now)
    if wish.stops(Pause.ALL):
        return Plan(memory, desired=desired, conditions=_conditions(wish, seen, memory, desired, held=False))
    memory, held = _members_unknown(seen, memory, now)
    before = seen.map or ShardMap(0)
    leaving = _leaving(wish, seen, desired)
    usable = _usable(wish, seen, desired, leaving)
    if held or not (usable or seen.map):
        return Plan(
            memory,
            replicas=_ask(seen, desired),
            desired=desired,
            conditions=_conditions(wish, seen, memory, desired, held),
        )
    shards, moves = _placed(wish, seen, before, usable, desired, {pod.name for pod in leaving})
    memory, round_moves = _round(wish, seen, memory, shards, usable, leaving, moves, now)
    if round_moves:
        shards = {**shards, **{move.shard: move.target for move in round_moves}}
        moves = (*moves, *round_moves)
    draining = tuple(sorted(pod.name for pod in leaving))
    new = None
    if (usable or desired == 0) and (shards != dict(before.shards) or draining != tuple(sorted(before.draining))):
        new = ShardMap(before.rev + 1, shards, draining)
    busy = seen.loads.busy if seen.loads else {}
    return Plan(
        memory,
        map=new,
        moves=moves,
        replicas=_replicas(seen, desired, leaving, settled=new is None),
        replace=_replaceable(wish, seen, leaving, desired) if new is None else None,
        desired=desired,
        imbalance=imbalance(shards, usable, busy),
        conditions=_conditions(wish, seen, memory, desired, held),
    )


def _fresh(seen: PoolSeen) -> PoolSeen:
    """Old measurements are unknown, not low."""
    if seen.loads is not None and (seen.loads.age > STALE_AFTER or not seen.loads.busy):
        return replace(seen, loads=None)
    return seen


# -- pods


def _members_unknown(seen: PoolSeen, memory: Memory, now: float) -> tuple[Memory, bool]:
    """Whether so many members vanished at once that it says more about the store than about them."""
    known = [pod for pod in seen.pods if pod.member is not None or pod.gone_for is not None]
    just_gone = [pod for pod in known if pod.gone_for is not None and pod.gone_for <= VANISHED_WITHIN]
    none_left = bool(known) and all(pod.member is None for pod in known) and seen.map is not None
    many = len(just_gone) > 1 and len(just_gone) * 2 > len(known)
    if (many or none_left) and memory.hold_until <= now and not _held_before(memory, now):
        memory = replace(memory, hold_until=now + HOLD)
    return memory, now < memory.hold_until


def _held_before(memory: Memory, now: float) -> bool:
    """One hold for one event: after it, what is missing is missing."""
    return 0 < memory.hold_until <= now < memory.hold_until + HOLD


def _leaving(wish: PoolWish, seen: PoolSeen, desired: int) -> tuple[PodView, ...]:
    """Pods to be emptied: the highest ordinals when there are too many, then one of an older version."""
    surplus = tuple(pod for pod in seen.pods if pod.ordinal >= desired and pod.phase != "terminating")
    if surplus:
        return surplus
    return tuple(pod for pod in (_to_replace(wish, seen, desired),) if pod is not None)


def _to_replace(wish: PoolWish, seen: PoolSeen, desired: int) -> PodView | None:
    """The highest pod of an older version, when all others are ready and there is somewhere to go."""
    old = [pod for pod in seen.pods if pod.version != wish.version and pod.ordinal < desired]
    if not old:
        return None
    pod = max(old, key=lambda p: p.ordinal)
    others = [p for p in seen.pods if p is not pod and p.ordinal < desired]
    return pod if all(p.is_ready for p in others) else None


def _usable(wish: PoolWish, seen: PoolSeen, desired: int, leaving: Sequence[PodView]) -> list[PodName]:
    """Pods that should run shards: for the first map all that are wanted, later those that are ready or not lost."""
    if desired == 0:
        return []
    if seen.map is None:
        return [PodName(f"{wish.pool}-{ordinal}") for ordinal in range(desired)]
    gone = {pod.name for pod in leaving}
    named = set(seen.map.shards.values())
    usable = []
    for pod in sorted(seen.pods, key=lambda p: p.ordinal):
        if pod.name in gone or pod.phase in ("terminating", "failed"):
            continue
        if pod.member is not None and pod.member.draining:
            continue  # it leaves, or somebody asked for it to be emptied
        lost = pod.gone_for is not None and pod.gone_for >= wish.member_grace
        if not lost and (pod.is_ready or pod.name in named):
            usable.append(pod.name)
    if not usable and not any(pod.member is not None for pod in seen.pods):
        return sorted(named)  # nobody is there to take: the map stays as it is
    return usable


def _ask(seen: PoolSeen, desired: int) -> int | None:
    return desired if seen.replicas is None or desired > seen.replicas else None


def _replicas(seen: PoolSeen, desired: int, leaving: Sequence[PodView], *, settled: bool) -> int | None:
    """What to ask for: more at once; fewer only when those that leave own nothing and have said so."""
    if seen.replicas is None or desired > seen.replicas:
        return desired
    if desired == seen.replicas or not settled or seen.map is None:
        return None
    owing = [pod for pod in leaving if pod.ordinal >= desired and not _is_empty(pod, seen.map)]
    return None if owing else desired


def _is_empty(pod: PodView, current: ShardMap) -> bool:
    """Whether a pod owns nothing, by a report that is newer than the map that empties it, or is gone.

    One that no map has emptied yet may be in the middle of a take that no report tells of.
    """
    if pod.member is None:
        return pod.gone_for is not None or pod.phase in ("starting", "failed")
    return pod.name in current.draining and not pod.member.shards and pod.member.map_rev >= current.rev


def _replaceable(wish: PoolWish, seen: PoolSeen, leaving: Sequence[PodView], desired: int) -> int | None:
    """A pod of an older version that owns nothing, or that nobody could stand in for: it drains on its own then."""
    for pod in leaving:
        if pod.ordinal >= desired or pod.version == wish.version or pod.phase == "terminating" or seen.map is None:
            continue
        if desired == 1 or _is_empty(pod, seen.map):
            return pod.ordinal
    return None


# -- shards


def _placed(
    wish: PoolWish,
    seen: PoolSeen,
    before: ShardMap,
    usable: Sequence[PodName],
    desired: int,
    leaving: Collection[PodName],
) -> tuple[dict[ShardId, PodName], tuple[Move, ...]]:
    if desired == 0:
        return {}, ()
    if not usable:
        return dict(before.shards), ()
    holding = set(before.shards.values())
    joined = [] if wish.stops(Pause.MOVES) else [pod for pod in usable if pod not in holding]
    weights = Weights.measured(wish.shards, seen.loads.busy if seen.loads else None)
    shards, moves = place(wish.shards, before.shards, usable, joined if before.shards else (), weights)
    return shards, tuple(replace(move, reason="draining") if move.source in leaving else move for move in moves)


def _round(
    wish: PoolWish,
    seen: PoolSeen,
    memory: Memory,
    shards: Mapping[ShardId, PodName],
    usable: Sequence[PodName],
    leaving: Sequence[PodView],
    forced: Sequence[Move],
    now: float,
) -> tuple[Memory, tuple[Move, ...]]:
    """One round of moves by load, when nothing else is under way and the time has come."""
    if forced:
        moved = {**memory.moved_at, **{move.shard: now for move in forced}}
        return replace(memory, moved_at=moved), ()
    policy = wish.rebalance
    if policy is None or wish.stops(Pause.MOVES) or seen.loads is None or leaving or not _is_quiet(wish, seen):
        return memory, ()
    if memory.round_at is not None and now - memory.round_at < policy.interval:
        return memory, ()
    resting = {shard for shard, at in memory.moved_at.items() if now - at < policy.settle}
    moves = rebalance(
        shards,
        usable,
        seen.loads.busy,
        tolerance=policy.tolerance,
        most=policy.moves(wish.shards),
        resting=resting,
    )
    moved = {shard: at for shard, at in memory.moved_at.items() if shard in resting}
    moved.update((move.shard, now) for move in moves)
    return replace(memory, round_at=now, moved_at=moved, moves=memory.moves + len(moves)), moves


def _is_quiet(wish: PoolWish, seen: PoolSeen) -> bool:
    """Whether all pods are ready and of one version, and every shard is measured and runs where the map says."""
    if any(pod.version != wish.version or not pod.is_ready for pod in seen.pods):
        return False
    assert seen.map is not None
    assert seen.loads is not None
    return all(
        shard in seen.loads.busy
        and (pod := seen.pod(name)) is not None
        and pod.member is not None
        and shard in pod.member.shards
        for shard, name in seen.map.shards.items()
    )


# -- what is said of it


def _waiting_for(settled: bool, ready_pods: int, desired: int) -> str:
    return "" if settled else f"{ready_pods} of {desired} pods are ready"


def _conditions(wish: PoolWish, seen: PoolSeen, memory: Memory, desired: int, held: bool) -> tuple[ConditionWish, ...]:
    owned = {shard for pod in seen.pods if pod.member is not None for shard in pod.member.shards}
    ready_pods = sum(pod.is_ready for pod in seen.pods)
    served = len(owned) == wish.shards
    ready = served and ready_pods >= min(desired, 1)
    asleep = desired == 0 and not seen.pods
    ready = ready or asleep
    settled = asleep or (ready_pods == desired == len(seen.pods) and served)
    stopped = ", ".join(sorted(wish.paused))
    conditions = [
        ConditionWish(
            "Ready",
            ready,
            "Asleep" if asleep else "ShardsServed" if ready else "ShardsWaiting",
            f"{len(owned)} of {wish.shards} shards are served by {ready_pods} of {desired} pods",
        ),
        ConditionWish(
            "Progressing",
            not settled,
            "Paused" if stopped else "Settled" if settled else "PodsOrShardsMoving",
            f"people have stopped: {stopped}" if stopped else _waiting_for(settled, ready_pods, desired),
        ),
        ConditionWish(
            "Degraded",
            held,
            "MembersUnknown" if held else "AsExpected",
            "more than half of the members vanished at once; nothing is placed until that is clear" if held else "",
        ),
    ]
    if wish.rebalance is not None or wish.scaling is not None:
        measured = seen.loads is not None
        conditions.append(
            ConditionWish(
                "MetricsAvailable",
                measured,
                "Measured" if measured else "NoMeasurements",
                "" if measured else "no fresh measurements: no moves by load, no scaling down",
            )
        )
    conditions += (said for said in (_parked(seen), _undelivered(seen, memory)) if said is not None)
    return tuple(conditions)


def _undelivered(seen: PoolSeen, memory: Memory) -> ConditionWish | None:
    """A condition that is there while a pool sleeps that was woken in vain for what it has sent."""
    if not (seen.undelivered and memory.wake_pause):
        return None
    text = (
        f"{seen.undelivered} shards have sent what no mailbox takes, as one that is full; the pool was woken for it in "
        f"vain, and is again after {memory.wake_pause:.0f} s of sleep: look at the pools that it sends to"
    )
    return ConditionWish("Undelivered", True, "TargetsTakeNothing", text)


def _parked(seen: PoolSeen) -> ConditionWish | None:
    """A condition that is there as long as an agent is parked: nothing but people can mend that."""
    telling = [pod.member for pod in seen.pods if pod.member is not None and pod.member.parked]
    if not telling:
        return None
    count = sum(member.parked for member in telling)
    example = min(member.parked_agent for member in telling)
    text = f"{count} agents are parked, {example} among them: their state does not load; see `starling repair agent`"
    return ConditionWish("AgentsParked", True, "StateUnreadable", text)
