"""Room for large bodies: how many of their bytes a process holds at once, over all shards of a pool.

A body takes its room before it is fetched and keeps it until its turn has ended; so does an answer that a turn gets,
and a state until its agent is made. A turn that waits for a call, or for room for an answer, keeps what it has, but
does not hold up the others: what it waits for may itself wait for room, and would wait for ever.
"""

from __future__ import annotations

import asyncio

from starling.core import limits
from starling.core.priority import Ready


class Place:
    """One body's place, in the line before the room or inside; made by `Share.ask`."""

    __slots__ = ("_entered", "_is_wanted", "ready", "share", "size_bytes")

    def __init__(self, share: Share, size_bytes: int) -> None:
        self._is_wanted = True
        self.share = share
        self.size_bytes = size_bytes
        self.ready = -1
        self._entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def waits(self) -> bool:
        """Whether it still waits to be let in."""
        return not self._entered.done()

    def let_in(self) -> bool:
        """Told by the room that there is place for it; return whether its turn goes on by itself now."""
        self._entered.set_result(None)
        return self.share.has_more(self.size_bytes)

    def give_up(self) -> None:
        """It is not wanted any more, whether it is inside or not."""
        if not self._is_wanted:
            return
        self._is_wanted = False
        if self._entered.cancel() or self._entered.cancelled():
            self.share.change(0, -1)
        elif not self.share.has_left:
            self.share.change(-self.size_bytes, 0)

    async def entered(self) -> None:
        """Wait until there is room. Cancelled, it has given up."""
        try:
            await self._entered
        except asyncio.CancelledError:
            self.give_up()
            raise


class Share:
    """The room of one turn, from `Room.share` until `leave`: of its message's body, and of the answers that it gets."""

    __slots__ = ("_line", "_priority", "_room", "_waits", "has_left", "size_bytes")

    def __init__(self, room: Room, priority: int) -> None:
        self._room = room
        self._priority = priority
        self._line: list[Place] = []
        self._waits = 0
        """For how many calls and places its turn waits."""
        self.has_left = False
        self.size_bytes = 0
        """Of its bodies that are inside."""

    @property
    def goes_on(self) -> bool:
        """Whether it has room, and its turn waits for nothing that may wait for room too."""
        return bool(self.size_bytes) and not self._waits

    def ask(self, size_bytes: int) -> Place:
        """Return the place of one body more, which is let in at once if there is room, else later."""
        place = Place(self, size_bytes)
        self._line = [*(other for other in self._line if other.waits), place]
        self.change(0, 1)
        self._room.line_up(place, self._priority)
        return place

    def calls(self, waiting: int) -> None:
        """Its turn waits for a call (+1), or goes on (-1)."""
        self.change(0, waiting)

    def change(self, size_bytes: int, waits: int) -> None:
        """Its bodies are more or fewer, or its turn waits for more or less."""
        before = self.goes_on
        self.size_bytes += size_bytes
        self._waits += waits
        self._room.change(size_bytes, self.goes_on - before)

    def has_more(self, size_bytes: int) -> bool:
        """Told that the room has let in a body of it, which it waited for; return whether its turn goes on now."""
        self.size_bytes += size_bytes
        self._waits -= 1
        return self.goes_on

    def leave(self) -> None:
        """Give the room back; nothing happens a second time."""
        if self.has_left:
            return
        self.has_left = True
        for place in self._line:
            if place.waits:
                place.give_up()
        self.change(-self.size_bytes, 0)


class Room:
    """The bytes that large bodies may take together.

    They come in by priority, in the order in which they asked, and none overtakes: the next one waits until it fits,
    or until no turn with a large body goes on by itself. So one that is larger than all the room gets in alone, and
    where all who have room wait for more, one gets it, and can end.
    """

    def __init__(self, limit_bytes: int = limits.LARGE_BODIES) -> None:
        self._limit = limit_bytes
        self._line: Ready[Place] = Ready()
        self._first: Place | None = None
        self._active = 0
        """Turns inside that go on by themselves."""
        self.held_bytes = 0

    def share(self, priority: int) -> Share:
        """Return a turn's share, empty as yet; priority: 0 to 3, one out of range counts as the nearest."""
        return Share(self, min(max(priority, 0), 3))

    def line_up(self, place: Place, priority: int) -> None:
        """Let the place in when it is its turn."""
        self._line.push(place, priority)
        self._let_in()

    def change(self, size_bytes: int, active: int) -> None:
        """Told by a share of bytes that come or go, and whether its turn goes on by itself (+1) or does not (-1)."""
        self.held_bytes += size_bytes
        self._active += active
        self._let_in()

    def _let_in(self) -> None:
        while (place := self._next()) is not None:
            if self._active and self.held_bytes + place.size_bytes > self._limit:
                return
            self._first = None
            self.held_bytes += place.size_bytes
            self._active += place.let_in()

    def _next(self) -> Place | None:
        """Who is next to get in; those that gave up meanwhile are passed over."""
        while (self._first is None or not self._first.waits) and self._line:
            self._first = self._line.pop()
        return self._first if self._first is not None and self._first.waits else None
