"""AgentSubscription: which agents hear a topic."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from starling_operator.api.common import AgentType, Conditions, Delivery, Metadata, Model, PoolRef, TopicType
from starling_operator.api.rules import Rule


class KeyFrom(StrEnum):
    """Where the agent's key comes from."""

    SOURCE = "source"


class Key(Model):
    """The agent's key."""

    from_: Annotated[KeyFrom, Field(alias="from")] = KeyFrom.SOURCE
    """`source`: the source of the topic."""


class SubscriptionSpec(Model):
    """Which agents hear a topic."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    topic: TopicType
    """Topic type, exact."""
    pool_ref: PoolRef
    """The pool that runs the agents."""
    agent_type: AgentType
    """Their type."""
    key: Key = Key()
    """Which agent of that type."""
    delivery: Delivery | None = None
    """Retries, instead of the pool's."""


class SubscriptionStatus(Model):
    """What became of it."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation that the rest speaks of."""
    conditions: Conditions = Field(default_factory=list)
    """Ready."""


class AgentSubscription(Model):
    """Which agents hear a topic."""

    kind: ClassVar[str] = "AgentSubscription"
    metadata: Metadata
    spec: SubscriptionSpec
    status: SubscriptionStatus = SubscriptionStatus()
