"""Messages into mailboxes of this process, and which of them the owner of their shard has not read yet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from starling.core.ids import AgentId, PoolName, ShardId
from starling.core.names import Lane
from starling.engine.producer import Accepted, Producer
from starling.engine.shard import OwnedShard
from starling.ports.store import Store
from starling.tracing import Sending

SWEEP: Final = 4096
"""Messages in mind from which on those are looked for that were read long ago."""


class _Sent(NamedTuple):
    future: asyncio.Future[Accepted]
    shard: ShardId
    lane: Lane


class LocalProducer(Producer):
    """A call past the mailbox must not overtake what was put into it before, to the same agent. running: the shards."""

    def __init__(
        self,
        store: Store,
        mesh: str,
        name: str,
        chance: random.Random,
        *,
        pool: PoolName,
        running: Callable[[ShardId], OwnedShard | None],
    ) -> None:
        super().__init__(store, mesh, name, chance)
        self._pool = pool
        self._running = running
        self._unread: dict[AgentId | ShardId, list[_Sent]] = {}
        """What may not be read yet: single messages by agent, frames of several by shard; the oldest first."""
        self._count = 0
        self._sweep_at = SWEEP

    def _queue(
        self,
        key: tuple[PoolName, ShardId, Lane],
        packed: Sequence[bytes],
        message_id: str,
        patient: bool,
        sending: Sending | None = None,
        agent: AgentId | None = None,
    ) -> asyncio.Future[Accepted]:
        future = super()._queue(key, packed, message_id, patient, sending, agent)
        _, shard, lane = key
        self._note(shard if agent is None else agent, _Sent(future, shard, lane))
        return future

    @property
    def unread(self) -> Collection[AgentId | ShardId]:
        """For whom something may not be read yet: agents, and shards of frames."""
        return self._unread.keys()

    def nothing_before(self, agent: AgentId, shard: ShardId) -> bool:
        """Whether the owner of the agent's shard has read all that was put for it."""
        unread = self._unread
        return not unread or (
            (agent not in unread or self._are_read(agent)) and (shard not in unread or self._are_read(shard))
        )

    def _note(self, key: AgentId | ShardId, sent: _Sent) -> None:
        self._unread.setdefault(key, []).append(sent)
        self._count += 1
        if self._count >= self._sweep_at:
            for known in list(self._unread):
                self._are_read(known)
            self._sweep_at = max(SWEEP, 2 * self._count)

    def _are_read(self, key: AgentId | ShardId) -> bool:
        left = self._unread[key]
        read = next((number for number, sent in enumerate(left) if not self._is_read(sent)), len(left))
        del left[:read]
        self._count -= read
        if not left:
            del self._unread[key]
        return not left

    def _is_read(self, sent: _Sent) -> bool:
        shard = self._running(sent.shard)
        if shard is None or not sent.future.done():
            return False
        if sent.future.cancelled() or sent.future.exception() is not None:
            # whoever waited for it has gone, or nobody can say: it is read when all is
            return self.is_clear(self._pool, sent.shard) and shard.has_read_all
        return shard.has_read(sent.lane, sent.future.result().sequence)
