"""Replies that were sent lately: who waits long asks for its own again, since a cut may have lost it on its way."""

from __future__ import annotations

from collections import deque

from starling.core import limits
from starling.core.replies import MANY, spread
from starling.errors import DecodeError


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

    def find(self, reply_to: str) -> tuple[str, bytes] | None:
        """Return subject and body of the newest message that carries the reply to this address."""
        client, _, token = reply_to.rpartition(".")
        many = f"{client}.{MANY}"
        for subject, body in reversed(self._messages):
            if subject == reply_to or (subject == many and _carries(body, token)):
                return subject, body
        return None


def _size_bytes(body: bytes) -> int:
    return len(body) + 200  # of a small reply, subject and objects are the most


def _carries(body: bytes, token: str) -> bool:
    if token.encode() not in body:
        return False
    try:
        return any(found == token for found, _ in spread(body))
    except DecodeError:
        return False
