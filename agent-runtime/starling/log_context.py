"""Which turn a log line belongs to: set once a turn, read only when a line is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from hashlib import blake2b
from typing import Final

from opentelemetry import trace

from starling.core.envelope import Envelope

current: Final[ContextVar[tuple[str, int, Envelope] | None]] = ContextVar("starling.turn", default=None)
"""Pool, shard and message of the turn that runs here."""


def facts() -> Mapping[str, object]:
    """Return pool, shard, agent, message id and trace id of the turn that runs here; empty outside of turns."""
    found = current.get()
    if found is None:
        return {}
    pool, shard, envelope = found
    return {
        "pool": pool,
        "shard": shard,
        "agent": str(envelope.target),
        "message_id": envelope.id,
        "trace_id": trace_id(envelope),
    }


def trace_id(envelope: Envelope) -> str:
    """Return the id that all messages of one request share, 32 hexadecimal digits.

    With tracing it is that of the trace; without, it is made of the first message's id.
    """
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return f"{context.trace_id:032x}"
    return (envelope.trace or id_only(envelope.id)).split("-")[1]


def id_only(message_id: str) -> str:
    """Return a traceparent that names no span: nothing but an id that the messages after this one share."""
    made = blake2b(message_id.encode(), digest_size=16).hexdigest()
    return f"00-{made}-{made[:16]}-00"


def is_id_only(traceparent: str) -> bool:
    """Whether there is no span behind it."""
    return traceparent[3:19] == traceparent[36:52]


class TurnFilter(logging.Filter):
    """Adds the turn's facts to each record that does not have them; on a handler, so that every logger gets them."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in facts().items():
            if name not in record.__dict__:
                setattr(record, name, value)
        return True
