"""What all kinds share: metadata, conditions, references, delivery policies."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field
from starling.core import limits
from starling.core.retry import Backoff, RetryPolicy
from starling.errors import SpecError

from starling_operator.api.fields import CAMEL_PATTERN, ObjectName, PoolName, Serial, Timestamp, distinct, list_map
from starling_operator.api.model import Model, Rule
from starling_operator.api.names import PAUSE_ANNOTATION, Pause


class Metadata(Model):
    """What we read of an object's metadata. None: the object does not come from an API server."""

    name: ObjectName
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()

    @property
    def pauses(self) -> frozenset[Pause]:
        """What the pause annotation stops. Raises SpecError for a word that it does not know."""
        words = [word.strip() for word in self.annotations.get(PAUSE_ANNOTATION, "").split(",")]
        try:
            return frozenset(Pause(word) for word in words if word)
        except ValueError as error:
            known = ", ".join(Pause)
            raise SpecError(f"metadata.annotations[{PAUSE_ANNOTATION}]", f"{error}; known are {known}") from None


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One aspect of the object's state."""

    type: Annotated[str, Field(pattern=CAMEL_PATTERN, max_length=63)]
    """Which aspect, such as Ready."""
    status: ConditionStatus
    """Whether it holds."""
    reason: Annotated[str, Field(pattern=CAMEL_PATTERN, max_length=128)]
    """Why, in one word for programs."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, in a sentence for people."""
    last_transition_time: Timestamp
    """When the status last changed."""
    observed_generation: Serial | None = None
    """Generation of the object that this was said of."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(max_length=16, json_schema_extra=list_map("type")),
    AfterValidator(distinct("type")),
]


class PoolRef(Model):
    """A pool of the same namespace."""

    name: PoolName
    """Name of the AgentPool."""


Attempts = Annotated[int, Field(ge=1, le=100)]
InitialSeconds = Annotated[float, Field(ge=0, le=3600)]
MaxSeconds = Annotated[float, Field(ge=0, le=86_400)]


class DeliveryPolicy(Model):
    """What happens to a message whose handler failed."""

    attempts: Attempts = limits.ATTEMPTS
    """How often the handler runs at most; after the last failure the message becomes a dead letter."""
    backoff: Backoff = Backoff.EXPONENTIAL
    """How the pause grows from attempt to attempt."""
    initial_seconds: InitialSeconds = limits.BACKOFF_FIRST
    """Pause after the first failure, in seconds."""
    max_seconds: MaxSeconds = limits.BACKOFF_CAP
    """Longest pause, in seconds."""
    jitter: bool = True
    """Whether pauses are spread, so that failed messages do not come back all at once."""

    rules = (
        Rule(
            "self.maxSeconds >= self.initialSeconds",
            "must be at least initialSeconds",
            ".maxSeconds",
            lambda it: it.max_seconds >= it.initial_seconds,
        ),
    )

    def policy(self) -> RetryPolicy:
        """Return the engine's form."""
        return RetryPolicy(self.attempts, self.backoff, self.initial_seconds, self.max_seconds, self.jitter)


class DeliveryOverride(Model):
    """A delivery policy over the pool's; what is not given stays the pool's."""

    attempts: Attempts | None = None
    """How often the handler runs at most."""
    backoff: Backoff | None = None
    """How the pause grows from attempt to attempt."""
    initial_seconds: InitialSeconds | None = None
    """Pause after the first failure, in seconds."""
    max_seconds: MaxSeconds | None = None
    """Longest pause, in seconds; it wins over a longer initialSeconds of the pool."""
    jitter: bool | None = None
    """Whether pauses are spread."""

    rules = (
        Rule(
            "!has(self.maxSeconds) || !has(self.initialSeconds) || self.maxSeconds >= self.initialSeconds",
            "must be at least initialSeconds",
            ".maxSeconds",
            lambda it: it.max_seconds is None or it.initial_seconds is None or it.max_seconds >= it.initial_seconds,
        ),
    )

    def policy_over(self, pool: DeliveryPolicy) -> RetryPolicy:
        """Return the policy that results, field by field."""
        merged = {**pool.model_dump(), **self.model_dump(exclude_none=True)}
        return RetryPolicy(
            merged["attempts"], merged["backoff"], merged["initial_seconds"], merged["max_seconds"], merged["jitter"]
        )
