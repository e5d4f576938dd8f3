"""Reads a stream of the store in this process, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING

from starling.adapters.memory.stream import MemoryStream
from starling.adapters.memory.subjects import is_filter, matches
from starling.adapters.memory.weather import Weather
from starling.errors import UnknownPool, Unreachable
from starling.ports.store import Message

if TYPE_CHECKING:
    from starling.adapters.memory.store import MemoryStore


class MemoryReader:
    """See `starling.ports.store.Reader`. Holds references to the messages that it has not delivered yet."""

    def __init__(
        self, store: MemoryStore, stream: MemoryStream, subject: str, after: int | None, weather: Weather | None
    ) -> None:
        self._store = store
        self._stream = stream
        self._contents = stream.contents
        self._subject = subject
        self._is_filter = is_filter(subject)
        self._weather = weather
        self._loop = asyncio.get_running_loop()
        found = self._contents.last_of_each(subject) if after is None else self._contents.after(subject, after)
        self._queue = deque(found)
        self._after = after or 0
        self._end = found[-1].sequence if found else 0
        """Sequence of the last message that was there at the opening and has not been delivered, 0 after that."""
        self._removals = self._contents.removals
        self._waiter: asyncio.Future[None] | None = None
        self._accept: Callable[[Message], bool] | None = None
        self._closed = False
        # With weather, messages up to this sequence have reached us.
        self._reached = 0
        self._due = 0.0
        self._context = copy_context()
        stream.readers.append(self)
        if weather is not None and found:
            self._travel(found[-1].sequence)

    # -- the stream's side

    def offer(self, message: Message) -> None:
        """Take a message that was just stored, if it is one of ours."""
        if message.subject != self._subject and not (self._is_filter and matches(self._subject, message.subject)):
            return
        if message.sequence <= self._after:
            return
        self._queue.append(message)
        if self._weather is not None:
            self._travel(message.sequence)
        elif self._waiter is not None:
            self.wake()

    def _travel(self, sequence: int) -> None:
        assert self._weather is not None
        delay = self._weather.delivery(self._store.name, self._stream.spec.name)
        self._due = max(self._due, self._loop.time() + delay)
        self._loop.call_at(self._due, self._arrived, sequence, context=self._context)

    def _arrived(self, sequence: int) -> None:
        if self._store.connected_since is not None:
            self._reached = max(self._reached, sequence)
            self.wake()

    def mended(self) -> None:
        """The connection is back: what came meanwhile is asked for again."""
        if self._queue:
            self._travel(self._queue[-1].sequence)
        self.wake()

    def wake(self) -> None:
        """Let a waiting read look again, unless all that has come is handed over."""
        if self._waiter is not None and not self._waiter.done() and not self._is_handed_over():
            self._waiter.set_result(None)

    def _is_handed_over(self) -> bool:
        if self._accept is None or self._stream.deleted or self._closed or self._store.is_closed:
            return False
        self._prune()
        while self._has_next:
            if not self._accept(self._queue[0]):
                return False
            self._delivered(self._queue.popleft())
        return True

    # -- the caller's side

    async def read(self, messages: int, size_bytes: int) -> Sequence[Message]:
        """See the port. Raises UnknownPool when the stream is gone, Unreachable when the connection was closed."""
        while True:
            if self._stream.deleted:
                raise UnknownPool(f"there is no stream {self._stream.spec.name}")
            if self._closed or self._store.is_closed:
                raise Unreachable("the reader is closed")
            if batch := self._take(max(1, messages), size_bytes):
                return batch
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def hand_over(self, accept: Callable[[Message], bool]) -> None:
        """See the port."""
        self._accept = accept

    def _take(self, messages: int, size_bytes: int) -> list[Message]:
        self._prune()
        queue = self._queue
        batch: list[Message] = []
        while self._has_next and len(batch) < messages:
            size_bytes -= _size(queue[0])
            if size_bytes < 0 and batch:
                break
            batch.append(queue.popleft())
        if batch:
            self._delivered(batch[-1])
        return batch

    @property
    def _has_next(self) -> bool:
        """Whether a message has reached us."""
        return bool(self._queue) and (self._weather is None or self._queue[0].sequence <= self._reached)

    def _delivered(self, message: Message) -> None:
        if message.sequence >= self._end:
            self._end = 0

    def _prune(self) -> None:
        """Forget messages that were removed from the stream before they were delivered."""
        contents = self._contents
        if self._removals != contents.removals:
            self._removals = contents.removals
            queue = self._queue
            if queue and not all(map(contents.holds, queue)):
                self._queue = deque(filter(contents.holds, queue))

    @property
    def pending(self) -> int:
        self._prune()
        return len(self._queue)

    @property
    def caught_up(self) -> bool:
        if not self._end:
            return True
        self._prune()
        return not self._queue or self._queue[0].sequence > self._end

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stream.readers.remove(self)
            self._store.forget(self)
            self.wake()


def _size(message: Message) -> int:
    size_bytes = len(message.data) + len(message.subject)
    if message.headers is not None:
        for name, value in message.headers.items():
            size_bytes += len(name) + len(value) + 4
    return size_bytes
