"""What the control loop decides upon, and what it decides: frozen values, times in seconds of one monotonic clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starling.core import limits
from starling.core.ids import PodName, ShardId
from starling.core.membership import Member, ShardMap

from starling_operator.api.names import Pause


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """How many pods. lag_per_pod: messages that a pod may have waiting; None leaves the number alone."""

    minimum: int
    maximum: int
    lag_per_pod: float | None = None
    stabilization: float = 60.0
    step_up: int = 4
    step_down: int = 1
    fallback: int | None = None


@dataclass(frozen=True, slots=True)
class RebalancePolicy:
    """When shards move by load. max_moves None: a tenth of the shards, at least 1, at most 20."""

    interval: float = 30.0
    tolerance: float = 0.2
    max_moves: int | None = None
    settle: float = 60.0
    window: float = 60.0

    def moves(self, shards: int) -> int:
        """Moves a round at most."""
        return self.max_moves if self.max_moves is not None else max(1, min(20, shards // 10))


@dataclass(frozen=True, slots=True)
class PoolWish:
    """What the pool should be. replicas None: somebody else owns the number."""

    pool: str
    shards: int
    replicas: int | None
    version: str
    member_grace: float = limits.MEMBER_GRACE
    scaling: ScalingPolicy | None = None
    rebalance: RebalancePolicy | None = None
    paused: frozenset[Pause] = frozenset()

    def stops(self, part: Pause) -> bool:
        """Whether people have stopped this part."""
        return part in self.paused or Pause.ALL in self.paused


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod. gone_for: seconds since it is known to be gone (its process ended, or it is silent and its member
    entry has expired); None while it is there, or was never there."""

    name: PodName
    ordinal: int
    version: str
    phase: str = "running"
    member: Member | None = None
    gone_for: float | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it can take shards."""
        return self.member is not None and self.member.ready and not self.member.draining


@dataclass(frozen=True, slots=True)
class ShardLoads:
    """Load by shard as measured. busy: seconds of work a second; lag: messages waiting; age: seconds since then.

    A shard that is missing was not measured, which is not zero.
    """

    busy: Mapping[ShardId, float]
    lag: Mapping[ShardId, float]
    age: float


@dataclass(frozen=True, slots=True)
class PoolSeen:
    """What the pool is. replicas: as asked for now, None before the first time; map None: there is none yet.

    waiting: messages in the mailboxes of a pool without pods, which measures nothing itself; owing: its shards that
    have work to do by now without a message, as a timer that is due; undelivered: those that have sent what no mailbox
    has taken.
    """

    pods: tuple[PodView, ...]
    replicas: int | None
    map: ShardMap | None
    loads: ShardLoads | None
    waiting: int = 0
    owing: int = 0
    undelivered: int = 0

    def pod(self, name: PodName) -> PodView | None:
        """The pod of that name."""
        return next((pod for pod in self.pods if pod.name == name), None)

    def owner(self, shard: ShardId) -> PodName | None:
        """Who runs a shard: what members report, then the map."""
        for pod in self.pods:
            if pod.member is not None and shard in pod.member.shards:
                return pod.name
        return self.map.shards.get(shard) if self.map else None


@dataclass(frozen=True, slots=True)
class Memory:
    """What the rules remember from round to round.

    wishes: when how many pods were wanted; watched: since when that is looked at without a gap, and the last look;
    left: when fewer pods than there were was last said to be enough, and how many there were, None once that has proved
    right or wrong; quiet: for how long fewer must be enough, 0 as the target says.
    wakes_at: when a pool without pods is woken for what it has not delivered, None while that is no question;
    wake_pause: seconds that it sleeps on before that, 0 before it was woken for it.
    """

    round_at: float | None = None
    moved_at: Mapping[ShardId, float] = field(default_factory=dict)
    wishes: tuple[tuple[float, int], ...] = ()
    watched: tuple[float, float] | None = None
    left: tuple[float, int] | None = None
    quiet: float = 0.0
    hold_until: float = 0.0
    moves: int = 0
    wakes_at: float | None = None
    wake_pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Move:
    """One shard that changes its pod. reason: load, joined, lost, draining, first."""

    shard: ShardId
    source: PodName | None
    target: PodName
    reason: str
    gain: float = 0.0

    def __str__(self) -> str:
        return f"shard {self.shard}: {self.source or 'nobody'} -> {self.target} ({self.reason})"


@dataclass(frozen=True, slots=True)
class ConditionWish:
    """A condition to report."""

    type: str
    status: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class EventWish:
    """Something that happened, to be told to people. reason: one CamelCase word, as on Kubernetes events."""

    reason: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step. map, replicas, replace: None means: as it is.

    replace: ordinal of a pod that owns nothing and is to come back with the present version.
    """

    memory: Memory
    map: ShardMap | None = None
    moves: tuple[Move, ...] = ()
    replicas: int | None = None
    replace: int | None = None
    desired: int = 0
    imbalance: float | None = None
    conditions: tuple[ConditionWish, ...] = ()

    @property
    def text(self) -> str:
        """The plan for people, a line a step; "" when there is nothing to do."""
        lines = [str(move) for move in self.moves]
        if self.replicas is not None:
            lines.append(f"replicas: {self.replicas}")
        if self.replace is not None:
            lines.append(f"replace pod {self.replace}")
        if self.map is not None and not self.moves:
            lines.append(f"draining: {', '.join(self.map.draining) or 'nobody'}")
        return "\n".join(lines)
