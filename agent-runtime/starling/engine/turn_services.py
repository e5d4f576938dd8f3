"""What a turn needs of its shard: routes, the commit of what it saves, calls to others."""

from __future__ import annotations

import asyncio

from starling.core.envelope import Envelope
from starling.core.ids import AgentId, TopicId
from starling.core.record import Cell
from starling.core.reply import Reply
from starling.core.routes import Target
from starling.engine.calls import MakeRoom
from starling.engine.query_client import QueryClient
from starling.engine.room import Share
from starling.engine.schedule import Schedule
from starling.engine.work import Asked, Outcome, Send


class TurnServices(Schedule):
    """What a turn asks its shard for; see `starling.engine.turn.Shard`."""

    @property
    def queries(self) -> QueryClient:
        """Asks past the log."""
        return self._calls.queries

    def target(self, agent: AgentId) -> Target:
        """Return where an agent's messages go. Raises UnknownAgentType."""
        return self._routes.current.target(agent)

    def targets(self, topic: TopicId) -> list[Target]:
        return list(self._routes.current.targets(topic))

    def add(self, outcome: Outcome) -> None:
        """Let the next commit make something true that is no turn's end."""
        self._finish(outcome)

    async def commit(self, outcome: Outcome) -> None:
        """Wait until a commit has made it true."""
        outcome.future = asyncio.get_running_loop().create_future()
        self._finish(outcome)
        await outcome.future

    async def save(self, key: str, data: bytes | None, sends: tuple[Send, ...]) -> None:
        """Commit a cell, and messages with it, before the turn goes on."""
        outcome = Outcome()
        if data is not None:
            outcome.cell(key, Cell(0, data))
        outcome.sends = sends
        outcome.size_bytes += sum(len(packed) for _, packed in sends)
        await self.commit(outcome)

    async def read_saved(self, key: str) -> bytes | None:
        """Return the cell of a step, a call or an answer that was recorded before; None when there is none."""
        cell = (await self._loader.read([key]))[key]
        return cell.data if cell is not None else None

    def expect_reply(self) -> tuple[str, asyncio.Future[Reply]]:
        return self._calls.expect()

    async def reply(self, target: Target, reply_to: str, answer: asyncio.Future[Reply], seconds: float) -> Reply:
        """Return the reply to a call of a turn. Raises TimeoutError after so many seconds."""
        return await self._calls.reply(target, reply_to, answer, seconds)

    def forget_reply(self, reply_to: str) -> None:
        self._calls.forget(reply_to)

    def give_up_call(self, target: Target, call: str) -> None:
        """Tell the callee that nobody waits any more; it may be too late."""
        self._calls.give_up(target, call)

    def waits(self, waiting: int) -> None:
        self._waiting += waiting
        if waiting > 0:
            self._run_soon()

    async def call_at_once(
        self,
        envelope: Envelope,
        asked: Asked,
        trace: str,
        room: MakeRoom,
    ) -> tuple[str, bytes]:
        """Call without saving the call first: for agents whose turns are not recorded either."""
        return await self._calls.call(
            asked.target,
            asked.type_name,
            asked.body,
            timeout=asked.timeout,
            headers=asked.headers,
            sender=envelope.target,
            chain=(*envelope.chain, str(envelope.target)),
            trace=trace,
            not_after=envelope.deadline / 1000 if envelope.deadline else None,
            room=room,
        )

    def share(self, priority: int) -> Share:
        """Return the share that a turn has in the room for large bodies."""
        return self._settings.room.share(priority)

    def called(self, result: str) -> None:
        self._stats.calls[result] += 1
