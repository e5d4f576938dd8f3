"""The envelope: one message with its headers; and the frame, one or more envelopes to one shard.

On the wire an envelope is a msgpack map with short keys, absent ones are default, unknown ones are kept.
A frame's body is a msgpack array of envelopes; its headers carry the numbers that acceptance looks at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgpack

from starling.core import limits, names
from starling.core.ids import AgentId, TopicId
from starling.core.priority import Priority
from starling.core.reference import Reference
from starling.errors import DecodeError

NORMAL_PRIORITY: Final = 1

_PRIORITIES: Final = len(Priority)
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
"""Shared by all envelopes without headers; a handler sees it, so nobody may write into it."""
_REPLY: Final = re.compile(r"[!-)+-=?-~]{1,255}")  # a subject: printable, without space, * and >
_MOST_DIGITS: Final = 18
_MOST_SHAPES: Final = 1024
KNOWN_AGENTS: Final = 16_384
"""Agents seen lately whose ids are kept, about 230 bytes each."""

pack: Final[Callable[[Any], bytes]] = msgpack.Packer().pack
"""One packer for all: `msgpack.packb` makes one each time, which costs as much as a small envelope."""


@dataclass(slots=True)
class Envelope:
    """One message with its headers. Not to be changed once made. Give its fields by name: only `from_map` does not.

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
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    attempt: int = 0
    chain: tuple[str, ...] = ()
    repeatable: bool = False
    large: Reference | None = None
    unknown: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

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
        return pack(value)

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> Envelope:
        """Read one map of a frame. Raises DecodeError: what comes out of here can be handled and written again."""
        try:
            names = tuple(value)
            shape = _shapes.get(names)
            if shape is None:
                unknown = {name: part for name, part in value.items() if name not in _KEYS}
                if unknown:
                    made = cls.from_map({name: part for name, part in value.items() if name in _KEYS})
                    made.unknown = unknown
                    return made
                shape = _shape_of(names)
            parts = list(value.values())
            if tuple(map(type, parts)) != shape.types:
                raise TypeError(_misfit(value))
            for at, read in shape.read:
                parts[at] = read(parts[at])
            return cls(*shape.fields(parts + _DEFAULTS))
        except Exception as error:
            raise DecodeError(f"envelope: {error!r}") from error


class _Shape(NamedTuple):
    """What all envelopes with these keys in this order have in common."""

    types: tuple[type, ...]
    read: tuple[tuple[int, Callable[[Any], Any]], ...]
    """Which of their values are not taken as they are, and by what."""
    fields: Callable[[list[Any]], tuple[Any, ...]]
    """Makes all fields of an envelope, in order, of these values with the defaults behind them."""


_shapes: dict[tuple[str, ...], _Shape] = {}
"""Nearly all messages have one of a few shapes: 1.3 us for each instead of 5, field by field."""


def _shape_of(names: tuple[str, ...]) -> _Shape:
    for needed in ("i", "t", "b", "a"):
        if needed not in names:
            raise KeyError(needed)
    if len(_shapes) >= _MOST_SHAPES:
        _shapes.clear()
    keys = [_KEYS[name] for name in names]
    given = [key.field for key in keys]
    made = _shapes[names] = _Shape(
        tuple(key.kind for key in keys),
        tuple((at, key.read) for at, key in enumerate(keys) if key.read is not None),
        itemgetter(*(given.index(n) if n in given else len(given) + at for at, n in enumerate(_FIELDS))),
    )
    return made


def _misfit(value: Mapping[str, Any]) -> str:
    return next(
        f"{name!r} is of type {type(part).__name__}, not {_KEYS[name].kind.__name__}"
        for name, part in value.items()
        if type(part) is not _KEYS[name].kind
    )


def _one_line(text: str) -> str:
    """An id, which becomes a header of its dead letter."""
    if "\r" in text or "\n" in text:
        raise ValueError("'i' has more than one line")
    return text


def _priority(number: int) -> int:
    if not 0 <= number < _PRIORITIES:
        raise ValueError(f"'p' is {number}, not one of 0 to {_PRIORITIES - 1}")
    return number


def _reply(subject: str) -> str:
    if subject and not _REPLY.fullmatch(subject):
        raise ValueError("'r' is no subject to reply to")
    return subject


def _headers(found: dict[Any, Any]) -> dict[str, str]:
    if not all(type(text) is str for item in found.items() for text in item):
        raise TypeError("'h' maps something else than text to text")
    return found


def _chain(agents: list[Any]) -> tuple[str, ...]:
    if not all(type(text) is str for text in agents):
        raise TypeError("'ch' holds something else than text")
    return tuple(agents)


def _agent(parts: list[Any]) -> AgentId:
    kind, key = parts
    return _agents.get((kind, key)) or known_agent(kind, key)


_agents: dict[tuple[str, str], AgentId] = {}


def known_agent(kind: str, key: str) -> AgentId:
    """Return the id; the checks are paid for once per agent seen lately. Raises SpecError."""
    try:
        found = _agents.get((kind, key))
    except TypeError:
        return AgentId(kind, key)  # says what is wrong with it
    if found is None:
        if len(_agents) >= KNOWN_AGENTS:
            _agents.clear()
        found = _agents[(kind, key)] = AgentId(kind, key)
    return found


class _Key(NamedTuple):
    """A key on the wire. kind: of its value there.

    read: makes of that what the field holds, and refuses what would fail later, where it stops a whole shard: in a
    commit, a reply's subject, a header. None where any value will do as it is.
    """

    kind: type
    field: str
    read: Callable[[Any], Any] | None = None


_KEYS: Final[Mapping[str, _Key]] = {
    "i": _Key(str, "id", _one_line),
    "t": _Key(str, "type"),
    "b": _Key(bytes, "body"),
    "ct": _Key(str, "content_type"),
    "r": _Key(str, "reply", _reply),
    "tr": _Key(str, "trace"),
    "h": _Key(dict, "headers", _headers),
    "c": _Key(int, "created"),
    "p": _Key(int, "priority", _priority),
    "nb": _Key(int, "not_before"),
    "dl": _Key(int, "deadline"),
    "at": _Key(int, "attempt"),
    "rp": _Key(bool, "repeatable"),
    "a": _Key(list, "target", _agent),
    "s": _Key(list, "sender", _agent),
    "tp": _Key(list, "topic", lambda parts: TopicId(*parts)),
    "ch": _Key(list, "chain", _chain),
    "bb": _Key(list, "large", Reference.parse),
}
_FIELDS: Final = tuple(field.name for field in fields(Envelope))
_SMALLEST: Final = Envelope(id="", type="", body=b"", target=AgentId("nobody", "nobody"))
_DEFAULTS: Final = [getattr(_SMALLEST, name) for name in _FIELDS]


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
