"""What the three kinds share: model base, references, conditions, delivery policy."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel
from starling.core import limits
from starling.core.retry import Backoff

AGENT_TYPE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"
TOPIC_PATTERN = r"^[A-Za-z0-9_.:=-]+$"
NAME_PATTERN = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"

ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=NAME_PATTERN)]
AgentType = Annotated[str, StringConstraints(max_length=limits.MAX_AGENT_TYPE, pattern=AGENT_TYPE_PATTERN)]
TopicType = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=TOPIC_PATTERN)]
ShortText = Annotated[str, StringConstraints(max_length=1024)]
LongText = Annotated[str, StringConstraints(max_length=32768)]
Word = Annotated[str, StringConstraints(max_length=316)]
Seconds = Annotated[float, Field(ge=0, le=86400)]


class Model(BaseModel):
    """Base of all parts: camelCase outside, unknown fields of newer versions ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )


class PoolRef(Model):
    """The AgentPool in the same namespace."""

    name: ObjectName
    """Name of the AgentPool."""


class Delivery(Model):
    """How often and when a failed message is tried again."""

    attempts: Annotated[int, Field(ge=1, le=1000)] = limits.ATTEMPTS
    """How often a handler runs at most for one message."""
    backoff: Backoff = Backoff.EXPONENTIAL
    """How the pause grows from attempt to attempt."""
    initial_seconds: Seconds = limits.BACKOFF_FIRST
    """The first pause."""
    max_seconds: Seconds = limits.BACKOFF_CAP
    """The longest pause."""
    jitter: bool = True
    """Spread the pauses, so that failures do not come back in step."""


class ConditionStatus(StrEnum):
    """Status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One observation about the object."""

    type: Word
    """What is observed."""
    status: ConditionStatus
    """Whether it is so."""
    reason: Word
    """One CamelCase word."""
    message: LongText = ""
    """For people."""
    last_transition_time: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
    """When the status last changed."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation of the object that this speaks of."""


Conditions = Annotated[
    list[Condition],
    Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


class Metadata(Model):
    """The part of an object's metadata that we read."""

    name: ObjectName
    namespace: ObjectName = "default"
    uid: Word = ""
    generation: int = 0
    resource_version: Word = ""
    deletion_timestamp: Word | None = None
    annotations: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)


Kind = Literal["AgentPool", "AgentSubscription", "AgentScalingTarget"]
Json = dict[str, Any]
