"""Questions to other processes, one inbox for all their answers: many come in one message where they come together."""

from __future__ import annotations

import asyncio

from starling.adapters.nats import wire
from starling.adapters.nats.connection import Connection
from starling.adapters.nats.link import Msg
from starling.core.replies import MANY, address, spread
from starling.deadlines import Deadlines
from starling.errors import Unreachable


class Questions:
    """Questions and answers matched by a token."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.new_inbox()
        self._before_token = len(self._inbox) + 1
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines()
        self._number = 0
        self._waiting: dict[str, asyncio.Future[bytes | None]] = {}

    async def open(self) -> None:
        """Start to hear answers. Raises Unreachable."""
        await self._connection.subscribe(f"{self._inbox}.*", self._heard)
        self._connection.changed.append(self.close)

    def close(self) -> None:
        """End every waiter with Unreachable; idempotent."""
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(Unreachable("the connection to NATS was cut"))

    async def ask(self, subject: str, data: bytes, timeout: float) -> bytes | None:
        """Return the first answer; None when nobody listens. Raises Unreachable, also after `timeout` seconds."""
        self._number += 1
        reply = address(self._inbox, self._number)
        token = reply[self._before_token :]
        answered: asyncio.Future[bytes | None] = self._loop.create_future()
        self._waiting[token] = answered
        slot = self._deadlines.watch(answered, timeout)
        try:
            if not self._connection.ask(subject, data, reply):
                await self._connection.send(subject, data, reply)
            return await answered
        except TimeoutError:
            raise Unreachable(f"no answer on {subject} within {timeout:g} s") from None
        finally:
            slot.pop(answered, None)
            del self._waiting[token]
            if not answered.cancelled() and answered.done():
                answered.exception()  # it is known, even if sending failed first

    def _heard(self, message: Msg) -> None:
        token = message.subject[self._before_token :]
        if token != MANY:
            self._answered(token, None if wire.status(message) == wire.NO_RESPONDERS else message.data)
            return
        for token, data in spread(message.data):
            self._answered(token, data)

    def _answered(self, token: str, data: bytes | None) -> None:
        answered = self._waiting.get(token)
        if answered is not None and not answered.done():
            answered.set_result(data)
