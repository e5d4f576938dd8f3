"""Answers that wait for no commit: of queries, and of agents that record nothing."""

from __future__ import annotations

import asyncio
from collections import deque

from starling.errors import Unreachable
from starling.ports.store import Store


class Answers:
    """Sends core messages in the order in which they were put. Lost ones are nobody's loss: the asker has a timeout.

    A message that the connection takes at once, as it nearly always does, needs no task and no turn of the loop.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._any = asyncio.Event()

    def put(self, subject: str, body: bytes) -> None:
        """Send at once, or as soon as what was put before is sent."""
        if not self._waiting:
            try:
                if self._store.answer(subject, body):
                    return
            except Unreachable:
                return
        self._waiting.append((subject, body))
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
                await self._store.signal(*self._waiting[0])
            except Unreachable:
                pass  # by the time of the next connection nobody waits for it
            finally:
                self._waiting.popleft()
