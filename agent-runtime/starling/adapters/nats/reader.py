"""Reads a stream in order through a pull consumer of its own, with room given by the caller.

Neither nats-py's `fetch` (23 us a message) nor its ordered consumer: that one takes whatever comes while nobody
reads, and stays deaf for 18 s after a restart of the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from starling.adapters.nats import wire
from starling.adapters.nats.connection import Connection, Subscribed
from starling.adapters.nats.consumer import HEARTBEAT, Consumer, Made, translated
from starling.adapters.nats.link import Msg
from starling.adapters.nats.requests import ApiError, Requests
from starling.errors import RetryLater, Unreachable
from starling.ports.store import Message

log = logging.getLogger(__name__)

SILENCE: Final = 2.2 * HEARTBEAT
_PAUSE_FIRST: Final = 0.05
_PAUSE_CAP: Final = 2.0
_ABSENT_LOOKS: Final = 3
_TOO_BIG: Final = "Message Size Exceeds MaxBytes"


class NatsReader:
    """See `starling.ports.store.Reader`. One request for messages is open at a time.

    A reader that was opened without a position, and is made anew before all last values have come, asks for the
    last values again and skips those it has.
    """

    def __init__(
        self, connection: Connection, requests: Requests, stream: str, subject: str, after: int | None
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._inbox = connection.new_inbox()
        self._consumer = Consumer(connection, requests, stream, subject, self._inbox)
        self._subscribed: Subscribed | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._accept: Callable[[Message], bool] | None = None
        self._handed_over = False  # something, since `read` was called
        # Where we are
        self._position = -1 if after is None else after
        self._last_values = after is None
        self._buffer: list[Message] = []
        self._buffered_bytes = 0
        self._beyond = 0  # in the stream behind what is in the buffer
        self._owed = 0  # of what was in the stream at the opening, not delivered yet
        # The consumer's side
        self._received = 0  # by this consumer
        self._asked = 0  # number of the request
        self._open = 0  # messages that the open request may still bring
        self._came = False  # something, by the open request
        self._no_byte_limit = False  # for the next request: its first message is over our room
        self._heard_at = 0.0
        self._pause = 0.0

    async def open(self) -> None:
        """Raises UnknownPool when there is no such stream, Unreachable."""
        self._subscribed = await self._connection.subscribe(f"{self._inbox}.*", self._heard)
        self._connection.changed.append(self._wake)
        try:
            made = await self._make()
        except ApiError as error:
            await self.close()
            raise translated(self._stream, error) from error
        except BaseException:
            await self.close()
            raise
        self._owed = made.pending

    async def read(self, messages: int, size_bytes: int) -> Sequence[Message]:
        """See the port. Raises UnknownPool when the stream is gone; waits on while the server is."""
        self._handed_over = False
        while not self._buffer:
            if self._handed_over and not self._open:
                return []
            if not self._consumer.is_good:
                await self._make_anew()
            if not self._open:
                await self._ask(max(1, messages), max(1, size_bytes))
            await self._wait()
        # Ask ahead for the room that is left, but not for crumbs.
        free, free_bytes = messages - len(self._buffer), size_bytes - self._buffered_bytes
        if not self._open and 0 < messages <= 2 * free and 0 < size_bytes <= 2 * free_bytes and self._consumer.is_good:
            await self._ask(free, free_bytes)
        return self._take(messages, size_bytes)

    def hand_over(self, accept: Callable[[Message], bool]) -> None:
        """See the port."""
        self._accept = accept

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
            await self._consumer.delete()
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

    async def _make_anew(self) -> None:
        """Make a consumer at our position, until it works. Raises UnknownPool when the stream is not there."""
        absent = 0
        while True:
            if self._pause:
                await asyncio.sleep(self._pause)
            self._pause = min(_PAUSE_CAP, max(_PAUSE_FIRST, 2 * self._pause))
            try:
                made = await self._make()
            except ApiError as error:
                absent = absent + 1 if error.code == wire.STREAM_NOT_FOUND else 0
                if absent >= _ABSENT_LOOKS:
                    raise translated(self._stream, error) from error
                log.warning("reader not made", extra={"stream": self._stream, "problem": str(error)})
            except RetryLater as error:
                log.debug("reader not made", extra={"stream": self._stream, "problem": str(error)})
            else:
                self._owed = min(self._owed, made.pending + len(self._buffer))
                return

    async def _make(self) -> Made:
        self._received = self._open = 0
        made = await self._consumer.make(None if self._last_values else self._position)
        self._beyond = made.pending
        if self._last_values and not made.pending:
            self._now_all(made.before)
        return made

    def _now_all(self, position: int) -> None:
        """The last values are there, or there are none: from here on every message counts."""
        self._last_values = False
        self._position = max(self._position, position)

    async def _ask(self, messages: int, size_bytes: int) -> None:
        self._asked += 1
        self._came = False
        self._heard_at = self._loop.time()
        self._open = 1 if self._no_byte_limit else messages
        try:
            await self._consumer.ask(self._open, None if self._no_byte_limit else size_bytes, self._asked)
        except Unreachable:
            self._broken("the connection is away")

    async def _wait(self) -> None:
        """Wait until something happens: a message, a status, a new connection, or too long a silence."""
        if self._buffer or not self._open:
            return
        self._waiter = self._loop.create_future()
        late = self._loop.call_at(self._heard_at + SILENCE, self._wake)  # a tenth of what asyncio.timeout costs
        try:
            await self._waiter
        finally:
            late.cancel()
            self._waiter = None
        if self._open and self._loop.time() >= self._heard_at + SILENCE:
            self._broken("silence")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _broken(self, why: str) -> None:
        """The consumer is lost or has a gap: read() makes another at our position."""
        log.info("reader is made anew", extra={"stream": self._stream, "why": why})
        self._consumer.lose()
        self._open = 0
        self._wake()

    def _heard(self, message: Msg) -> None:
        reply = message.reply
        if not reply:
            self._status(message)
            return
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<time>.<pending>; when there are more
        # tokens, domain and account come before the stream.
        tokens = reply.split(".")
        at = 3 if len(tokens) == 9 else 5
        if tokens[at] != self._consumer.name or not self._open:
            return
        self._received += 1
        if int(tokens[at + 3]) != self._received:
            self._broken("a gap")
            return
        self._heard_at = self._loop.time()
        self._pause = 0.0
        self._open -= 1
        self._came = True
        self._no_byte_limit = False
        self._beyond = beyond = int(tokens[at + 5])
        sequence = int(tokens[at + 2])
        if sequence > self._position:
            self._position = sequence
            headers = message.headers
            stored = Message(message.subject, sequence, message.data, headers, int(tokens[at + 4]) / 1e9)
            waiter = self._waiter
            if self._accept is not None and waiter is not None and not waiter.done() and self._accept(stored):
                self._handed_over = True
                self._owed -= 1
            else:
                self._buffer.append(stored)
                self._buffered_bytes += _size(stored)
        if self._owed > 0:
            self._owed = min(self._owed, beyond + len(self._buffer))
        if self._last_values and not beyond:
            self._now_all(sequence)
        if self._buffer or not self._open:
            self._wake()

    def _status(self, message: Msg) -> None:
        if message.subject != f"{self._inbox}.{self._asked}" or not self._open:
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
        for name, value in message.headers.items():
            size_bytes += len(name) + len(value) + 4
    return size_bytes
