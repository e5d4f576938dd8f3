"""How many pods a pool should have."""

from __future__ import annotations

import math
from dataclasses import replace

from starling_operator.api.names import Pause
from starling_operator.plan.values import Memory, PoolSeen, PoolWish, ShardLoads
from starling_operator.plan.waking import awake, wakes


def desired_replicas(wish: PoolWish, seen: PoolSeen, memory: Memory, now: float) -> tuple[int, Memory]:
    """Return how many pods there should be, and what is remembered of it.

    Pods that are starting count as capacity: what is asked for is compared, not what is ready. Without
    measurements the number never falls; fallback is a floor then.
    """
    asked = seen.replicas
    policy = wish.scaling
    if policy is None:
        start = wish.replicas if wish.replicas is not None else asked if asked is not None else 1
        return _unpaused(wish, asked, start), memory
    start = wish.replicas if wish.replicas is not None else policy.minimum
    current = asked if asked is not None else start
    current = min(max(current, policy.minimum), policy.maximum)
    if asked == 0:
        is_time, memory = wakes(seen, memory, now)
        if is_time:
            return _unpaused(wish, asked, max(current, 1)), memory
    else:
        memory = awake(memory)
    if policy.lag_per_pod is None:
        return _unpaused(wish, asked, current), memory
    if seen.loads is None:
        floor = policy.fallback if policy.fallback is not None else current
        return _unpaused(wish, asked, min(max(current, floor), policy.maximum)), memory
    wanted = min(max(_by_lag(seen.loads, policy.lag_per_pod), policy.minimum), policy.maximum)
    wishes = (*((t, n) for t, n in memory.wishes if now - t <= policy.stabilization), (now, wanted))
    memory = replace(memory, wishes=wishes)
    if wanted > current:
        return _unpaused(wish, asked, min(wanted, current + policy.step_up)), memory
    stable = max(n for _, n in wishes)
    watched = now - wishes[0][0] >= policy.stabilization * 0.9
    if stable < current and watched:
        return _unpaused(wish, asked, max(stable, current - policy.step_down)), memory
    return _unpaused(wish, asked, current), memory


def _by_lag(loads: ShardLoads, target: float) -> int:
    total = sum(loads.lag.values())
    return math.ceil(total / target) if target > 0 else 0


def _unpaused(wish: PoolWish, asked: int | None, wanted: int) -> int:
    """Return what is wanted, unless people have stopped that direction."""
    if asked is None:
        return wanted
    if (wanted > asked and wish.stops(Pause.SCALE_OUT)) or (wanted < asked and wish.stops(Pause.SCALE_IN)):
        return asked
    return wanted
