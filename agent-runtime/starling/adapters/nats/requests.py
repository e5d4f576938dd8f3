"""Requests with an answer: JetStream's JSON API, direct gets of one or many messages."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

from starling.adapters.nats import wire
from starling.adapters.nats.connection import Connection, Subscribed
from starling.adapters.nats.link import Msg
from starling.core import limits
from starling.deadlines import Deadlines
from starling.errors import MeshError, Unreachable


class ApiError(MeshError):
    """JetStream refused an API request; never leaves this package."""

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.status = status
        self.code = code
        self.text = text


class _Waiting(NamedTuple):
    ended: asyncio.Future[Msg]
    batch: list[Msg] | None


class Requests:
    """One inbox for all answers, matched by a token."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.new_inbox() + "."
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines()
        self._number = 0
        self._waiting: dict[str, _Waiting] = {}
        self._subscribed: Subscribed | None = None

    async def open(self) -> None:
        """Start to hear answers. Raises Unreachable."""
        self._subscribed = await self._connection.subscribe(f"{self._inbox}*", self._heard)
        self._connection.changed.append(self._cut_off)

    def close(self) -> None:
        """End every waiter with Unreachable; idempotent."""
        self._cut_off()

    async def one(self, subject: str, data: bytes) -> Msg:
        """Return the first answer, a status message such as "no responders" too. Raises Unreachable."""
        return await self._ask(subject, data, None)

    async def many(self, subject: str, data: bytes) -> tuple[list[Msg], Msg]:
        """Return the messages of a batch, and the status message that ended it. Raises Unreachable."""
        batch: list[Msg] = []
        end = await self._ask(subject, data, batch)
        return batch, end

    async def api(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call JetStream's API. Raises ApiError when it refuses, Unreachable when it does not answer."""
        answer = await self.one(f"$JS.API.{verb}", b"" if body is None else json.dumps(body).encode())
        if wire.status(answer) is not None:
            raise Unreachable(f"JetStream does not answer {verb}")
        try:
            fields: dict[str, Any] = json.loads(answer.data)
        except ValueError as problem:
            raise Unreachable(f"unreadable answer to {verb}: {answer.data[:80]!r}") from problem
        error = fields.get("error")
        if error is not None:
            raise ApiError(error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
        return fields

    async def stream_of(self, subject: str) -> str | None:
        """Return the stream that takes a subject, by JetStream's directory. Raises Unreachable."""
        try:
            streams = (await self.api("STREAM.NAMES", {"subject": subject})).get("streams")
        except ApiError as error:
            raise Unreachable(f"JetStream's directory: {error}") from error
        return str(streams[0]) if streams else None

    async def _ask(self, subject: str, data: bytes, batch: list[Msg] | None) -> Msg:
        self._number += 1
        token = str(self._number)
        waiting = _Waiting(self._loop.create_future(), batch)
        self._waiting[token] = waiting
        ended = waiting.ended
        slot = self._deadlines.watch(ended, limits.STORE_TIMEOUT)
        try:
            await self._connection.send(subject, data, self._inbox + token)
            return await ended
        except TimeoutError:
            raise Unreachable(f"no answer on {subject} within {limits.STORE_TIMEOUT:g} s") from None
        finally:
            slot.pop(ended, None)
            self._waiting.pop(token, None)
            if ended.done() and not ended.cancelled():
                ended.exception()  # it is known, even if sending failed first

    def _heard(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject[len(self._inbox) :])
        if waiting is None or waiting.ended.done():
            return
        if waiting.batch is not None and wire.status(message) is None:
            waiting.batch.append(message)
        else:
            waiting.ended.set_result(message)

    def _cut_off(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.ended.done():
                one.ended.set_exception(Unreachable("the connection to NATS was cut"))
