"""The agenda of a shard: hands over what is due, when it is due."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from starling.core import limits
from starling.core.due import Due, DueIndex, DueKind, agent_of, place_of
from starling.core.ids import AgentId
from starling.core.names import Lane
from starling.engine.pieces import unpack_piece
from starling.engine.shard_info import PoolSettings
from starling.engine.table import Table
from starling.engine.turn_starts import fill
from starling.engine.turns import Turns
from starling.engine.work import Outcome, Work
from starling.errors import DecodeError

log = logging.getLogger(__name__)

LOOK: Final = 1.0
"""Longest sleep in seconds: a wall clock that jumps is noticed then."""
AT_ONCE: Final = 256
REPLY_AGAIN: Final = 5.0
SWEEP: Final = 1024
"""A heap of more entries is looked through once half of them are of records that have moved or gone."""


class Agenda:
    """Due records by time. Those that hold their agent up wait in its queue instead, from the take on."""

    def __init__(
        self,
        settings: PoolSettings,
        index: DueIndex,
        turns: Turns,
        table: Table,
        *,
        outbox_bytes: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._index = index
        self._turns = turns
        self._table = table
        self._outbox_bytes = outbox_bytes
        self._heap: list[tuple[int, str]] = []
        self._changed = asyncio.Event()

    def restore(self) -> None:
        """After a take: put every live record where it waits. Before the first message is read."""
        held: dict[AgentId, list[Due]] = {}
        pieces: dict[AgentId, int] = {}
        for due in self._index.live.values():
            if self._is_held(due):
                held.setdefault(agent_of(due), []).append(due)
            else:
                if due.kind is DueKind.PIECE:
                    pieces[agent_of(due)] = pieces.get(agent_of(due), 0) + 1
                elif due.kind is DueKind.REPLY:
                    self._turns.recorded(due.key)
                self._push(due)
        loop, wall = asyncio.get_running_loop().time(), self._settings.wall()
        for agent in {**held, **pieces}:
            works = []
            for due in sorted(held.get(agent, ()), key=place_of):
                work = Work(None, None, None, 0, 0, 0.0, lane=Lane(due.lane), due=due.key, place=place_of(due))
                if due.kind is DueKind.RETRY:
                    work.not_before = loop + max(0.0, due.at / 1000 - wall)
                works.append(work)
            self._turns.restore(agent, works, pieces.get(agent, 0))

    def committed(self, added: Sequence[Due]) -> None:
        """Note the records that a commit has made live."""
        for due in added:
            if due.key == self._turns.counting:
                continue  # it was handed over, and its turn is about to start
            if not self._is_held(due):
                self._push(due)

    def _is_held(self, due: Due) -> bool:
        """Whether it waits in its agent's queue, before later messages, and not here."""
        return due.kind in (DueKind.RETRY, DueKind.PARKED) and self._turns.is_held(agent_of(due).type)

    def _push(self, due: Due) -> None:
        heapq.heappush(self._heap, (due.at, due.key))
        if self._heap[0][1] == due.key:
            self._changed.set()
        live = self._index.live
        if len(self._heap) > max(SWEEP, 2 * len(live)):
            self._heap = [(at, key) for at, key in set(self._heap) if key in live and live[key].at == at]
            heapq.heapify(self._heap)

    async def run(self) -> None:
        """Hand over what is due until cancelled. Raises Unreachable, Fenced."""
        while True:
            self._changed.clear()
            wait = LOOK
            if self._heap:
                wait = min(LOOK, self._heap[0][0] / 1000 - self._settings.wall())
            if wait > 0:
                try:
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                continue
            await self._hand_over()

    async def _hand_over(self) -> None:
        now = self._settings.wall() * 1000
        ripe: list[Due] = []
        while self._heap and self._heap[0][0] <= now and len(ripe) < AT_ONCE:
            at, key = heapq.heappop(self._heap)
            due = self._index.live.get(key)
            if due is not None and due.at == at:
                ripe.append(due)
        replies = [due for due in ripe if due.kind is DueKind.REPLY]
        if replies:
            self._forget(replies)
        rest = [due for due in ripe if due.kind is not DueKind.REPLY]
        if rest:
            cells = await self._table.read([due.key for due in rest])
            for due in rest:
                cell = cells[due.key]
                await self._one(due, cell.data if cell is not None else None)

    async def _one(self, due: Due, data: bytes | None) -> None:
        if due.key not in self._index.live:
            return
        if data is None:
            log.error("the body of a due record is missing", extra={"key": due.key})
            self._turns.add(self._removal([due]))
        elif due.kind is DueKind.PIECE:
            await self._send_piece(due, data)
        else:
            self._start(due, data)

    def _start(self, due: Due, data: bytes) -> None:
        work = Work(None, None, None, 0, 0, 0.0, lane=Lane(due.lane), due=due.key, place=place_of(due))
        if not fill(work, data):
            log.error("the body of a due record cannot be read", extra={"key": due.key})
            self._turns.add(self._removal([due]))
            return
        if due.kind is DueKind.TIMER:
            work.timer = due.name
            if not work.attempt and work.envelope is not None:
                work.envelope = replace(work.envelope, id=f"{work.envelope.id}@{due.at}", not_before=due.at)
        self._turns.offer(work)

    async def _send_piece(self, due: Due, data: bytes) -> None:
        """A part of a large fan-out goes to the outbox once there is room."""
        while self._outbox_bytes() > limits.OUTBOX_PAUSES_OUTSIDE:
            await asyncio.sleep(0.02)
        outcome = self._removal([due])
        try:
            outcome.sends = unpack_piece(data)
        except DecodeError:
            log.exception("part of a fan-out cannot be read", extra={"key": due.key})
        outcome.size_bytes += len(data)
        agent = agent_of(due)
        outcome.after = lambda: self._turns.piece_sent(agent)
        await self._turns.commit(outcome)

    def _forget(self, replies: Sequence[Due]) -> None:
        """Recorded replies go once the store's own time has passed what their callers may wait for."""
        passed = [due for due in replies if self._turns.stream_time * 1000 > due.at]
        if len(passed) < len(replies):
            asyncio.get_running_loop().call_later(REPLY_AGAIN, self._later, [d for d in replies if d not in passed])
        if passed:
            for due in passed:
                self._turns.forget_recorded(due.key)
            outcome = self._removal(passed)
            outcome.lazy = True
            self._turns.add(outcome)

    def _later(self, dues: Sequence[Due]) -> None:
        for due in dues:
            self._push(due)

    @staticmethod
    def _removal(dues: Sequence[Due]) -> Outcome:
        outcome = Outcome()
        outcome.undue = [due.key for due in dues]
        outcome.size_bytes += 64 * len(dues)
        return outcome
