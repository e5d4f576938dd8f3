"""Keeps a process at the store's time, so that deadlines, delays and timers mean the same everywhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from starling.core import limits
from starling.core.names import MeshNames, bucket_stream
from starling.core.stream_clock import StreamClock
from starling.errors import MeshError
from starling.ports.store import Store

log = logging.getLogger(__name__)

WORTH_SAYING: Final = 1.0


class StreamTime:
    """The time by which a process compares itself with what others have stored. `known` is set once it was heard."""

    def __init__(self, store: Store, mesh: str, wall: Callable[[], float]) -> None:
        self._store = store
        self._stream = bucket_stream(MeshNames(mesh).routes)
        self._clock = StreamClock(wall, self._ticks)
        self._loop_time: Callable[[], float] | None = None
        self.known = asyncio.Event()
        self.now = self._clock.now

    async def keep(self) -> None:
        """Ask the store again every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(limits.CLOCK_LOOK if self.known.is_set() else limits.FIRST_CLOCK_LOOK)
            await self.look()

    async def look(self) -> None:
        """Ask once; without an answer the clock goes on as it is."""
        asked = self._ticks()
        try:
            info = await self._store.stream_info(self._stream)
        except MeshError as error:
            log.debug("the store's time was not heard", extra={"error": str(error)})
            return
        if info is None:
            return  # the mesh is not provisioned yet
        corrected = self._clock.heard(info.time, asked=asked, answered=self._ticks())
        if abs(corrected) > WORTH_SAYING:
            log.warning("clock of this machine is not the store's", extra={"corrected": round(corrected, 3)})
        self.known.set()

    def _ticks(self) -> float:
        if self._loop_time is None:  # to ask for the running loop is a system call, and this is asked for each message
            self._loop_time = asyncio.get_running_loop().time
        return self._loop_time()
