"""A large fan-out in parts: each is stored before the turn is committed, and goes out after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from starling.core import limits
from starling.core.record import Target
from starling.engine.work import Send
from starling.errors import (
    DecodeError,
)


def pieces(sends: Sequence[Send]) -> list[bytes]:
    """Return packed messages in parts of about `limits.PIECE_BYTES`."""
    made: list[bytes] = []
    part: list[Any] = []
    size_bytes = 0
    for target, packed in sends:
        part.append((*target, packed))
        size_bytes += len(packed) + 64
        if size_bytes >= limits.PIECE_BYTES:
            made.append(msgpack.packb(part))
            part, size_bytes = [], 0
    if part:
        made.append(msgpack.packb(part))
    return made


def unpack_piece(data: bytes) -> list[Send]:
    """Return the messages of a part. Raises DecodeError."""
    try:
        return [(Target(*target), packed) for *target, packed in msgpack.unpackb(data)]
    except Exception as error:
        raise DecodeError(f"piece of a fan-out: {error!r}") from error
