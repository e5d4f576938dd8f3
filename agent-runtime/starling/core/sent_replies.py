"""Replies that were sent lately: who waits long asks for its own again, since a cut may have lost it on its way."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Final

from starling.core import limits
from starling.core.replies import MANY, spread

FEW: Final = 8
"""So many tokens are looked for in the bytes first."""


class SentReplies:
    """Of one shard, the newest messages that carry replies, up to `limits.SENT_REPLIES` bytes together.

    Messages are kept as they were sent, of one reply or of many: to keep one costs a turn next to nothing.
    """

    def __init__(self) -> None:
        self._messages: deque[tuple[str, bytes]] = deque()
        self._size_bytes = 0

    def keep(self, subject: str, body: bytes) -> None:
        """Keep a message, and forget the oldest for it."""
        self._messages.append((subject, body))
        self._size_bytes += _size_bytes(body)
        while self._size_bytes > limits.SENT_REPLIES:
            self._size_bytes -= _size_bytes(self._messages.popleft()[1])

    def find(self, asked: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield address and body of the newest reply to each of these addresses that is still kept, in one look."""
        tokens: dict[str, set[str]] = {}
        for reply_to in asked:
            client, _, token = reply_to.rpartition(".")
            tokens.setdefault(client, set()).add(token)
        for subject, body in reversed(self._messages):
            client, _, token = subject.rpartition(".")
            wanted = tokens.get(client)
            if not wanted:
                continue
            for found, reply in _rows(body, wanted) if token == MANY else ((token, body),):
                if found in wanted:
                    wanted.discard(found)
                    yield f"{client}.{found}", reply


def _size_bytes(body: bytes) -> int:
    return len(body) + 200  # of a small reply, subject and objects are the most


def _rows(body: bytes, wanted: Collection[str]) -> list[tuple[str, bytes]]:
    """Replies in a message of many, where some of the wanted may be among them."""
    if len(wanted) <= FEW and not any(token.encode() in body for token in wanted):
        return []  # a twentieth of what it costs to read them
    return spread(body)
