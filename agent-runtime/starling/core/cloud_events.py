"""Envelopes as CloudEvents 1.0 in their JSON form, and back.

An event is what happened: a message to a topic. What belongs to its way through the mesh (reply address, deadline,
attempt, chain of calls) has no place in it and is left out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from starling.core.envelope import NORMAL_PRIORITY, Envelope
from starling.core.ids import AgentId, TopicId
from starling.errors import DecodeError, SpecError

VERSION: Final = "1.0"
PRIORITY: Final = "starlingpriority"
HEADERS: Final = "starlingheaders"
"""Free headers, as a JSON object in text: an attribute of an event has no uppercase letters and no dashes."""


def to_cloud_event(envelope: Envelope) -> dict[str, Any]:
    """Return the event. subject: the topic, as type/source; source: the sender, else "/". Raises SpecError without."""
    if envelope.topic is None:
        raise SpecError("envelope.topic", "is not given; only what was published to a topic is an event")
    event: dict[str, Any] = {
        "specversion": VERSION,
        "id": envelope.id,
        "source": str(envelope.sender) if envelope.sender else "/",
        "type": envelope.type,
        "subject": str(envelope.topic),
        "datacontenttype": envelope.content_type or "application/json",
    }
    if envelope.content_type:
        event["data_base64"] = base64.b64encode(envelope.body).decode()
    else:
        event["data"] = json.loads(envelope.body)
    if envelope.created:
        event["time"] = datetime.fromtimestamp(envelope.created / 1000, UTC).isoformat(timespec="milliseconds")
    if envelope.trace:
        event["traceparent"] = envelope.trace
    if envelope.priority != NORMAL_PRIORITY:
        event[PRIORITY] = int(envelope.priority)
    if envelope.headers:
        event[HEADERS] = json.dumps(dict(envelope.headers), sort_keys=True)
    return event


def from_cloud_event(event: Mapping[str, Any], target: AgentId) -> Envelope:
    """Return the envelope for one agent. Raises DecodeError naming the attribute that is missing or wrong."""
    if event.get("specversion") != VERSION:
        raise DecodeError(f"cloud event: specversion is {event.get('specversion')!r}, not {VERSION!r}")
    for name in ("id", "source", "type", "subject"):
        if not isinstance(event.get(name), str):
            raise DecodeError(f"cloud event: {name} is missing or no text")
    kind, slash, source = event["subject"].partition("/")
    if not slash:
        raise DecodeError(f"cloud event: subject {event['subject']!r} is not of the form topic/source")
    try:
        return Envelope(
            id=event["id"],
            type=event["type"],
            body=_body(event),
            target=target,
            content_type="" if "data" in event else str(event.get("datacontenttype", "")),
            sender=None if event["source"] == "/" else AgentId.parse(event["source"]),
            topic=TopicId(kind, source),
            trace=str(event.get("traceparent", "")),
            created=round(datetime.fromisoformat(event["time"]).timestamp() * 1000) if "time" in event else 0,
            priority=int(event.get(PRIORITY, NORMAL_PRIORITY)),
            headers=json.loads(event.get(HEADERS, "{}")),
        )
    except (ValueError, TypeError, SpecError) as error:
        raise DecodeError(f"cloud event: {error}") from error


def _body(event: Mapping[str, Any]) -> bytes:
    if "data" in event:
        return json.dumps(event["data"], separators=(",", ":"), ensure_ascii=False).encode()
    return base64.b64decode(event.get("data_base64", ""), validate=True)
