"""Answers that wait for no commit: of queries, and of agents that record nothing."""

from __future__ import annotations

import asyncio
from collections import deque

from starling.errors import Unreachable
from starling.ports.store import Store


class Answers:
    """Sends core messages in the order in which they were put. Lost ones are nobody's loss: the asker has a timeout."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._any = asyncio.Event()

    def put(self, subject: str, body: bytes) -> None:
        """Send soon."""
        self._waiting.append((subject, body))
        self._any.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._any.wait()
            self._any.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what waits."""
        while self._waiting:
            subject, body = self._waiting.popleft()
            try:
                await self._store.signal(subject, body)
            except Unreachable:
                self._waiting.clear()  # by the time of the next connection nobody waits for them
