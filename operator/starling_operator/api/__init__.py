"""The three kinds of the control plane, as frozen models, and their parser."""

from __future__ import annotations

from starling_operator.api.common import (
    Condition,
    ConditionStatus,
    DeliveryOverride,
    DeliveryPolicy,
    Metadata,
    PoolRef,
)
from starling_operator.api.names import API_VERSION, FINALIZER, GROUP, VERSION, ConditionType, Pause
from starling_operator.api.parse import KINDS, AnyResource, check_change, parse, parse_as
from starling_operator.api.pool import (
    AgentPool,
    AgentPoolSpec,
    AgentPoolStatus,
    AgentSpec,
    Code,
    DeletionPolicy,
    Durability,
    LastMove,
    Passivation,
    Storage,
    Streams,
)
from starling_operator.api.resource import Resource
from starling_operator.api.scaling import (
    AgentScalingTarget,
    AgentScalingTargetSpec,
    AgentScalingTargetStatus,
    Behavior,
    Rebalance,
    Signal,
    SignalReading,
    SignalType,
)
from starling_operator.api.subscription import (
    AgentSubscription,
    AgentSubscriptionSpec,
    AgentSubscriptionStatus,
    KeyFrom,
    KeyRule,
)

__all__ = [
    "API_VERSION",
    "FINALIZER",
    "GROUP",
    "KINDS",
    "VERSION",
    "AgentPool",
    "AgentPoolSpec",
    "AgentPoolStatus",
    "AgentScalingTarget",
    "AgentScalingTargetSpec",
    "AgentScalingTargetStatus",
    "AgentSpec",
    "AgentSubscription",
    "AgentSubscriptionSpec",
    "AgentSubscriptionStatus",
    "AnyResource",
    "Behavior",
    "Code",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "DeletionPolicy",
    "DeliveryOverride",
    "DeliveryPolicy",
    "Durability",
    "KeyFrom",
    "KeyRule",
    "LastMove",
    "Metadata",
    "Passivation",
    "Pause",
    "PoolRef",
    "Rebalance",
    "Resource",
    "Signal",
    "SignalReading",
    "SignalType",
    "Storage",
    "Streams",
    "check_change",
    "parse",
    "parse_as",
]
