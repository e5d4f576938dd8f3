"""Reads a stream in order through a pull consumer of its own, with room given by the caller.

Neither nats-py's `fetch` (23 us a message) nor its ordered consumer: that one takes whatever comes while nobody
reads, and stays deaf for 18 s after a restart of the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any, Final

from nats.aio.msg import Msg

from starling.adapters.nats import wire
from starling.adapters.nats.connection import Connection, Subscribed
from starling.adapters.nats.requests import ApiError, Requests
from starling.errors import RetryLater, UnknownPool, Unreachable
from starling.ports.store import Message

log = logging.getLogger(__name__)

_NANOSECONDS: Final = 1_000_000_000
INACTIVE: Final = 60
"""Seconds after which the server removes a consumer that nobody asks any more."""
EXPIRES: Final = 30
HEARTBEAT: Final = 3
SILENCE: Final = 2.2 * HEARTBEAT
_PAUSE_FIRST: Final = 0.05
_PAUSE_CAP: Final = 2.0
_ABSENT_LOOKS: Final = 3
_TOO_BIG: Final = "Message Size Exceeds MaxBytes"


class NatsReader:
    """See `starling.ports.store.Reader`. One request for messages is open at a time.

    A reader that was opened without a position and is made anew before it has delivered all last values asks
    for the last values again and skips those it has.
    """

    def __init__(
        self, connection: Connection, requests: Requests, stream: str, subject: str, after: int | None
    ) -> None:
        self._connection = connection
        self._requests = requests
        self._stream = stream
        self._subject = subject
        self._inbox = connection.new_inbox()
        self._position = -1 if after is None else after
        self._last_values = after is None
        self._consumer = ""
        self._made = 0
        self._life = 0
        self._good = False
        self._received = 0
        self._asked = 0
        self._open = 0
        self._came = False
        self._no_byte_limit = False
        self._buffer: list[Message] = []
        self._buffered_bytes = 0
        self._beyond = 0
        self._owed = 0
        self._pause = 0.0
        self._heard_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._subscribed: Subscribed | None = None

    async def open(self) -> None:
        """Raises UnknownPool when there is no such stream, Unreachable."""
        self._subscribed = await self._connection.subscribe(f"{self._inbox}.*", self._heard)
        self._connection.changed.append(self._wake)
        try:
            info = await self._make()
        except ApiError as error:
            await self.close()
            raise _translated(self._stream, error) from error
        except BaseException:
            await self.close()
            raise
        self._owed = info["num_pending"]

    async def read(self, messages: int, size_bytes: int) -> Sequence[Message]:
        """See the port. Raises UnknownPool when the stream is gone; waits on while the server is."""
        while not self._buffer:
            if not self._good or self._life != self._connection.life:
                await self._make_anew()
            if not self._open:
                await self._ask(max(1, messages), size_bytes)
            await self._wait()
        free = messages - len(self._buffer)
        if not self._open and self._good and 0 < messages <= 2 * free and size_bytes > self._buffered_bytes:
            await self._ask(free, size_bytes - self._buffered_bytes)
        return self._take(messages, size_bytes)

    @property
    def pending(self) -> int:
        return self._beyond + len(self._buffer)

    @property
    def caught_up(self) -> bool:
        return self._owed <= 0

    async def close(self) -> None:
        if self._wake in self._connection.changed:
            self._connection.changed.remove(self._wake)
        subscribed, self._subscribed = self._subscribed, None
        if subscribed is not None:
            await self._delete_consumer()
            await subscribed.close()

    def _take(self, messages: int, size_bytes: int) -> list[Message]:
        buffer = self._buffer
        if len(buffer) <= messages and self._buffered_bytes <= size_bytes:
            self._buffer, self._buffered_bytes = [], 0
            self._owed -= len(buffer)
            return buffer
        count = taken_bytes = 0
        for message in buffer:
            if count and (count >= messages or taken_bytes + _size(message) > size_bytes):
                break
            count += 1
            taken_bytes += _size(message)
        taken, self._buffer = buffer[:count], buffer[count:]
        self._buffered_bytes -= taken_bytes
        self._owed -= count
        return taken

    # The consumer

    async def _make_anew(self) -> None:
        """Make a consumer at our position, until it works. Raises UnknownPool when the stream is not there."""
        absent = 0
        while True:
            if self._pause:
                await asyncio.sleep(self._pause)
            self._pause = min(_PAUSE_CAP, max(_PAUSE_FIRST, 2 * self._pause))
            try:
                info = await self._make()
            except ApiError as error:
                absent = absent + 1 if error.code == wire.STREAM_NOT_FOUND else 0
                if absent >= _ABSENT_LOOKS:
                    raise _translated(self._stream, error) from error
                log.warning("reader not made", extra={"stream": self._stream, "problem": str(error)})
            except RetryLater as error:
                log.debug("reader not made", extra={"stream": self._stream, "problem": str(error)})
            else:
                self._owed = min(self._owed, info["num_pending"] + len(self._buffer))
                return

    async def _make(self) -> dict[str, Any]:
        await self._delete_consumer()
        self._made += 1
        name = f"{self._inbox.rpartition('.')[2]}_{self._made}"
        life = self._connection.life
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "filter_subject": self._subject,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE * _NANOSECONDS,
        }
        if self._last_values:
            config["deliver_policy"] = "last_per_subject"
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._position + 1}
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        info = await self._requests.api(f"CONSUMER.CREATE.{self._stream}.{name}", body)
        self._consumer, self._life, self._good = name, life, True
        self._received = self._open = 0
        self._beyond = info["num_pending"]
        if self._last_values and not self._beyond:
            # Nothing of our subjects up to here: the next message is wanted, whatever its subject.
            self._now_all(info["delivered"]["stream_seq"])
        return info

    async def _delete_consumer(self) -> None:
        """Tell the server, if it is there, that the present consumer is of no use any more; nobody waits for it."""
        consumer, self._consumer, self._good = self._consumer, "", False
        if not consumer or self._life != self._connection.life:
            return
        try:
            address = f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}"
            await self._connection.send(address, b"", f"{self._inbox}.deleted")
        except Unreachable:
            log.debug("consumer left to expire", extra={"stream": self._stream})

    def _broken(self, why: str) -> None:
        """The consumer is lost or has a gap: read() makes another at our position."""
        log.info("reader is made anew", extra={"stream": self._stream, "subject": self._subject, "why": why})
        self._good = False
        self._open = 0
        self._wake()

    def _now_all(self, position: int) -> None:
        self._last_values = False
        self._position = max(self._position, position)

    # Messages

    async def _ask(self, messages: int, size_bytes: int) -> None:
        self._asked += 1
        self._came = False
        request = {
            "batch": messages,
            "expires": EXPIRES * _NANOSECONDS,
            "idle_heartbeat": HEARTBEAT * _NANOSECONDS,
        }
        if self._no_byte_limit:
            request["batch"] = 1
        else:
            request["max_bytes"] = max(1, size_bytes)
        address = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        self._heard_at = self._loop.time()
        self._open = request["batch"]
        try:
            await self._connection.send(address, json.dumps(request).encode(), f"{self._inbox}.{self._asked}")
        except Unreachable:
            self._broken("the connection is away")

    async def _wait(self) -> None:
        """Wait until something happens: a message, a status, a new connection, or too long a silence."""
        if self._buffer or not self._open:
            return
        self._waiter = self._loop.create_future()
        try:
            async with asyncio.timeout_at(self._heard_at + SILENCE):
                await self._waiter
        except TimeoutError:
            if self._open and self._loop.time() >= self._heard_at + SILENCE:
                self._broken("silence")
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _heard(self, message: Msg) -> None:
        reply = message.reply
        if not reply:
            self._status(message)
            return
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<time>.<pending>, with domain and
        # account before the stream and perhaps more at the end when it has 11 tokens or more.
        tokens = reply.split(".")
        at = 3 if len(tokens) == 9 else 5
        if tokens[at] != self._consumer or not self._good:
            return
        self._received += 1
        if int(tokens[at + 3]) != self._received:
            self._broken("a gap")
            return
        self._heard_at = self._loop.time()
        self._open -= 1
        self._came = True
        self._no_byte_limit = False
        self._pause = 0.0
        self._beyond = beyond = int(tokens[at + 5])
        sequence = int(tokens[at + 2])
        if sequence > self._position:
            self._position = sequence
            data = message.data
            headers = message.headers
            self._buffer.append(Message(message.subject, sequence, data, headers, int(tokens[at + 4]) / _NANOSECONDS))
            self._buffered_bytes += len(data) + (len(message.subject) if headers is None else _size(self._buffer[-1]))
        if self._owed > 0:
            self._owed = min(self._owed, beyond + len(self._buffer))
        if self._last_values and not beyond:
            self._now_all(sequence)
        if self._waiter is not None or not self._open:
            self._wake()

    def _status(self, message: Msg) -> None:
        if message.subject != f"{self._inbox}.{self._asked}" or not self._open or not self._good:
            return
        self._heard_at = self._loop.time()
        headers = message.headers or {}
        status, text = wire.status(message), headers.get("Description", "")
        if status == "100":
            self._idle(int(headers.get("Nats-Last-Consumer", 0)))
        elif status in ("404", "408") or text == _TOO_BIG:
            self._no_byte_limit = text == _TOO_BIG and not self._came
            self._open = 0
            self._wake()
        else:
            self._broken(f"{status} {text}".rstrip())

    def _idle(self, delivered: int) -> None:
        """The server has nothing for the open request: what it has delivered we must have."""
        if delivered > self._received:
            self._broken("a lost message")
            return
        self._pause = 0.0
        self._beyond = 0
        self._owed = min(self._owed, len(self._buffer))


def _size(message: Message) -> int:
    size_bytes = len(message.data) + len(message.subject)
    if message.headers is not None:
        size_bytes += sum(len(name) + len(value) + 4 for name, value in message.headers.items())
    return size_bytes


def _translated(stream: str, error: ApiError) -> UnknownPool | Unreachable:
    if error.code == wire.STREAM_NOT_FOUND:
        return UnknownPool(f"there is no stream {stream}")
    return Unreachable(f"reader of {stream}: {error}")
