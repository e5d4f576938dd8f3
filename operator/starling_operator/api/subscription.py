"""AgentSubscription: which agents hear a topic."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field
from starling.core import limits
from starling.core.subscriptions import Match, is_topic_pattern

from starling_operator.api.common import Conditions, DeliveryOverride, PoolRef
from starling_operator.api.fields import MAX_TOPIC, TOPICS_PATTERN, WORDS_PATTERN, AgentType, Serial
from starling_operator.api.model import Model, Rule
from starling_operator.api.names import ConditionType
from starling_operator.api.resource import AGE, Column, Kind, Resource, condition_column


class KeyFrom(StrEnum):
    """Where the key of the agent that hears a message comes from."""

    SOURCE = "source"
    FIXED = "fixed"


class KeyRule(Model):
    """Which agent of the type hears a message."""

    origin: Annotated[KeyFrom, Field(alias="from")] = KeyFrom.SOURCE
    """source: the agent whose key is the topic's source; fixed: always the agent whose key is `value`."""
    value: Annotated[str, Field(min_length=1, max_length=limits.MAX_KEY_BYTES)] | None = None
    """Key of the agent, with from: fixed."""

    rules = (
        Rule(
            "(self.from == 'fixed') == has(self.value)",
            "must be given with from: fixed, and only then",
            ".value",
            lambda it: (it.origin is KeyFrom.FIXED) == (it.value is not None),
        ),
        Rule(
            f"!has(self.value) || size(bytes(self.value)) <= {limits.MAX_KEY_BYTES}",
            f"must have at most {limits.MAX_KEY_BYTES} bytes",
            ".value",
            lambda it: it.value is None or len(it.value.encode()) <= limits.MAX_KEY_BYTES,
        ),
    )


class AgentSubscriptionSpec(Model):
    """Messages of these topic types go to agents of one type."""

    topic: Annotated[str, Field(pattern=TOPICS_PATTERN, max_length=MAX_TOPIC)]
    """Topic type, or what `match` says."""
    match: Match = Match.EXACT
    """exact: the topic type; prefix: what topic types start with, such as user. (with its dot); pattern: words between
    dots, where * stands for any one word, and > at the end for one or more."""
    pool_ref: PoolRef
    """Pool that runs the agent type."""
    agent_type: AgentType
    """Agent type that hears the topic."""
    key: KeyRule = KeyRule()
    """Which agent of the type hears a message."""
    delivery: DeliveryOverride | None = None
    """Delivery policy over the pool's, for messages of this topic."""

    rules = (
        Rule(
            "self.match == 'pattern' || !self.topic.matches('[*>]')",
            "must hold '*' and '>' with match: pattern only",
            ".topic",
            lambda it: it.match is Match.PATTERN or not set(it.topic) & set("*>"),
        ),
        Rule(
            f"self.match != 'pattern' || self.topic.matches(r'{WORDS_PATTERN}')",
            "must be words between dots, each of them '*' or without '*'; the last may be '>'",
            ".topic",
            lambda it: it.match is not Match.PATTERN or is_topic_pattern(it.topic),
        ),
    )


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
