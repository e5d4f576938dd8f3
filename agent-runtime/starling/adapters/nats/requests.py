"""Requests with an answer: JetStream's JSON API, direct gets of one or many messages."""

from __future__ import annotations

import json
from typing import Any

from starling.adapters.nats import wire
from starling.adapters.nats.connection import Connection
from starling.adapters.nats.inbox import Inbox
from starling.adapters.nats.link import Msg
from starling.core import limits
from starling.errors import MeshError, Unreachable


class ApiError(MeshError):
    """JetStream refused an API request; never leaves this package."""

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.status = status
        self.code = code
        self.text = text


class Requests(Inbox[Msg]):
    """Requests and the message that ends each."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._batches: dict[str, list[Msg]] = {}
        """By address, where messages come before the one that ends them."""

    async def one(self, subject: str, data: bytes) -> Msg:
        """Return the first answer, a status message such as "no responders" too. Raises Unreachable."""
        return await self._ask(subject, data, self._next(), limits.STORE_TIMEOUT)

    async def many(self, subject: str, data: bytes) -> tuple[list[Msg], Msg]:
        """Return the messages of a batch, and the status message that ended it. Raises Unreachable."""
        reply = self._next()
        batch = self._batches[reply] = []
        try:
            end = await self._ask(subject, data, reply, limits.STORE_TIMEOUT)
        finally:
            del self._batches[reply]
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

    def _next(self) -> str:
        self._number += 1
        return f"{self._inbox}.{self._number}"

    def _heard(self, message: Msg) -> None:
        batch = self._batches.get(message.subject)
        if batch is not None and wire.status(message) is None:
            batch.append(message)
        else:
            self._answered(message.subject, message)
