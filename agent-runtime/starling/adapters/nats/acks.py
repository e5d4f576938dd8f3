"""Acknowledged publishes: one inbox for all answers, matched by a token.

nats-py's own acked publish costs a task, a timer and a random token each. Here a publish costs a future and a
dictionary entry; one timer looks after all deadlines, which come in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from starling.adapters.nats import wire
from starling.adapters.nats.connection import Connection, Subscribed
from starling.adapters.nats.link import Msg
from starling.adapters.nats.requests import Requests
from starling.core import limits
from starling.errors import RetryLater, TooLarge
from starling.ports.store import Answer, Expect, Headers, Refused, Unknown

EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
_LOOK_AGAIN: Final = 0.25
_SURE_AFTER: Final = 2


class Acks:
    """Publishes and their answers. Every future ends: with Unknown after the time limit or a cut connection."""

    def __init__(self, connection: Connection, requests: Requests) -> None:
        self._connection = connection
        self._requests = requests
        self._inbox = connection.new_inbox() + "."
        self._cut = len(self._inbox)
        self._number = 0
        self._waiting: dict[str, tuple[asyncio.Future[Answer], float, str]] = {}
        self._loop = asyncio.get_running_loop()
        self._sweeping: asyncio.TimerHandle | None = None
        self._searches: dict[str, asyncio.Task[Answer]] = {}
        self._subscribed: Subscribed | None = None

    async def open(self) -> None:
        """Start to hear answers. Raises Unreachable."""
        self._subscribed = await self._connection.subscribe(f"{self._inbox}*", self._heard)
        self._connection.changed.append(self._cut_off)

    async def close(self) -> None:
        """End every waiter with Unknown; idempotent."""
        self._cut_off()
        if self._sweeping is not None:
            self._sweeping.cancel()
        searches = tuple(self._searches.values())
        for search in searches:
            search.cancel()
        if searches:
            await asyncio.wait(searches)

    async def publish(
        self, subject: str, data: bytes, headers: Headers | None, expect: Expect | None
    ) -> Awaitable[Answer]:
        """See `Store.publish`. A message over the server's own size limit is refused without being sent."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        fields = _fields(headers, expect)
        size_bytes = len(data) if fields is None else len(data) + _header_bytes(fields)
        if size_bytes > self._connection.max_payload:
            answer.set_result(Refused("too-large", f"the server takes {self._connection.max_payload} bytes"))
            return answer
        self._number += 1
        token = str(self._number)
        self._waiting[token] = answer, self._loop.time() + limits.STORE_TIMEOUT, subject
        try:
            await self._connection.send(subject, data, self._inbox + token, fields)
        except TooLarge as error:
            del self._waiting[token]
            answer.set_result(Refused("too-large", str(error)))
        except BaseException:
            self._waiting.pop(token, None)
            raise
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(limits.STORE_TIMEOUT, self._sweep)
        return answer

    def _heard(self, message: Msg) -> None:
        token = message.subject[self._cut :]
        waiting = self._waiting.get(token)
        if waiting is None:
            return
        if not message.data:
            self._nothing_stored(token, waiting[2], message)
            return
        del self._waiting[token]
        if not waiting[0].done():
            waiting[0].set_result(wire.publish_answer(message.data))

    def _nothing_stored(self, token: str, subject: str, message: Msg) -> None:
        """No responders: a stream without a leader, a server that starts, or really no stream: ask which."""
        if wire.status(message) != wire.NO_RESPONDERS:
            self._end(token, Unknown("an empty answer"))
            return
        search = self._searches.get(subject)
        if search is None:
            search = self._loop.create_task(self._search(subject), name=f"is there a stream for {subject}")
            self._searches[subject] = search
            search.add_done_callback(lambda _: self._searches.pop(subject, None))
        search.add_done_callback(
            lambda done: self._end(token, Unknown("closed") if done.cancelled() else done.result())
        )

    async def _search(self, subject: str) -> Answer:
        """Conclude that no stream takes the subject only when JetStream's own directory says so, twice."""
        try:
            for look in range(_SURE_AFTER):
                if look:
                    await asyncio.sleep(_LOOK_AGAIN)
                if await self._requests.stream_of(subject) is not None:
                    return Unknown(f"the stream of {subject} has no leader")
        except RetryLater as error:
            return Unknown(f"nobody listens on {subject}: {error}")
        return Refused("no-stream", f"no stream takes {subject}")

    def _end(self, token: str, answer: Answer) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(answer)

    def _cut_off(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for answer, _, _ in waiting.values():
            if not answer.done():
                answer.set_result(Unknown("the connection was cut"))

    def _sweep(self) -> None:
        """End what is overdue and look again when the next deadline comes; deadlines are in insertion order."""
        self._sweeping = None
        now = self._loop.time()
        overdue = []
        for token, (_, deadline, _) in self._waiting.items():
            if deadline > now:
                self._sweeping = self._loop.call_at(deadline, self._sweep)
                break
            overdue.append(token)
        for token in overdue:
            self._end(token, Unknown(f"no answer within {limits.STORE_TIMEOUT:g} s"))


def _fields(headers: Headers | None, expect: Expect | None) -> dict[str, str] | None:
    if expect is None:
        return dict(headers) if headers else None
    fields = {EXPECTED: str(expect.sequence)}
    if expect.subject:
        fields[EXPECTED_SUBJECT] = expect.subject
    if headers:
        fields.update(headers)
    return fields


def _header_bytes(fields: dict[str, str]) -> int:
    """An upper bound of what the headers take on the wire: the server closes the connection over one byte more."""
    size_bytes = 16
    for name, value in fields.items():
        size_bytes += len(name) + 4 + (len(value) if value.isascii() else 4 * len(value))
    return size_bytes
