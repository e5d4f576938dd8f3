"""AgentScalingTarget: how many pods a pool has, and how its shards follow the load."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from starling_operator.api.common import Conditions, LongText, Metadata, Model, PoolRef, ShortText
from starling_operator.api.rules import Rule


class SignalType(StrEnum):
    """What is measured."""

    LAG_PER_POD = "LagPerPod"


class ScalingSignal(Model):
    """One signal and its target."""

    type: SignalType
    """LagPerPod: messages that wait, by pod."""
    target: Annotated[str, StringConstraints(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?$")]
    """Value that a pod should have, a number as text."""


class Behavior(Model):
    """How fast the number of pods may change."""

    stabilization_seconds: Annotated[float, Field(ge=0, le=86400)] = 60.0
    """Scale down only to the highest wish of this time."""
    max_step_up: Annotated[int, Field(ge=1, le=1000)] = 4
    """Pods added at once at most."""
    max_step_down: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods removed at once at most."""


class Rebalance(Model):
    """When shards move from pod to pod because of their load."""

    enabled: bool = True
    """Whether they move at all."""
    interval_seconds: Annotated[float, Field(ge=1, le=86400)] = 30.0
    """Seconds between rounds at least."""
    tolerance: Annotated[float, Field(ge=0.01, le=10)] = 0.2
    """A round only if the most loaded pod is above (1 + tolerance) times the mean."""
    max_moves: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Moves a round; default a tenth of the shards, at least 1, at most 20."""
    settle_seconds: Annotated[float, Field(ge=0, le=86400)] = 60.0
    """Seconds that a moved shard rests."""
    window_seconds: Annotated[float, Field(ge=5, le=86400)] = 60.0
    """Seconds over which load is measured."""


class ScalingSpec(Model):
    """How the pool scales and balances."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.maxReplicas >= self.minReplicas",
            "maxReplicas",
            "must not be smaller than minReplicas",
            lambda new, old: new.max_replicas >= new.min_replicas,
        ),
    )

    pool_ref: PoolRef
    """The pool."""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Pods at least."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Pods at most."""
    signals: Annotated[
        list[ScalingSignal],
        Field(
            max_length=8,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = Field(default_factory=list)
    """The largest wish of all signals counts; none leaves the number of pods alone."""
    behavior: Behavior = Behavior()
    """How fast."""
    rebalance: Rebalance = Rebalance()
    """Moves by load."""
    fallback_replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Pods at least while there are no measurements."""


class ScalingStatus(Model):
    """What was measured and decided."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation that the rest speaks of."""
    current_replicas: Annotated[int, Field(ge=0)] = 0
    """Pods now."""
    desired_replicas: Annotated[int, Field(ge=0)] = 0
    """Pods wanted."""
    last_scale_time: ShortText = ""
    """When the number was last changed."""
    signals: LongText = ""
    """What was measured."""
    conditions: Conditions = Field(default_factory=list)
    """Ready, MetricsAvailable."""


class AgentScalingTarget(Model):
    """How many pods a pool has, and how its shards follow the load."""

    kind: ClassVar[str] = "AgentScalingTarget"
    metadata: Metadata
    spec: ScalingSpec
    status: ScalingStatus = ScalingStatus()
