"""When a pool without pods is woken by what it still has to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from starling_operator.plan.values import Memory, PoolSeen

FIRST_PAUSE: Final = 15.0
"""Seconds that a pool sleeps on which was woken in vain for what it has sent; twice as long each further time."""
PAUSE_CAP: Final = 600.0


def wakes(seen: PoolSeen, memory: Memory, now: float) -> tuple[bool, Memory]:
    """Whether a pool without pods has something to do now, and what is remembered of it.

    What waits for it, and what is due, wakes it at once. So does what it has sent and no mailbox has taken, but only
    the first time: where a target takes nothing for long, it would wake and sleep by turns.
    """
    if not seen.undelivered:
        memory = replace(memory, wake_pause=0.0, wakes_at=None)
    elif memory.wakes_at is None:
        memory = replace(memory, wakes_at=now + memory.wake_pause)
    is_time = memory.wakes_at is not None and memory.wakes_at <= now
    return bool(seen.waiting or seen.owing or is_time), memory


def awake(memory: Memory) -> Memory:
    """Return what is remembered of a pool with pods: if it sleeps again with what it cannot deliver, then longer."""
    if memory.wakes_at is None:
        return memory
    return replace(memory, wakes_at=None, wake_pause=min(max(memory.wake_pause * 2, FIRST_PAUSE), PAUSE_CAP))
