"""One subject for all answers to what one connection asks of others."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from starling.adapters.nats.connection import Connection
from starling.adapters.nats.link import Msg
from starling.deadlines import Deadlines
from starling.errors import Unreachable

Answer = TypeVar("Answer")


class Inbox(ABC, Generic[Answer]):
    """Who waits for which answer, by the address that it comes to."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.new_inbox()
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines()
        self._number = 0
        """Of the newest address."""
        self._waiting: dict[str, asyncio.Future[Answer]] = {}

    async def open(self) -> None:
        """Start to hear answers. Raises Unreachable."""
        await self._connection.subscribe(f"{self._inbox}.*", self._heard)
        self._connection.changed.append(self.close)

    def close(self) -> None:
        """End every waiter with Unreachable; idempotent."""
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(Unreachable("the connection to NATS was cut"))

    @abstractmethod
    def _heard(self, message: Msg) -> None:
        """End who waits for what has come, by `_answered`."""

    async def _ask(self, subject: str, data: bytes, reply: str, timeout: float) -> Answer:
        """Return what comes to the address `reply`. Raises Unreachable, also after `timeout` seconds."""
        answered: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[reply] = answered
        slot = self._deadlines.watch(answered, timeout)
        try:
            if not self._connection.hand_over(subject, data, reply):
                await self._connection.send(subject, data, reply)
            return await answered
        except TimeoutError:
            raise Unreachable(f"no answer on {subject} within {timeout:g} s") from None
        finally:
            slot.pop(answered, None)
            del self._waiting[reply]
            if not answered.cancelled() and answered.done():
                answered.exception()  # it is known, even if sending failed first

    def _answered(self, reply: str, answer: Answer) -> None:
        answered = self._waiting.get(reply)
        if answered is not None and not answered.done():  # no repeat, and not after the deadline
            answered.set_result(answer)
