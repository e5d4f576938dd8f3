"""Long-lived, keyed agents as durable actors: the names that agent authors use."""

from starling import errors, testing
from starling.agent import Agent
from starling.client import Mesh, connect
from starling.context import Context
from starling.core.error_record import ErrorRecord
from starling.core.ids import AgentId, TopicId
from starling.core.priority import Priority
from starling.error_hooks import on_error
from starling.handlers import event, query, rpc
from starling.instruments import instruments
from starling.local_runtime import LocalRuntime, local
from starling.messages import message
from starling.migrations import migrate
from starling.named_cells import Cells, OneCell, cell, cells
from starling.offload import offload
from starling.own_codec import register_codec
from starling.retrying import Retrying
from starling.topics import Topic
from starling.tracing import trace_event

__all__ = [
    "Agent",
    "AgentId",
    "Cells",
    "Context",
    "ErrorRecord",
    "LocalRuntime",
    "Mesh",
    "OneCell",
    "Priority",
    "Retrying",
    "Topic",
    "TopicId",
    "cell",
    "cells",
    "connect",
    "errors",
    "event",
    "instruments",
    "local",
    "message",
    "migrate",
    "offload",
    "on_error",
    "query",
    "register_codec",
    "rpc",
    "testing",
    "trace_event",
]
