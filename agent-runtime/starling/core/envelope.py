"""The envelope: one message with its headers; and the frame, one or more envelopes to one shard.

On the wire an envelope is a msgpack map with short keys, absent ones are default, unknown ones are kept.
A frame's body is a msgpack array of envelopes; its headers carry the numbers that acceptance looks at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgpack

from starling.core import limits, names
from starling.core.ids import AgentId, TopicId
from starling.core.priority import Priority
from starling.core.reference import Reference
from starling.errors import DecodeError

NORMAL_PRIORITY: Final = 1

_TYPES: Final[Mapping[str, type]] = {
    **dict.fromkeys(("i", "t", "ct", "r", "tr"), str),
    **dict.fromkeys(("c", "p", "nb", "dl", "at"), int),
    **dict.fromkeys(("a", "s", "tp", "ch", "bb"), list),
    "b": bytes,
    "h": dict,
    "rp": bool,
}
_PLAIN: Final[Mapping[str, str]] = {
    "i": "id",
    "t": "type",
    "b": "body",
    "ct": "content_type",
    "r": "reply",
    "tr": "trace",
    "h": "headers",
    "c": "created",
    "p": "priority",
    "nb": "not_before",
    "dl": "deadline",
    "at": "attempt",
    "rp": "repeatable",
}
"""Fields that are on the wire as they are in memory."""
_PRIORITIES: Final = len(Priority)
_NOBODY: Final = AgentId("nobody", "nobody")
_REPLY: Final = re.compile(r"[!-)+-=?-~]{1,255}")  # a subject: printable, without space, * and >
_MOST_DIGITS: Final = 18


@dataclass(slots=True, kw_only=True)
class Envelope:
    """One message with its headers. Not to be changed once made.

    created, not_before and deadline are milliseconds since 1970 (0: none); content_type "" is JSON;
    chain: the agents that wait for the answer of this call, outermost first; repeatable: the call may come again with
    the same id, so that its answer is recorded. large: where the body is that is too large for a message; `body` is
    empty then.
    """

    id: str
    type: str
    body: bytes
    target: AgentId
    content_type: str = ""
    sender: AgentId | None = None
    topic: TopicId | None = None
    reply: str = ""
    trace: str = ""
    created: int = 0
    priority: int = NORMAL_PRIORITY
    not_before: int = 0
    deadline: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 0
    chain: tuple[str, ...] = ()
    repeatable: bool = False
    large: Reference | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Return the msgpack map."""
        target = self.target
        value: dict[str, Any] = {"i": self.id, "t": self.type, "b": self.body, "a": (target.type, target.key)}
        if self.content_type:
            value["ct"] = self.content_type
        if self.sender is not None:
            value["s"] = (self.sender.type, self.sender.key)
        if self.topic is not None:
            value["tp"] = (self.topic.type, self.topic.source)
        if self.reply:
            value["r"] = self.reply
        if self.trace:
            value["tr"] = self.trace
        if self.created:
            value["c"] = self.created
        if self.priority != NORMAL_PRIORITY:
            value["p"] = self.priority
        if self.not_before:
            value["nb"] = self.not_before
        if self.deadline:
            value["dl"] = self.deadline
        if self.headers:
            value["h"] = dict(self.headers)
        if self.attempt:
            value["at"] = self.attempt
        if self.chain:
            value["ch"] = self.chain
        if self.repeatable:
            value["rp"] = True
        if self.large is not None:
            value["bb"] = self.large
        if self.unknown:
            value.update(self.unknown)
        return msgpack.packb(value)  # type: ignore[no-any-return]

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> Envelope:
        """Read one map of a frame. Raises DecodeError: what comes out of here can be handled and written again."""
        try:
            made = cls(id=value["i"], type=value["t"], body=value["b"], target=_NOBODY)
            unknown = None
            for name, part in value.items():  # one pass over what is there: a fourth less than naming every field
                wanted = _TYPES.get(name)
                if wanted is None:
                    unknown = unknown or {}
                    unknown[name] = part
                elif type(part) is not wanted:
                    raise TypeError(f"{name!r} is of type {type(part).__name__}, not {wanted.__name__}")
                elif (plain := _PLAIN.get(name)) is not None:
                    setattr(made, plain, part)
            _check(made)
            made.target = known_agent(*value["a"])
            if "s" in value:
                made.sender = known_agent(*value["s"])
            if "tp" in value:
                made.topic = TopicId(*value["tp"])
            if "ch" in value:
                made.chain = tuple(value["ch"])
                if not all(type(text) is str for text in made.chain):
                    raise TypeError("'ch' holds something else than text")
            if "bb" in value:
                made.large = Reference.parse(value["bb"])
            if unknown is not None:
                made.unknown = unknown
            return made
        except Exception as error:
            raise DecodeError(f"envelope: {error!r}") from error


def _check(made: Envelope) -> None:
    """Refuse what would fail later, where it stops a whole shard: in a commit, a reply's subject, a header."""
    if "\r" in made.id or "\n" in made.id:  # it becomes a header of its dead letter
        raise ValueError("'i' has more than one line")
    if not 0 <= made.priority < _PRIORITIES:
        raise ValueError(f"'p' is {made.priority}, not one of 0 to {_PRIORITIES - 1}")
    if made.reply and not _REPLY.fullmatch(made.reply):
        raise ValueError("'r' is no subject to reply to")
    if made.headers and not all(type(text) is str for item in made.headers.items() for text in item):
        raise TypeError("'h' maps something else than text to text")


_agents: dict[tuple[str, str], AgentId] = {}


def known_agent(kind: str, key: str) -> AgentId:
    """Return the id; the checks are paid for once per agent seen lately."""
    found = _agents.get((kind, key))
    if found is None:
        if len(_agents) >= 65_536:
            _agents.clear()
        found = _agents[(kind, key)] = AgentId(kind, key)
    return found


class FrameHeader(NamedTuple):
    """What acceptance looks at. source: "incarnation.shard" of the sending shard, "" from outside."""

    source: str = ""
    number: int = 0
    previous: int = 0
    version: int = limits.WIRE_VERSION

    def encode(self) -> dict[str, str]:
        return {
            names.VERSION: str(self.version),
            names.SOURCE: self.source,
            names.NUMBER: str(self.number),
            names.PREVIOUS: str(self.previous),
        }

    @classmethod
    def decode(cls, headers: Mapping[str, str] | None) -> FrameHeader:
        """Raises DecodeError."""
        if not headers:
            return cls()
        try:
            return cls(
                headers.get(names.SOURCE, ""),
                _count(headers.get(names.NUMBER, "0")),
                _count(headers.get(names.PREVIOUS, "0")),
                _count(headers.get(names.VERSION, "1")),
            )
        except ValueError as error:
            raise DecodeError(f"frame headers: {error}") from error


def _count(text: str) -> int:
    """Read a number that a record can hold: one that it could not would stop its shard for good."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise ValueError(f"{text[:32]!r} is no number from 0 to {'9' * _MOST_DIGITS}")
    return int(text)


def frame_body(packed: Iterable[bytes]) -> bytes:
    """Join packed envelopes to one frame."""
    parts = list(packed)
    return bytes(_array_header(len(parts)) + b"".join(parts))


def _array_header(length: int) -> bytes:
    return bytes(msgpack.Packer().pack_array_header(length))


def open_frame(body: bytes) -> list[Mapping[str, Any]]:
    """Return the maps of a frame's envelopes. Raises DecodeError."""
    try:
        value = msgpack.unpackb(body)
    except Exception as error:  # msgpack raises ValueErrors, its own errors and plain Exceptions
        raise DecodeError(f"frame: {error!r}") from error
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DecodeError("frame: not an array of maps")
    return value
