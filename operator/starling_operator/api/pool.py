"""AgentPool: agents of some types, and the pods that run them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints
from starling.core import limits

from starling_operator.api.common import (
    AgentType,
    Conditions,
    Delivery,
    LongText,
    Metadata,
    Model,
    ObjectName,
    Seconds,
    ShortText,
    Word,
)
from starling_operator.api.rules import Rule

MAX_POOL_NAME = 50


class Durability(StrEnum):
    """What a turn leaves behind."""

    COMMITTED = "committed"
    NONE = "none"


class DeletionPolicy(StrEnum):
    """What happens to streams and state when the pool is deleted."""

    KEEP = "Keep"
    DELETE = "Delete"


class Code(Model):
    """Where the agents' code comes from."""

    config_map: ObjectName
    """ConfigMap whose keys are Python files."""


class Passivation(Model):
    """When an idle agent leaves memory."""

    idle_seconds: Seconds = limits.PASSIVATION_IDLE
    """Seconds without a message."""


class AgentEntry(Model):
    """One agent type of the pool."""

    type: AgentType
    """The agent type, as the class says it."""
    entrypoint: Annotated[str, StringConstraints(max_length=512, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """module:Class."""
    durability: Durability = Durability.COMMITTED
    """Whether turns are committed to the journal."""
    passivation: Passivation | None = None
    """When an idle agent leaves memory."""


class Streams(Model):
    """The pool's streams on NATS."""

    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Copies of each stream; 3 survive the loss of a NATS server."""
    mailbox_limit: Annotated[int, Field(ge=1, le=100_000_000)] = limits.MAILBOX_LIMIT
    """Messages that wait in a shard's mailbox, by subject."""
    max_bytes: Annotated[int, Field(ge=limits.MIB, le=1 << 50)] = limits.MAILBOX_MAX_BYTES
    """Bytes of a shard's mailbox."""


class PoolSpec(Model):
    """What the pool should be."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.image) || has(self.code)",
            "code",
            "give code.configMap, or an image that carries the agents",
            lambda new, old: new.image is not None or new.code is not None,
        ),
        Rule(
            "self.shards == oldSelf.shards",
            "shards",
            "the number of shards is fixed for the life of a pool",
            lambda new, old: old is None or new.shards == old.shards,
            transition=True,
        ),
        Rule(
            "self.streams.replicas % 2 == 1",
            "streams.replicas",
            "must be odd: 1, 3 or 5",
            lambda new, old: new.streams.replicas % 2 == 1,
        ),
    )

    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Pods. With an AgentScalingTarget the start value only; left out, somebody else scales the pool (1 to begin)."""
    shards: Annotated[int, Field(ge=1, le=limits.MAX_SHARDS)] = limits.DEFAULT_SHARDS
    """Fixed slices of the pool's agents; four to ten times the largest number of pods."""
    code: Code | None = None
    """Code from a ConfigMap, run by the standard worker image."""
    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    """Worker image; with `code` it is the image that the code runs in."""
    agents: Annotated[
        list[AgentEntry],
        Field(
            min_length=1,
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ]
    """The agent types of the pool. A type belongs to one pool of a mesh."""
    delivery: Delivery = Delivery()
    """Retries of events."""
    streams: Streams = Streams()
    """Streams on NATS."""
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = limits.DRAIN
    """How long a pod that leaves may keep its shards."""
    move_wait_seconds: Annotated[float, Field(ge=0, le=3600)] = limits.MOVE_WAIT
    """How long a hand-off waits for long turns."""
    member_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = limits.MEMBER_GRACE
    """How long a pod may be silent before its shards go to others."""
    deletion_policy: DeletionPolicy = DeletionPolicy.KEEP
    """What happens to streams and state when the pool is deleted."""
    dry_run: bool = False
    """Show the plan in status and change nothing."""
    template: Annotated[
        dict[str, Any],
        Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
    ] = Field(default_factory=dict)
    """Overrides of the pod template (metadata and spec), merged into ours."""


class PoolStatus(Model):
    """What the pool is."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation that the rest speaks of."""
    replicas: Annotated[int, Field(ge=0)] = 0
    """Pods that exist."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Pods that are ready."""
    selector: ShortText = ""
    """Label selector of the pods, for `kubectl scale` and autoscalers."""
    shards_owned: Annotated[int, Field(ge=0)] = 0
    """Shards that a pod runs now."""
    shards: Annotated[str, StringConstraints(max_length=32)] = ""
    """Owned of all, for people."""
    moves: Annotated[int, Field(ge=0)] = 0
    """Shards moved because of measured load."""
    last_move: ShortText = ""
    """The last of them."""
    map_revision: Annotated[int, Field(ge=0)] = 0
    """Revision of the shard map."""
    imbalance: Annotated[str, StringConstraints(max_length=32)] = ""
    """Load of the most loaded pod over the mean."""
    incarnation: Word = ""
    """Of the pool's data."""
    plan: LongText = ""
    """What would be done now, with dryRun."""
    conditions: Conditions = Field(default_factory=list)
    """Ready, Progressing, Degraded, MetricsAvailable."""


class AgentPool(Model):
    """Agents of some types, and the pods that run them."""

    kind: ClassVar[str] = "AgentPool"
    metadata: Metadata
    spec: PoolSpec
    status: PoolStatus = PoolStatus()
