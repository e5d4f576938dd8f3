"""Long-lived, keyed agents as durable actors: the names that agent authors use."""

from starling import errors
from starling.agent import Agent
from starling.client import Mesh, connect
from starling.context import Context
from starling.core.ids import AgentId, TopicId
from starling.handlers import event, query, rpc
from starling.local_runtime import LocalRuntime, local
from starling.messages import message
from starling.migrations import migrate
from starling.named_cells import Cells, OneCell, cell, cells
from starling.topics import Topic

__all__ = [
    "Agent",
    "AgentId",
    "Cells",
    "Context",
    "LocalRuntime",
    "Mesh",
    "OneCell",
    "Topic",
    "TopicId",
    "cell",
    "cells",
    "connect",
    "errors",
    "event",
    "local",
    "message",
    "migrate",
    "query",
    "rpc",
]
