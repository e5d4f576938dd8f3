"""AgentScalingTarget: how many pods a pool has, and when its shards move."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from starling_operator.api.common import Conditions, PoolRef
from starling_operator.api.fields import (
    MAX_REPLICAS,
    Count,
    NumberQuantity,
    Ratio,
    Replicas,
    Serial,
    Timestamp,
    distinct,
    list_map,
    number,
)
from starling_operator.api.model import Model, Rule
from starling_operator.api.names import ConditionType
from starling_operator.api.resource import AGE, Column, Kind, Resource, condition_column

PodsPerStep = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]


class SignalType(StrEnum):
    """What is measured of a pool."""

    LAG_PER_POD = "LagPerPod"


class Signal(Model):
    """One measure that the number of pods follows; of several the one that wants most pods wins."""

    type: SignalType
    """LagPerPod: messages that wait, divided by pods."""
    target: NumberQuantity
    """Value per pod that is aimed at: a number, or a quantity such as 800m or 2k."""

    @property
    def threshold(self) -> float:
        """`target` as a number."""
        return number(self.target)


class Behavior(Model):
    """How fast the number of pods may change."""

    stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """For how long fewer pods must have been enough before pods leave; longer where they were soon needed again."""
    scale_up_limit: PodsPerStep = 4
    """Pods that one step may add."""
    scale_down_limit: PodsPerStep = 1
    """Pods that one step may take away."""


class Rebalance(Model):
    """When shards move from busy pods to others."""

    enabled: bool = True
    """Whether shards move because of load at all."""
    interval_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """Seconds from one look at the loads to the next."""
    tolerance: Annotated[float, Field(ge=0, le=10)] = 0.2
    """Shards move only while the most loaded pod is above (1 + tolerance) times the mean."""
    max_moves_per_round: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Most moves of one look; without it a tenth of the shards, at least 1, at most 20."""
    settle_seconds: Annotated[int, Field(ge=0, le=86_400)] = 60
    """For how long a shard that moved stays where it is."""
    window_seconds: Annotated[int, Field(ge=5, le=3600)] = 60
    """Seconds over which loads are averaged; at least twice the scrape interval says something."""


class AgentScalingTargetSpec(Model):
    """How many pods a pool has, and when its shards move."""

    pool_ref: PoolRef
    """Pool that is scaled; one target a pool."""
    min_replicas: Replicas = 1
    """Fewest pods."""
    max_replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
    """Most pods."""
    signals: Annotated[
        tuple[Signal, ...],
        Field(max_length=8, json_schema_extra=list_map("type")),
        AfterValidator(distinct("type")),
    ] = ()
    """What the number of pods follows; without any, the pool only stays between minReplicas and maxReplicas."""
    behavior: Behavior = Behavior()
    """How fast the number of pods may change."""
    rebalance: Rebalance = Rebalance()
    """When shards move from busy pods to others."""
    fallback_replicas: Replicas | None = None
    """Pods while no signal can be read; without it the pool stays as it is."""

    rules = (
        Rule(
            "self.maxReplicas >= self.minReplicas",
            "must be at least minReplicas",
            ".maxReplicas",
            lambda it: it.max_replicas >= it.min_replicas,
        ),
        Rule(
            "!has(self.fallbackReplicas) || "
            "(self.fallbackReplicas >= self.minReplicas && self.fallbackReplicas <= self.maxReplicas)",
            "must be between minReplicas and maxReplicas",
            ".fallbackReplicas",
            lambda it: it.fallback_replicas is None or it.min_replicas <= it.fallback_replicas <= it.max_replicas,
        ),
    )


class SignalReading(Model):
    """A signal as it was read last."""

    type: Annotated[str, Field(max_length=63)]
    """Which signal."""
    value: Ratio | None = None
    """Value per pod; absent when it could not be read."""


class AgentScalingTargetStatus(Model):
    """What was read and decided last."""

    observed_generation: Serial | None = None
    """Generation of the spec that this status speaks of."""
    current_replicas: Count | None = None
    """Pods that the pool has."""
    desired_replicas: Count | None = None
    """Pods that it should have."""
    last_scale_time: Timestamp | None = None
    """When the number of pods was last changed."""
    signals: Annotated[
        tuple[SignalReading, ...],
        Field(max_length=8, json_schema_extra=list_map("type")),
        AfterValidator(distinct("type")),
    ] = ()
    """The signals as they were read last."""
    conditions: Conditions = ()
    """Ready, MetricsAvailable."""


class AgentScalingTarget(Resource):
    """How many pods a pool has, and when its shards move."""

    resource_kind = Kind(
        name="AgentScalingTarget",
        plural="agentscalingtargets",
        short="ast",
        columns=(
            Column("Pool", ".spec.poolRef.name"),
            Column("Min", ".spec.minReplicas", "integer"),
            Column("Max", ".spec.maxReplicas", "integer"),
            Column("Current", ".status.currentReplicas", "integer"),
            Column("Desired", ".status.desiredReplicas", "integer"),
            condition_column("Ready", ConditionType.READY),
            condition_column("Metrics", ConditionType.METRICS_AVAILABLE),
            AGE,
            condition_column("Reason", ConditionType.READY, "reason", priority=1),
        ),
    )

    kind: Literal["AgentScalingTarget"] = "AgentScalingTarget"
    spec: AgentScalingTargetSpec
    status: AgentScalingTargetStatus = AgentScalingTargetStatus()
