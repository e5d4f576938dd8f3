"""References to large objects: what a message, a reply or a cell holds in place of bytes over the inline limit.

Every object has exactly one writer and a name that is never used twice, so that to delete one can never take away what
another holder has put under the same name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from starling.core import limits
from starling.core.ids import PoolName, ShardId
from starling.core.routes import Target
from starling.errors import DecodeError, TooLarge

MARK: Final = b"\xc1st-big\x00"
"""First bytes of a cell that is a reference: no JSON and no msgpack starts like this."""

BODY: Final = "b"
REPLY: Final = "r"
CELL: Final = "c"


class Reference(NamedTuple):
    """Where the bytes are. share: how many messages refer to the object; it goes when all of them are done with."""

    pool: PoolName
    name: str
    size_bytes: int
    digest: bytes
    """SHA-256 of the bytes."""
    share: int = 1

    @classmethod
    def parse(cls, parts: Sequence[Any]) -> Reference:
        """Read what `tuple` wrote. Raises TypeError, ValueError."""
        pool, name, size_bytes, digest, share = parts
        types = (str, str, int, bytes, int)
        if any(type(part) is not wanted for part, wanted in zip(parts, types, strict=True)):
            raise TypeError("a reference to an object has a part of another type")
        return cls(PoolName(pool), name, size_bytes, digest, share)

    def in_cell(self) -> bytes:
        """Return the bytes of a cell whose content is in the object."""
        return MARK + msgpack.packb(tuple(self))  # type: ignore[no-any-return]

    def fits(self, data: bytes) -> bool:
        """Whether these are the bytes that were put."""
        return len(data) == self.size_bytes and hashlib.sha256(data).digest() == self.digest


def refer(pool: PoolName, shard: ShardId, kind: str, token: int, data: bytes, *, share: int = 1) -> Reference:
    """Return the reference to an object that is about to be put. token: random, of 96 bits."""
    return Reference(pool, f"{shard}-{kind}-{token:024x}", len(data), hashlib.sha256(data).digest(), share)


def shared(targets: Sequence[Target], refer_to: Callable[[Target, int], Reference]) -> dict[PoolName, Reference]:
    """Return one reference per pool of the targets of a message, however many of them there are.

    refer_to: makes the reference to an object of the target's pool that so many messages share.
    """
    return {of_pool[0].pool.pool: refer_to(of_pool[0], len(of_pool)) for of_pool in by_pool(targets)}


def by_pool(targets: Sequence[Target]) -> list[list[Target]]:
    """Return the targets of each pool."""
    found: dict[PoolName, list[Target]] = {}
    for target in targets:
        found.setdefault(target.pool.pool, []).append(target)
    return list(found.values())


def check_inline(body: bytes, what: str) -> None:
    """Raise TooLarge for what cannot go to the object store."""
    if len(body) > limits.MAX_BODY:
        raise TooLarge(f"{what} has {len(body)} bytes, at most {limits.MAX_BODY}")


def cell_reference(data: bytes | None) -> Reference | None:
    """Return where a cell's content is, None when the cell holds it itself. Raises DecodeError."""
    if data is None or not data.startswith(MARK):
        return None
    try:
        return Reference.parse(msgpack.unpackb(data[len(MARK) :]))
    except Exception as error:
        raise DecodeError(f"reference to an object: {error!r}") from error
