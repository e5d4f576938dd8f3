"""Answers that wait for no commit: of queries, and of agents that record nothing."""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any

from starling.errors import Unreachable
from starling.ports.store import Store


class Answers:
    """Sends core messages in the order in which they were put. Lost ones are nobody's loss: the asker has a timeout.

    A message that the connection takes at once, as it nearly always does, needs no task and no turn of the loop.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[Awaitable[None]] = deque()
        self._any = asyncio.Event()

    def put(self, subject: str, body: bytes) -> None:
        """Send at once, or as soon as what was put before is sent."""
        sending = self._store.signal(subject, body)
        if not self._waiting:
            try:
                waits_for = sending.send(None)
            except (StopIteration, Unreachable):
                return
            sending = _go_on(sending, waits_for)
        self._waiting.append(sending)
        self._any.set()

    async def run(self) -> None:
        """Send what has to wait, until cancelled."""
        while True:
            await self._any.wait()
            self._any.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what waits."""
        while self._waiting:
            try:
                await self._waiting[0]
            except Unreachable:
                pass  # by the time of the next connection nobody waits for it
            finally:
                self._waiting.popleft()


@types.coroutine
def _go_on(sending: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Finish a coroutine that was started without a task and has come to wait for something."""
    while True:
        thrown: BaseException | None = None
        try:
            yield waits_for
        except BaseException as error:
            thrown = error
        try:
            waits_for = sending.send(None) if thrown is None else sending.throw(thrown)
        except StopIteration:
            return
