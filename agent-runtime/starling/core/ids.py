"""Addresses: which agent, which topic, which shard."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NewType

from starling.core import limits
from starling.errors import SpecError

PoolName = NewType("PoolName", str)
PodName = NewType("PodName", str)
ShardId = NewType("ShardId", int)
Epoch = NewType("Epoch", int)

_AGENT_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_TOPIC_TYPE = re.compile(r"[\w.:=-]+")
_MESH = re.compile(r"[A-Za-z0-9-]+")
_PLAIN = re.compile(r"[A-Za-z0-9_-]*")

_CHANCE: Final = (1 << 76) - 1 & ~(3 << 62)
"""Of the last 76 bits of a message id, those that chance decides; the other two say by which rule it was made."""
_VARIANT: Final = 2 << 62


@dataclass(frozen=True, slots=True, order=True)
class AgentId:
    """One agent: its type and its key. The text form is ``type/key``; a key may hold any text."""

    type: str
    key: str

    def __post_init__(self) -> None:
        check_agent_type(self.type)
        check_key(self.key)

    def __hash__(self) -> int:
        return hash(self.key)  # that of both is made of a tuple each time, twice for every message

    def __str__(self) -> str:
        return f"{self.type}/{self.key}"

    @classmethod
    def parse(cls, text: str) -> AgentId:
        """Read ``type/key``. Raises SpecError."""
        kind, slash, key = text.partition("/")
        if not slash:
            raise SpecError("agent", f"{text!r} is not of the form type/key")
        return cls(kind, key)


@dataclass(frozen=True, slots=True, order=True)
class TopicId:
    """One topic: its type, and the source that it is about (any text)."""

    type: str
    source: str

    def __post_init__(self) -> None:
        check_topic_type(self.type)

    def __str__(self) -> str:
        return f"{self.type}/{self.source}"


@lru_cache(maxsize=4096)
def check_agent_type(text: str) -> str:
    """Return the agent type, or raise SpecError."""
    if not isinstance(text, str) or len(text) > limits.MAX_AGENT_TYPE or not _AGENT_TYPE.fullmatch(text):
        raise SpecError(
            "agent type",
            f"{text!r} must start with a letter or '_', go on with letters, digits, '_', '-' and inner dots, "
            f"and have at most {limits.MAX_AGENT_TYPE} characters",
        )
    return text


def check_key(text: str) -> str:
    """Return the key, or raise SpecError."""
    try:
        size_bytes = len(text.encode())
    except (AttributeError, UnicodeEncodeError):
        raise SpecError("agent key", f"{text!r} is no text that UTF-8 can hold; give a str") from None
    if not 0 < size_bytes <= limits.MAX_KEY_BYTES:
        raise SpecError("agent key", f"must have 1 to {limits.MAX_KEY_BYTES} bytes, this one has {size_bytes}")
    return text


@lru_cache(maxsize=4096)
def check_topic_type(text: str) -> str:
    """Return the topic type, or raise SpecError."""
    if not _TOPIC_TYPE.fullmatch(text):
        raise SpecError("topic type", f"{text!r} may hold word characters, '-', '.', ':' and '=' only")
    return text


def check_mesh(text: str) -> str:
    """Return the name of the mesh, or raise SpecError."""
    if not _MESH.fullmatch(text):
        raise SpecError("mesh", f"{text!r} must be made of letters, digits and '-' only, as a namespace's name is")
    return text


def token(text: str) -> str:
    """Return `text` as one subject token; different texts give different tokens.

    Letters, digits, '_' and '-' stay; every other byte of the UTF-8 form becomes ``=XX``.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or byte in b"_-") else f"={byte:02X}"
        for byte in text.encode()
    )


def untoken(text: str) -> str:
    """Return the text that `token` made this from."""
    if "=" not in text:
        return text
    head, *rest = text.split("=")
    return (head.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in rest)).decode()


def message_id(created: int, chance: int) -> str:
    """Return an id as UUID version 7 (RFC 9562): ids sort by when they were made.

    created: milliseconds since 1970; chance: 76 random bits, of which 74 are used.
    """
    rest = "%019x" % (chance & _CHANCE | _VARIANT)
    return f"{_dated(created)}{rest[:3]}-{rest[3:7]}-{rest[7:]}"


@lru_cache(maxsize=64)
def _dated(created: int) -> str:
    """What all ids of one millisecond begin with."""
    return f"{created >> 16 & 0xFFFF_FFFF:08x}-{created & 0xFFFF:04x}-7"


def shard_of(agent_type: str, key: str, shards: int) -> ShardId:
    """Return the agent's shard among `shards`.

    FNV-1a, 32 bit (Fowler, Noll, Vo), over both tokens without a separator: what the NATS server's own
    partition mapping computes over two tokens, so that a server-side mapping finds the same shard.
    """
    return ShardId(_fnv1a32(agent_type, key) % shards)


@lru_cache(maxsize=65_536)
def _fnv1a32(agent_type: str, key: str) -> int:
    value = 2166136261
    for byte in (token(agent_type) + token(key)).encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value
