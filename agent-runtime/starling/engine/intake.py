"""Intake: reads the mailbox in log order, decides what counts, and offers it to the turns."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import copy_context

from starling.core import limits
from starling.core.envelope import Envelope, FrameHeader, open_frame
from starling.core.ids import ShardId
from starling.core.names import Inlet, Origin
from starling.core.positions import Position, Positions, accepts
from starling.core.record import Done, Source
from starling.engine.faults import Point
from starling.engine.shard_info import PoolSettings, ShardStats
from starling.engine.turns import Turns
from starling.engine.work import Work
from starling.errors import DecodeError
from starling.ports.store import Message, Reader, Store

log = logging.getLogger(__name__)

GAP_ALERT = 30.0


class Intake:
    """One inlet of one shard's mailbox, from its floor on. Acceptance is a function of the log only.

    fresh_after: last position of the mailbox at our take; what comes behind it no earlier owner has seen.
    """

    def __init__(
        self,
        store: Store,
        settings: PoolSettings,
        shard: ShardId,
        inlet: Inlet,
        *,
        positions: Positions,
        seen: dict[Source, int],
        turns: Turns,
        stats: ShardStats,
        unreadable: Callable[[Inlet, Position, int, bytes, DecodeError], None],
        fresh_after: int,
    ) -> None:
        self._store = store
        self._stream = settings.names.mailbox(shard)
        self._subject = settings.names.inlet_subject(shard, inlet)
        self._settings = settings
        self._inlet = inlet
        self.positions = positions
        self._seen = seen
        self._turns = turns
        self._stats = stats
        self._unreadable = unreadable
        self._queued_bytes = 0
        self._room = asyncio.Event()
        self._gap_since: dict[Source, float] = {}
        self.paused = False
        """Set while the shard is too far ahead of its targets or of the table: what is stored waits there."""
        self._reader: Reader | None = None
        self._problem: Exception | None = None
        self._context = copy_context()
        self._stored: deque[tuple[int, float]] = deque()
        """Positions above the floor, and when each was stored."""
        self._fresh_after = fresh_after
        self.read_to = positions.floor
        """Position of the last message that was read."""
        self.stuck_since = 0.0
        """Since when the floor has not moved although much was read above it; 0: it moves."""

    async def run(self) -> None:
        """Read until cancelled."""
        self._reader = await self._store.reader(self._stream, self._subject, after=self.positions.floor)
        self._reader.hand_over(self._accept)
        timer = self._settings.timer
        try:
            while True:
                await self._wait_for_room()
                room = min(self.positions.room, limits.READ_AHEAD_MESSAGES)
                messages = await self._reader.read(room, limits.READ_AHEAD_BYTES - self._queued_bytes)
                if self._problem is not None:
                    raise self._problem
                started = timer()
                for message in messages:
                    self._arrived(message)
                self._stats.busy_seconds += timer() - started
        finally:
            reader, self._reader = self._reader, None
            await reader.close()

    async def _wait_for_room(self) -> None:
        while not self._has_room:
            self._room.clear()
            await self._room.wait()

    @property
    def _has_room(self) -> bool:
        return self.positions.is_open and self._queued_bytes < limits.READ_AHEAD_BYTES and not self.paused

    def _accept(self, message: Message) -> bool:
        """Take a message from the callback of the socket, where there is room: no task is woken for it."""
        if not self._has_room or self._problem is not None:
            return False
        started = self._settings.timer()
        try:
            self._context.run(self._arrived, message)
        except Exception as problem:  # `run` raises it
            self._problem = problem
            return False
        self._stats.busy_seconds += self._settings.timer() - started
        return True

    @property
    def lag(self) -> int:
        """Messages of this inlet that are not finished: in the stream, and read ahead."""
        return (self._reader.pending if self._reader else 0) + self.positions.unfinished

    @property
    def oldest(self) -> float:
        """When the oldest message that is not finished was stored, seconds since 1970; 0 without any."""
        floor = self.positions.floor
        return next((stored for position, stored in self._stored if position > floor), 0.0)

    @property
    def has_read_all(self) -> bool:
        """Whether everything that was stored has been read."""
        return self._reader is not None and not self._reader.pending and self._reader.caught_up

    @property
    def is_idle(self) -> bool:
        """Whether everything that was stored has been read and finished."""
        return self._reader is not None and self._reader.caught_up and self.lag == 0

    def finished(self, work: Work) -> None:
        """Note that a message is part of the commit that is being built."""
        assert work.position is not None
        work.position.finish(work.index)
        self._queued_bytes -= work.size_bytes

    def advance(self) -> int:
        """Move the floor, let the reader go on, and return it."""
        before = self.positions.floor
        floor = self.positions.advance()
        while self._stored and self._stored[0][0] <= floor:
            self._stored.popleft()
        if floor != before or self.positions.unfinished < limits.PARK_FROM:
            self.stuck_since = 0.0
        elif not self.stuck_since:
            self.stuck_since = asyncio.get_running_loop().time()
        if not self.paused:
            self._room.set()
        return floor

    def resume(self) -> None:
        """Read on after a pause."""
        self.paused = False
        self._room.set()

    def _arrived(self, message: Message) -> None:
        self.read_to = message.sequence
        self._stored.append((message.sequence, message.time))
        if self._inlet.origin is Origin.FRAMES:
            source, number, counts = self._judge(message)
            if not counts:
                self.positions.arrive(message.sequence, 0, None, 0)
                return
        else:
            source, number = None, 0
        try:
            version = int((message.headers or {}).get("St-V", 1))
            if version > limits.WIRE_VERSION:
                raise DecodeError(f"frame: wire version {version} is newer than {limits.WIRE_VERSION}")
            maps = open_frame(message.data)
        except (DecodeError, ValueError) as error:
            position, already = self.positions.arrive(message.sequence, 1, source, number)
            if not already:
                self._unreadable(self._inlet, position, 0, message.data, DecodeError(str(error)))
            return
        position, already = self.positions.arrive(message.sequence, len(maps), source, number)
        self._settings.passed(Point.ACCEPTED)
        size_bytes = len(message.data) // max(1, len(maps))
        fresh, lane = message.sequence > self._fresh_after, self._inlet.lane
        for index, value in enumerate(maps):
            if index in already:
                continue
            try:
                envelope = Envelope.from_map(value)
            except DecodeError as error:
                self._unreadable(self._inlet, position, index, message.data, error)
                continue
            self._queued_bytes += size_bytes
            self._turns.offer(
                Work(envelope, self._inlet, position, index, size_bytes, message.time, lane=lane, fresh=fresh)
            )

    def _judge(self, message: Message) -> tuple[Source | None, int, bool]:
        """Whether a frame counts, by its headers only."""
        try:
            header = FrameHeader.decode(message.headers)
        except DecodeError as error:
            log.warning(
                "frame with unreadable headers ignored", extra={"position": message.sequence, "error": str(error)}
            )
            return None, 0, False
        source = Source(header.source, self._inlet.lane)
        if accepts(self._seen, source, header.previous):
            self._seen[source] = header.number
            self._gap_since.pop(source, None)
            return source, header.number, True
        if header.previous > self._seen.get(source, 0):
            self._gap(source, message.time)
        return source, header.number, False

    def _gap(self, source: Source, stored: float) -> None:
        since = self._gap_since.setdefault(source, stored)
        if stored - since > GAP_ALERT:
            self._gap_since[source] = stored
            log.error(
                "frames from a source are missing", extra={"source": source.shard, "seen": self._seen.get(source, 0)}
            )


def positions_of(floor: int, done: Done | None) -> Positions:
    """Return the positions of an inlet as a replay left them."""
    return Positions(floor, done if done is not None else Done())
