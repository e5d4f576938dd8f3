"""AgentSubscription: which agents hear a topic."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from starling_operator.api.common import Conditions, DeliveryOverride, PoolRef
from starling_operator.api.fields import MAX_TOPIC, TOPIC_PATTERN, AgentType, Serial
from starling_operator.api.model import Model
from starling_operator.api.names import ConditionType
from starling_operator.api.resource import AGE, Column, Kind, Resource, condition_column


class KeyFrom(StrEnum):
    """Where the key of the agent that hears a message comes from."""

    SOURCE = "source"


class KeyRule(Model):
    """Which agent of the type hears a message."""

    origin: Annotated[KeyFrom, Field(alias="from")] = KeyFrom.SOURCE
    """source: the agent whose key is the topic's source."""


class AgentSubscriptionSpec(Model):
    """Messages of one topic type go to agents of one type."""

    topic: Annotated[str, Field(pattern=TOPIC_PATTERN, max_length=MAX_TOPIC)]
    """Topic type, exactly."""
    pool_ref: PoolRef
    """Pool that runs the agent type."""
    agent_type: AgentType
    """Agent type that hears the topic."""
    key: KeyRule = KeyRule()
    """Which agent of the type hears a message."""
    delivery: DeliveryOverride | None = None
    """Delivery policy over the pool's, for messages of this topic."""


class AgentSubscriptionStatus(Model):
    """Whether the subscription is in the route table."""

    observed_generation: Serial | None = None
    """Generation of the spec that this status speaks of."""
    conditions: Conditions = ()
    """Ready: it is in the route table."""


class AgentSubscription(Resource):
    """Which agents hear a topic."""

    resource_kind = Kind(
        name="AgentSubscription",
        plural="agentsubscriptions",
        short="asub",
        columns=(
            Column("Topic", ".spec.topic"),
            Column("Pool", ".spec.poolRef.name"),
            Column("Agent", ".spec.agentType"),
            condition_column("Ready", ConditionType.READY),
            AGE,
            condition_column("Reason", ConditionType.READY, "reason", priority=1),
        ),
    )

    kind: Literal["AgentSubscription"] = "AgentSubscription"
    spec: AgentSubscriptionSpec
    status: AgentSubscriptionStatus = AgentSubscriptionStatus()
