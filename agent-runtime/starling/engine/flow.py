"""A bounded number of messages on their way to the store."""

from __future__ import annotations

import asyncio
from typing import Any


class Flow:
    """Futures that are under way. timeout: seconds in which at least one of them must end, while somebody waits."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._pending: set[asyncio.Future[Any]] = set()
        self._ended = 0
        self._error: BaseException | None = None
        self._aim = 0
        self._reached = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, future: asyncio.Future[Any]) -> None:
        """Count the future until it ends."""
        self._pending.add(future)
        future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._pending.discard(future)
        self._ended += 1
        if not future.cancelled() and (error := future.exception()) is not None and self._error is None:
            self._error = error
        if self._error is not None or len(self._pending) <= self._aim:
            self._reached.set()

    async def until(self, pending: int) -> None:
        """Wait until at most so many are under way. Raises the first error of a future, TimeoutError."""
        self._aim = pending
        while len(self._pending) > pending and self._error is None:
            ended = self._ended
            self._reached.clear()
            try:
                async with asyncio.timeout(self._timeout):
                    await self._reached.wait()
            except TimeoutError:
                if self._ended == ended:
                    raise TimeoutError(
                        f"none of {len(self._pending)} messages was stored in {self._timeout} s"
                    ) from None
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Give up on what is still under way; whether it is stored nobody says."""
        for future in tuple(self._pending):
            future.cancel()
