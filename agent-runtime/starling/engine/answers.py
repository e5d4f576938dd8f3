"""Answers that wait for no commit: of queries, and of agents that record nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable

from starling.engine.at_once import going_on
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
            sending = going_on(sending, waits_for)
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
