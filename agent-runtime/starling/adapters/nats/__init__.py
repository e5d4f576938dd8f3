"""The store port over a NATS server."""

from starling.adapters.nats.server import EmbeddedServer
from starling.adapters.nats.store import NatsStore, connect

__all__ = ["EmbeddedServer", "NatsStore", "connect"]
