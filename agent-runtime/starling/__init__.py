"""Long-lived, keyed agents as durable actors: the names that agent authors use."""

from starling import errors
from starling.agent import Agent
from starling.client import Mesh, connect
from starling.context import Context
from starling.core.ids import AgentId, TopicId
from starling.handlers import event, rpc
from starling.messages import message
from starling.topics import Topic

__all__ = ["Agent", "AgentId", "Context", "Mesh", "Topic", "TopicId", "connect", "errors", "event", "message", "rpc"]
