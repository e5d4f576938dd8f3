"""A pull consumer of one reader: made, asked, deleted through JetStream's API; ephemeral, in memory, without acks."""

from __future__ import annotations

import json
import logging
from typing import Any, Final, NamedTuple

from starling.adapters.nats import wire
from starling.adapters.nats.connection import Connection
from starling.adapters.nats.requests import ApiError, Requests
from starling.errors import UnknownPool, Unreachable

log = logging.getLogger(__name__)

_NANOSECONDS: Final = 1_000_000_000
INACTIVE: Final = 60
"""Seconds after which the server removes a consumer that nobody asks any more."""
EXPIRES: Final = 30
HEARTBEAT: Final = 3


class Made(NamedTuple):
    """What the server says of a new consumer. before: the sequence it starts after."""

    pending: int
    before: int


class Consumer:
    """The present consumer, under a name of its own each time it is made.

    name: "" while there is none. is_good: made on the present connection, and not known to be lost.
    """

    def __init__(self, connection: Connection, requests: Requests, stream: str, subject: str, inbox: str) -> None:
        self._connection = connection
        self._requests = requests
        self._stream = stream
        self._subject = subject
        self._inbox = inbox
        self._life = 0
        self._lost = False
        self._number = 0
        self.name = ""

    @property
    def is_good(self) -> bool:
        return bool(self.name) and not self._lost and self._life == self._connection.life

    def lose(self) -> None:
        """Note that it cannot be read any more."""
        self._lost = True

    async def make(self, after: int | None) -> Made:
        """Make another one in its place, after a sequence; None: last values first. Raises ApiError, Unreachable."""
        await self.delete()
        self._number += 1
        name = f"{self._inbox.rpartition('.')[2]}_{self._number}"
        life = self._connection.life
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "filter_subject": self._subject,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE * _NANOSECONDS,
        }
        if after is None:
            config["deliver_policy"] = "last_per_subject"
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        info = await self._requests.api(f"CONSUMER.CREATE.{self._stream}.{name}", body)
        self.name, self._life, self._lost = name, life, False
        return Made(info["num_pending"], info["delivered"]["stream_seq"])

    async def ask(self, messages: int, size_bytes: int | None, token: int) -> None:
        """Ask for messages; statuses come to the inbox under the token. Raises Unreachable."""
        request = {
            "batch": messages,
            "expires": EXPIRES * _NANOSECONDS,
            "idle_heartbeat": HEARTBEAT * _NANOSECONDS,
        }
        if size_bytes is not None:
            request["max_bytes"] = size_bytes
        address = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self.name}"
        await self._connection.send(address, json.dumps(request).encode(), f"{self._inbox}.{token}")

    async def delete(self) -> None:
        """Tell the server that it is of no use any more; nobody waits for the answer."""
        name, self.name = self.name, ""
        if not name or self._life != self._connection.life:
            return
        try:
            address = f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}"
            await self._connection.send(address, b"", f"{self._inbox}.deleted")
        except Unreachable:
            log.debug("consumer left to expire", extra={"stream": self._stream})


def translated(stream: str, error: ApiError) -> UnknownPool | Unreachable:
    """Return our error for a consumer that was not made."""
    if error.code == wire.STREAM_NOT_FOUND:
        return UnknownPool(f"there is no stream {stream}")
    return Unreachable(f"reader of {stream}: {error}")
