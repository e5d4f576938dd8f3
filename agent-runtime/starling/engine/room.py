"""Room for large bodies: how many of their bytes a process holds at once, over all shards of a pool.

A body takes its room before it is fetched and keeps it until its turn has ended. A turn that waits for a call keeps its
room too, but does not hold up the others: the agent that it calls may itself wait for room, and would wait for ever.
"""

from __future__ import annotations

import asyncio

from starling.core import limits
from starling.core.priority import Ready


class Share:
    """The room of one body, from `Room.enter` until `leave`."""

    __slots__ = ("_calls", "_entered", "_has_left", "_room", "ready", "size_bytes")

    def __init__(self, room: Room, size_bytes: int) -> None:
        self._room = room
        self.size_bytes = size_bytes
        self.ready = -1
        self._entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls = 0
        self._has_left = False

    @property
    def waits(self) -> bool:
        """Whether it still waits to be let in."""
        return not self._entered.done() and not self._has_left

    def let_in(self) -> None:
        """Told by the room that there is place for it."""
        self._entered.set_result(None)

    async def entered(self) -> None:
        """Wait until there is room. Cancelled, it has left."""
        try:
            await self._entered
        except asyncio.CancelledError:
            self.leave()
            raise

    def calls(self, waiting: int) -> None:
        """Its turn waits for a call (+1), or goes on (-1)."""
        before, self._calls = self._calls, self._calls + waiting
        if bool(before) is not bool(self._calls) and not self._has_left:
            self._room.change(0, -1 if self._calls else 1)

    def leave(self) -> None:
        """Give the room back; nothing happens a second time."""
        if self._has_left:
            return
        self._has_left = True
        was_inside = self._entered.done() and not self._entered.cancelled()
        self._room.change(-self.size_bytes if was_inside else 0, -1 if was_inside and not self._calls else 0)


class Room:
    """The bytes that large bodies may take together.

    They come in by priority, in the order in which they asked, and none overtakes: the next one waits until it fits,
    or until no other turn with a large body goes on by itself. So one that is larger than all the room gets in alone.
    """

    def __init__(self, limit_bytes: int = limits.LARGE_BODIES) -> None:
        self._limit = limit_bytes
        self._waiting: Ready[Share] = Ready()
        self._first: Share | None = None
        self._active = 0
        """Those inside whose turn does not wait for a call."""
        self.held_bytes = 0

    def enter(self, size_bytes: int, priority: int) -> Share:
        """Return a share that is let in at once if there is room, else later; priority: 0 to 3."""
        share = Share(self, size_bytes)
        self._waiting.push(share, priority)
        self._let_in()
        return share

    def change(self, size_bytes: int, active: int) -> None:
        """Told by a share that it leaves, or that its turn waits or goes on."""
        self.held_bytes += size_bytes
        self._active += active
        self._let_in()

    def _let_in(self) -> None:
        while (share := self._next()) is not None:
            if self._active and self.held_bytes + share.size_bytes > self._limit:
                return
            self._first = None
            self.held_bytes += share.size_bytes
            self._active += 1
            share.let_in()

    def _next(self) -> Share | None:
        """Whose turn it is to get in; those that gave up meanwhile are passed over."""
        while (self._first is None or not self._first.waits) and self._waiting:
            self._first = self._waiting.pop()
        return self._first if self._first is not None and self._first.waits else None
