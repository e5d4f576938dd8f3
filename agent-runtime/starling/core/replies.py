"""Replies on their way: those of one record, or of one moment, to one client travel in one message.

A client that takes many at once says so in its addresses: behind its subject, their token is `m` and a number. With
1,000 calls in flight a record answers some twenty, with 64 queries a worker some thirty in one turn of its loop, and
each message costs its sender, the server and the client 3 us or more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final

import msgpack

from starling.core import limits
from starling.core.record import ReplyRecord

log = logging.getLogger(__name__)

MANY: Final = "many"
"""Token of the subject on which a client hears many replies at once."""


def address(subject: str, number: int) -> str:
    """Return where a client that takes many replies at once hears one."""
    return f"{subject}.m{number}"


def gathered(replies: Sequence[ReplyRecord]) -> Iterator[tuple[str, bytes]]:
    """Yield subject and body of each message that carries these replies, at most about 256 KiB of many in one."""
    if len(replies) == 1:
        yield replies[0].subject, replies[0].body
        return
    together: dict[str, list[tuple[str, bytes]]] = {}
    for reply in replies:
        subject, _, token = reply.subject.rpartition(".")
        if token[:1] == "m" and token[1:].isdigit():  # not the inbox of some other library that begins like it
            together.setdefault(subject, []).append((token, reply.body))
        else:
            yield reply.subject, reply.body
    for subject, rows in together.items():
        part: list[tuple[str, bytes]] = []
        size_bytes = 0
        for row in rows:
            if part and size_bytes + len(row[1]) > limits.MAX_BODY:
                yield _message(subject, part)
                part, size_bytes = [], 0
            part.append(row)
            size_bytes += len(row[1])
        yield _message(subject, part)


def _message(subject: str, part: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    if len(part) == 1:
        token, body = part[0]
        return f"{subject}.{token}", body
    return f"{subject}.{MANY}", msgpack.packb(part)


def spread(data: bytes) -> list[tuple[str, bytes]]:
    """Return token and body of each reply in a message of many; none, and a warning, where it cannot be read."""
    try:
        return [(str(token), bytes(body)) for token, body in msgpack.unpackb(data)]
    except Exception as error:  # whatever somebody else has sent
        log.warning("replies that came together cannot be read", extra={"error": repr(error)})
        return []
