"""The three kinds of the API group."""

from starling_operator.api.parse import Resource, parse
from starling_operator.api.pool import AgentPool
from starling_operator.api.scaling import AgentScalingTarget
from starling_operator.api.subscription import AgentSubscription

__all__ = ["AgentPool", "AgentScalingTarget", "AgentSubscription", "Resource", "parse"]
