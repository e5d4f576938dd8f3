"""How many pods a pool should have."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from starling_operator.api.names import Pause
from starling_operator.plan.values import Memory, PoolSeen, PoolWish, ScalingPolicy, ShardLoads
from starling_operator.plan.waking import awake, wakes

BUSY_SHARE: Final = 0.5
"""Busy seconds per second of each pod that stays, up to which others may leave."""
IDLE_SHARE: Final = 0.1
"""Busy seconds per second of a whole pool, up to which it counts as idle and may sleep while nothing waits."""
BLINK: Final = 15.0
"""Seconds without a look or a measurement that do not end a quiet time."""
PROVEN: Final = 30.0
"""For how long at least a smaller number must hold before it counts as right, in seconds."""
LONGEST_QUIET: Final = 900.0
"""Seconds up to which a quiet time grows; a target may ask for more."""


def desired_replicas(wish: PoolWish, seen: PoolSeen, memory: Memory, now: float) -> tuple[int, Memory]:
    """Return how many pods there should be, and what is remembered of it.

    Pods that are starting count as capacity: what is asked for is compared, not what is ready. Without
    measurements the number never falls; fallback is a floor then. It falls after a quiet time, and only while those
    that stay have room for the work as it is.
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
    waiting = min(max(_by_lag(seen.loads, policy.lag_per_pod), policy.minimum), policy.maximum)
    memory, stable = _stable(policy, memory, max(waiting, min(current, _by_work(seen.loads))), now)
    memory = _doubted(policy, memory, waiting, now)
    if waiting > current:
        return _unpaused(wish, asked, min(waiting, current + policy.step_up)), memory
    if stable is None or stable >= current:
        return _unpaused(wish, asked, current), memory
    fewer = _unpaused(wish, asked, max(stable, current - policy.step_down))
    if 0 < fewer < current:  # a pool that goes to sleep may be woken by a single message
        memory = replace(memory, left=(now, current))
    return fewer, memory


def _stable(policy: ScalingPolicy, memory: Memory, wanted: int, now: float) -> tuple[Memory, int | None]:
    """Note what is wanted now. Return the most that was wanted in the quiet time; None before it was watched so long.

    Of earlier wishes only those are kept that were for more than each later one: no other is ever the most.
    """
    quiet = _quiet(policy, memory)
    unbroken = memory.watched is not None and now - memory.watched[1] <= max(quiet, BLINK)
    since = memory.watched[0] if memory.watched is not None and unbroken else now
    earlier = ((at, number) for at, number in memory.wishes if now - at <= quiet and number > wanted)
    wishes = (*earlier, (now, wanted))
    memory = replace(memory, wishes=wishes, watched=(since, now))
    return memory, max(number for _, number in wishes) if now - since >= quiet else None


def _quiet(policy: ScalingPolicy, memory: Memory) -> float:
    """For how many seconds fewer pods must have been enough."""
    return max(policy.stabilization, memory.quiet)


def _doubted(policy: ScalingPolicy, memory: Memory, waiting: int, now: float) -> Memory:
    """A load that soon needs as many pods again as before some left was not over: the next quiet time is twice as long.

    It is the target's own again once a smaller number has held.
    """
    if memory.left is None:
        return memory
    at, before = memory.left
    quiet = _quiet(policy, memory)
    if now - at > max(2 * quiet, PROVEN):
        return replace(memory, left=None, quiet=0.0)
    if waiting >= before:
        return replace(memory, left=None, quiet=min(2 * max(quiet, 1.0), LONGEST_QUIET))
    return memory


def _by_lag(loads: ShardLoads, target: float) -> int:
    total = sum(loads.lag.values())
    return math.ceil(total / target) if target > 0 else 0


def _by_work(loads: ShardLoads) -> int:
    """Return the pods that leave room beside the work as it is; 0 for a pool that is idle: it may have none.

    While pods keep up nothing waits, however busy they are: what waits does not say that fewer are enough.
    """
    busy = sum(loads.busy.values())
    return math.ceil(busy / BUSY_SHARE) if busy > IDLE_SHARE else 0


def _unpaused(wish: PoolWish, asked: int | None, wanted: int) -> int:
    """Return what is wanted, unless people have stopped that direction."""
    if asked is None:
        return wanted
    if (wanted > asked and wish.stops(Pause.SCALE_OUT)) or (wanted < asked and wish.stops(Pause.SCALE_IN)):
        return asked
    return wanted
