"""What JetStream's bytes say: answers to publishes, stored messages, error codes."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

from starling.adapters.nats.link import Msg
from starling.ports.store import Answer, Headers, Message, Refused, Stored, Unknown

STATUS: Final = "Status"
NO_RESPONDERS: Final = "503"
NOT_FOUND: Final = "404"
END_OF_BATCH: Final = "204"

STREAM_NOT_FOUND: Final = 10059
STREAM_NAME_IN_USE: Final = 10058
NO_SUCH_MESSAGE: Final = frozenset({10037, 10043, 10057})
_WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
_STORE_FAILED: Final = 10077
_MESSAGE_TOO_LARGE: Final = 10054

_DIRECT_HEADERS: Final = frozenset(
    {
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Sequence",
        "Nats-Time-Stamp",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
        "Nats-UpTo-Sequence",
    }
)


def status(message: Msg) -> str | None:
    """Return the three digits of a status message, None when it carries data of somebody."""
    headers = message.headers
    if headers is None or message.data or "Nats-Sequence" in headers:
        return None
    return headers.get(STATUS)


def publish_answer(data: bytes) -> Answer:
    """Return what the server's answer to a publish means. Whatever is not listed is Unknown."""
    try:
        ack: dict[str, Any] = json.loads(data)
        sequence = ack["seq"]
    except (ValueError, KeyError, TypeError):
        return Unknown(f"unreadable answer {data[:80]!r}")
    error = ack.get("error")
    if error is None:
        return Stored(sequence, ack.get("duplicate", False)) if sequence else Unknown("an answer without a sequence")
    return _refusal(error.get("err_code", 0), error.get("description", ""))


def _refusal(code: int, text: str) -> Answer:
    if code in _WRONG_LAST_SEQUENCE:
        return Refused("conflict", text)
    if code == _STORE_FAILED and text.startswith("maximum "):
        return Refused("full", text)
    if code == _MESSAGE_TOO_LARGE:
        return Refused("too-large", text)
    return Unknown(f"{text} ({code})")


def direct_message(message: Msg) -> Message:
    """Return the stored message that a direct get brought; its own headers only, None when it had none."""
    headers = message.headers or {}
    return Message(
        headers["Nats-Subject"],
        int(headers["Nats-Sequence"]),
        message.data,
        _own(headers),
        datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp(),
    )


def _own(headers: dict[str, str]) -> Headers | None:
    own = {name: value for name, value in headers.items() if name not in _DIRECT_HEADERS}
    return own or None
