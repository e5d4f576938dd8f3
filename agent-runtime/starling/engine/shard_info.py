"""What a shard's tasks share: who we are, how we work, and what can be counted from outside."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starling.core import limits
from starling.core.ids import PodName, PoolName
from starling.core.names import MeshNames, PoolNames
from starling.core.retry import RetryPolicy
from starling.engine.faults import Passed, no_fault
from starling.engine.room import Room
from starling.tracing import Tracing

if TYPE_CHECKING:
    from starling.agent import AgentDefinition


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that owns a shard: the pod, and the id of its present start."""

    pod: PodName
    start: str

    def __str__(self) -> str:
        return f"{self.pod}/{self.start}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner that a record names; None when the shard is free."""
        pod, _, start = text.partition("/")
        return cls(PodName(pod), start) if pod else None


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What all shards of a pool in this process have in common.

    wall: seconds since 1970; timer: seconds of a monotonic clock, for measuring only; chance: jitter and ids;
    passed: told of the points at which tests let a process die; tracing: None without an SDK.
    """

    mesh: str
    pool: PoolName
    shards: int
    incarnation: str
    agents: Mapping[str, AgentDefinition]
    wall: Callable[[], float]
    timer: Callable[[], float]
    chance: random.Random
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_concurrent_turns: int = limits.MAX_CONCURRENT_TURNS
    max_active: int = limits.MAX_ACTIVE
    """Agents that this process keeps in memory at once."""
    dedupe_window: float = limits.DEDUPE_WINDOW
    move_wait: float = limits.MOVE_WAIT
    passed: Passed = no_fault
    room: Room = field(default_factory=Room)
    """For the large bodies of all shards of the pool in this process."""
    tracing: Tracing | None = None

    @property
    def names(self) -> PoolNames:
        return MeshNames(self.mesh).pool(self.pool)


@dataclass(slots=True)
class ShardStats:
    """Counts of one shard since it was taken; read by metrics, written by the engine."""

    turns: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By agent type and result: ok, retry, dead, cancelled."""
    turn_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    busy_seconds: float = 0.0
    commits: int = 0
    commit_seconds: float = 0.0
    record_bytes: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    overdue_turns: Counter[str] = field(default_factory=Counter)
    """Turns that went on past their deadline, by agent type."""
    active_agents: int = 0
    quarantined_agents: int = 0
    """Agents whose state does not load: their messages become dead letters."""
    queries: Counter[str] = field(default_factory=Counter)
    """Answered queries by result: ok, failed, again."""
    outbox_frames: int = 0
    dirty_cells: int = 0
    due_records: int = 0
