"""One connection to the store in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Final, TypeVar

from starling.adapters.memory.contents import Contents, header_bytes
from starling.adapters.memory.reader import MemoryReader
from starling.adapters.memory.stream import MemoryStream
from starling.core import limits
from starling.errors import SpecError, Unreachable
from starling.ports.store import (
    Answer,
    BucketSpec,
    Expect,
    Headers,
    LastValues,
    Message,
    Reader,
    Refused,
    Signal,
    StreamInfo,
    StreamSpec,
    Subscription,
    Unknown,
)

if TYPE_CHECKING:
    from starling.adapters.memory.server import Listening, MemoryServer

T = TypeVar("T")

MAX_PAYLOAD: Final = 1 << 20
MAX_SUBJECTS: Final = 1024
_APART: Final = 1e-6
"""Seconds between two arrivals, so that a clock's timers keep their order."""


class MemoryStore:
    """See `starling.ports.store.Store`. Made by `MemoryServer.connect`; `cut` and `mend` are for faults."""

    def __init__(self, server: MemoryServer, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self._server = server
        self._weather = server.weather
        self._loop = loop
        self._since: float | None = loop.time()
        self._closed = False
        self._readers: list[MemoryReader] = []
        self._listening: list[Listening] = []
        self._under_way: dict[asyncio.Future[Answer], asyncio.TimerHandle | None] = {}
        self._requests: dict[asyncio.Future[None], None] = {}
        self._last_arrival = 0.0

    # -- the connection

    @property
    def connected_since(self) -> float | None:
        return self._since

    @property
    def is_closed(self) -> bool:
        return self._closed

    def cut(self) -> None:
        """Lose the connection: what was under way is unknown, readers wait, listeners are deaf, until `mend`."""
        self._since = None
        under_way, self._under_way = self._under_way, {}
        for future in under_way:
            if not future.done():
                future.set_result(Unknown("the connection was cut"))
        for request in self._requests:
            if not request.done():
                request.set_exception(Unreachable("the connection was cut"))
        self._requests.clear()

    def mend(self) -> None:
        """Have a connection again; nothing happens to one that is closed or was never cut."""
        if not self._closed and self._since is None:
            self._since = self._loop.time()
            for reader in self._readers:
                reader.mended()

    async def close(self) -> None:
        self._closed = True
        self.cut()
        for listening in self._listening:
            listening.drop()
        for reader in list(self._readers):
            reader.wake()

    def _check_connected(self) -> None:
        if self._since is None:
            raise Unreachable("the connection is closed" if self._closed else "the connection is away")

    # -- publishing

    async def publish(
        self, subject: str, data: bytes, headers: Headers | None = None, expect: Expect | None = None
    ) -> Awaitable[Answer]:
        if self._since is None:
            self._check_connected()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        kept = dict(headers) if headers else None
        if len(data) + (0 if kept is None else header_bytes(kept)) > MAX_PAYLOAD:
            answer.set_result(Refused("too-large", f"the store takes {MAX_PAYLOAD} bytes"))
        elif self._weather is None:
            answer.set_result(self._server.store(subject, data, kept, expect))
        else:
            self._send(answer, subject, data, kept, expect)
        return answer

    def _send(
        self,
        answer: asyncio.Future[Answer],
        subject: str,
        data: bytes,
        headers: Headers | None,
        expect: Expect | None,
    ) -> None:
        """Let the weather decide when it arrives and when its answer is heard."""
        assert self._weather is not None
        trip = self._weather.publish(self.name, subject)
        since, server = self._since, self._server
        heard_after = None if trip.arrives is None or trip.answers is None else trip.arrives + trip.answers
        overdue = heard_after is None or heard_after > limits.STORE_TIMEOUT
        self._under_way[answer] = (
            self._loop.call_later(limits.STORE_TIMEOUT, self._give_up, answer) if overdue else None
        )
        if trip.arrives is None:
            return

        def arrive() -> None:
            assert self._weather is not None
            if not trip.late and self._since != since:
                late = self._weather.cut(self.name)
                if late is not None:
                    self._loop.call_later(late, server.store, subject, data, headers, expect)
                return
            said = server.store(subject, data, headers, expect)
            if trip.answers is not None:
                self._loop.call_later(trip.answers, self._end, answer, said, context=context)

        context = copy_context()
        at = self._loop.time() + trip.arrives
        if not trip.late:
            at = self._last_arrival = max(self._last_arrival + _APART, at)
        self._loop.call_at(at, arrive, context=server.context)

    def _give_up(self, answer: asyncio.Future[Answer]) -> None:
        self._end(answer, Unknown(f"no answer within {limits.STORE_TIMEOUT:g} s"))

    def _end(self, answer: asyncio.Future[Answer], said: Answer) -> None:
        timer = self._under_way.pop(answer, None)
        if timer is not None:
            timer.cancel()
        if not answer.done():
            answer.set_result(said)

    # -- requests

    async def _request(self, act: Callable[[], T]) -> T:
        """Do something at the store. Raises Unreachable, and what `act` raises."""
        self._check_connected()
        if self._weather is None:
            return act()
        trip = self._weather.request(self.name)
        result: T | None = None
        if trip.arrives is not None:
            await self._pass(trip.arrives)
            result = act()
        if trip.arrives is None or trip.answers is None:
            await self._pass(limits.STORE_TIMEOUT)
            raise Unreachable(f"no answer within {limits.STORE_TIMEOUT:g} s")
        await self._pass(trip.answers)
        return result  # type: ignore[return-value]

    async def _pass(self, seconds: float) -> None:
        """Let time pass. Raises Unreachable when the connection is cut meanwhile."""
        passed: asyncio.Future[None] = self._loop.create_future()
        self._requests[passed] = None
        timer = self._loop.call_later(seconds, _set, passed)
        try:
            await passed
        finally:
            timer.cancel()
            self._requests.pop(passed, None)

    def _view(self, stream: MemoryStream) -> Contents:
        """What the replica that answers has of a stream."""
        if self._weather is None or stream.replicas is None:
            return stream.contents
        chosen = self._weather.replica(self.name, stream.spec.name)
        return stream.contents if chosen is None else stream.replicas.view(*chosen)

    async def last(self, stream: str, subject: str) -> Message | None:
        return await self._request(lambda: self._view(self._server.stream(stream)).last(subject))

    async def last_values(self, stream: str, subjects: Sequence[str]) -> LastValues:
        if len(subjects) > MAX_SUBJECTS:
            raise SpecError("subjects", f"{len(subjects)} in one request, at most {MAX_SUBJECTS}")

        def look() -> LastValues:
            view = self._view(self._server.stream(stream))
            found = {subject: message for subject in subjects if (message := view.last(subject)) is not None}
            return LastValues(found, view.last_sequence if found else None)

        return await self._request(look)

    async def page(self, stream: str, subject: str, first: int) -> Sequence[Message]:
        return await self._request(lambda: self._view(self._server.stream(stream)).page(subject, first))

    async def purge(self, stream: str, subject: str, below: int) -> None:
        await self._request(lambda: self._server.stream(stream).purge(subject, below))

    async def ensure_stream(self, spec: StreamSpec) -> bool:
        return await self._request(lambda: self._server.ensure(spec))

    async def delete_stream(self, name: str) -> None:
        await self._request(lambda: self._server.delete(name))

    async def stream_info(self, name: str) -> StreamInfo | None:
        def look() -> StreamInfo | None:
            stream = self._server.streams.get(name)
            return None if stream is None else stream.info()

        return await self._request(look)

    async def ensure_bucket(self, spec: BucketSpec) -> None:
        await self.ensure_stream(spec.stream())

    async def remove(self, stream: str, sequence: int) -> bool:
        return await self._request(lambda: self._server.stream(stream).take_out(sequence))

    async def reader(self, stream: str, subject: str, after: int | None) -> Reader:
        def open_() -> MemoryReader:
            reader = MemoryReader(self, self._server.stream(stream), subject, after, self._weather)
            self._readers.append(reader)
            return reader

        return await self._request(open_)

    def forget(self, reader: MemoryReader) -> None:
        """Drop a reader that was closed."""
        if reader in self._readers:
            self._readers.remove(reader)

    # -- core messages

    async def signal(self, subject: str, data: bytes = b"", reply: str = "") -> None:
        self._signal(Signal(subject, data, reply))

    def answer(self, subject: str, data: bytes) -> bool:
        self._signal(Signal(subject, data, ""))
        return True

    def _signal(self, signal: Signal) -> None:
        self._check_connected()
        subject = signal.subject
        for listening in self._server.listeners(subject):
            if self._weather is None:
                self._loop.call_soon(listening.hear, signal)
                continue
            delay = self._weather.signal(self.name, subject)
            if delay is not None:
                self._loop.call_later(delay, listening.hear, signal, context=listening.context)

    async def listen(self, subject: str, heard: Callable[[Signal], None]) -> Subscription:
        self._check_connected()
        listening = self._server.listen(self, subject, heard)
        self._listening.append(listening)
        return listening

    async def ask(self, subject: str, data: bytes, timeout: float) -> bytes | None:
        self._check_connected()
        if not self._server.listeners(subject):
            return None
        answered: asyncio.Future[bytes] = self._loop.create_future()
        inbox = self._server.new_inbox()
        listening = self._server.listen(self, inbox, lambda answer: _first(answered, answer.data))
        try:
            await self.signal(subject, data, reply=inbox)
            async with asyncio.timeout(timeout):
                return await answered
        except TimeoutError as error:
            raise Unreachable(f"no answer on {subject} within {timeout:g} s") from error
        finally:
            listening.drop()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _first(future: asyncio.Future[bytes], data: bytes) -> None:
    if not future.done():
        future.set_result(data)
