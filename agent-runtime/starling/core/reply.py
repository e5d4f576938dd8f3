"""The answer to a call, as it travels back: a msgpack map."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from starling.core.envelope import pack
from starling.core.error_record import ErrorRecord
from starling.core.reference import Reference
from starling.errors import (
    AgentConstructionError,
    CallCancelled,
    CallCycle,
    CallFailed,
    CallTimeout,
    CantHandle,
    DecodeError,
    HandlerFailed,
    MailboxFull,
    MeshError,
    ObjectLost,
    ObjectUnreadable,
    ReadOnly,
    StateUnreadable,
    UnknownAgentType,
    UnregisteredType,
)

AGAIN: Final = frozenset({"Busy", "NotCurrent", "Unreachable"})
"""Errors of a query that the asker takes as "not now": it asks again until its time is up."""

# The errors that keep their own class over the wire; every other one arrives as HandlerFailed.
_BY_KIND: dict[str, type[MeshError]] = {
    cls.__name__: cls
    for cls in (
        AgentConstructionError,
        CallCancelled,
        CallCycle,
        CallTimeout,
        CantHandle,
        DecodeError,
        MailboxFull,
        ObjectLost,
        ObjectUnreadable,
        ReadOnly,
        StateUnreadable,
        UnknownAgentType,
        UnregisteredType,
    )
}


class Reply(NamedTuple):
    """Result or error of a call. call: id of the message it answers, by: "type/key" of who answers.

    error: class name of the error, "" when `body` is the result; body is then the encoded result, of type `type`.
    epoch: of the owner that answered a query, 0 for calls; record: the packed ErrorRecord, b"" without one.
    large: where the body is that is too large for a message; its `share` is 0 when the answer is recorded, and stays.
    """

    call: str
    by: str
    body: bytes = b""
    type: str = ""
    error: str = ""
    text: str = ""
    epoch: int = 0
    record: bytes = b""
    large: Reference | None = None

    def pack(self) -> bytes:
        value: dict[str, Any] = {
            "i": self.call,
            "a": self.by,
            "b": self.body,
            "t": self.type,
            "e": self.error,
            "x": self.text,
        }
        if self.epoch:
            value["ep"] = self.epoch
        if self.record:
            value["er"] = self.record
        if self.large is not None:
            value["bb"] = self.large
        return pack(value)

    @classmethod
    def unpack(cls, data: bytes) -> Reply:
        """Raises DecodeError."""
        try:
            value = msgpack.unpackb(data)
            large = value.get("bb")
            return cls(
                value["i"],
                value["a"],
                value["b"],
                value["t"],
                value["e"],
                value["x"],
                value.get("ep", 0),
                value.get("er", b""),
                None if large is None else Reference.parse(large),
            )
        except Exception as error:
            raise DecodeError(f"reply: {error!r}") from error

    def raise_error(self) -> None:
        """Raise what went wrong at the callee, if anything did."""
        if not self.error:
            return
        known = _BY_KIND.get(self.error)
        error = known(self.text) if known else HandlerFailed(self.error, self.text)
        if self.record:
            error.record = ErrorRecord.unpack(self.record)
            cause = error.record.details.get("cause")
            if isinstance(cause, str):
                kind, _, text = cause.partition(": ")
                raise error from HandlerFailed(kind, text)
        raise error


def error_reply(call: str, by: str, error: BaseException, record: ErrorRecord | None = None) -> Reply:
    """Return the reply that carries `error`, and what was written down about it."""
    packed = record.pack() if record is not None else b""
    if isinstance(error, HandlerFailed):
        return Reply(call, by, error=error.kind, text=error.text, record=packed)
    if isinstance(error, CallFailed) and type(error).__name__ not in _BY_KIND:
        return Reply(call, by, error="CallFailed", text=str(error), record=packed)
    return Reply(call, by, error=type(error).__name__, text=str(error), record=packed)
