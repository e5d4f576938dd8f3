"""Turns that go on past their deadline: a handler that swallows its cancellation holds its agent up, so people hear."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from starling.engine.shard_info import ShardStats
from starling.engine.work import Work

log = logging.getLogger(__name__)

LOOK: Final = 1.0
PATIENCE: Final = 5.0
"""Seconds past its deadline that a handler may take to clean up."""
AGAIN: Final = 60.0
"""Between two lines about one turn."""


class Calling(NamedTuple):
    """The turn of a call that has a task of its own. handler: name of the method."""

    task: asyncio.Task[None]
    work: Work
    handler: str


class Overdue:
    """Looks for such turns of one shard, and says so: once in a minute and turn."""

    def __init__(self, calling: Mapping[str, Calling], stats: ShardStats, wall: Callable[[], float]) -> None:
        self._calling = calling
        self._stats = stats
        self._wall = wall
        self._told: dict[str, float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            if self._calling or self._told:
                self.look()

    def look(self) -> None:
        """Look once. A turn counts when it is found the first time."""
        now = self._wall()
        self._told = {call: at for call, at in self._told.items() if call in self._calling}
        for call, calling in self._calling.items():
            envelope = calling.work.envelope
            if envelope is None or not envelope.deadline:
                continue
            late = now - envelope.deadline / 1000
            if late < PATIENCE or now < self._told.get(call, 0.0):
                continue
            if call not in self._told:
                self._stats.overdue_turns[envelope.target.type] += 1
            self._told[call] = now + AGAIN
            log.warning(
                "handler goes on after its deadline: it has swallowed its cancellation, and holds its agent up",
                extra={
                    "agent": str(envelope.target),
                    "handler": calling.handler,
                    "message_id": envelope.id,
                    "late": round(late, 1),
                },
            )
