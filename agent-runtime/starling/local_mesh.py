"""The client of a mesh in one process: a call that has nothing to wait for runs its turn on the spot."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from starling.client import Mesh
from starling.context import checked_headers
from starling.core import limits
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, PoolName, ShardId, shard_of
from starling.core.priority import Priority
from starling.dispatch import Handler
from starling.engine.activation import Activation
from starling.engine.shard import OwnedShard
from starling.engine.turns import Turns
from starling.local_producer import LocalProducer
from starling.messages import decode, registry
from starling.ports.store import Store
from starling.seconds import checked_seconds

SLICE: Final = 0.004
"""Seconds of calls one after the other that need no waiting, before the loop gets another chance."""

_Here = tuple[Turns, Activation, Handler, str, bytes, Any]
"""What a call needs to run where it is made: its agent and handler, and the message by type name, packed and copied."""


class LocalMesh(Mesh):
    """As `Mesh`, beside the worker of its only pool. running: returns a shard while the worker owns it."""

    def __init__(
        self,
        store: Store,
        mesh: str,
        *,
        name: str,
        chance: random.Random,
        pool: PoolName,
        shards: int,
        running: Callable[[ShardId], OwnedShard | None],
    ) -> None:
        local = LocalProducer(store, mesh, name, chance, pool=pool, running=running)
        super().__init__(store, mesh, name=name, chance=chance, producer=local)
        self._local = local
        self._shards = shards
        self._running = running
        self._round_began = 0.0
        """When the first direct call of this round of the loop came; 0: none did."""

    @property
    def unread(self) -> Collection[AgentId | ShardId]:
        """Agents, and shards of batches, for which something may be in a mailbox that came from here."""
        return self._local.unread

    async def call(
        self,
        target: AgentId,
        message: object,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: Priority = Priority.NORMAL,
        id: str | None = None,  # noqa: A002
    ) -> Any:
        """As `Mesh.call`. Where nothing has to wait, neither agent nor handler, no message is stored for it.

        The turn is the same but for that: it counts as committed when the answer is given.
        """
        if timeout is not None:
            checked_seconds(timeout)
        is_plain = id is None and priority is Priority.NORMAL
        here = self._here(target, message) if is_plain else None
        if here is None:
            return await super().call(target, message, timeout=timeout, headers=headers, priority=priority, id=id)
        turns, activation, handler, type_name, body, copied = here
        now, seconds = self._wall(), limits.CALL_TIMEOUT if timeout is None else timeout
        envelope = Envelope(
            id=self._new_id(now),
            type=type_name,
            body=body,
            target=target,
            reply=self._calls.next_address(),
            created=int(now * 1000),
            deadline=int((now + min(seconds, limits.MAX_CALL_TIMEOUT)) * 1000),
            headers=checked_headers(headers),
        )
        has_ended, result = turns.run_here(activation, envelope, handler, copied)
        if not has_ended:
            route = self._routes.current.target(target)
            answer = self._calls.expect_at(envelope.reply)  # in time: it comes with the commit
            return decode(*await self._calls.answer(route, envelope, answer, seconds))
        if self._is_round_over():
            await asyncio.sleep(0)
        return result

    def _here(self, target: AgentId, message: object) -> _Here | None:
        """Return what runs a call now, past the mailbox and all that it orders; None when something waits."""
        codec = registry.codec_for(message)
        shard_id = shard_of(target.type, target.key, self._shards)
        shard = self._running(shard_id)
        turns = None if shard is None else shard.turns
        activation = None if turns is None else turns.idle(target)
        if turns is None or activation is None or not self._local.nothing_before(target, shard_id):
            return None
        handler = activation.definition.only_call_handler(codec)
        if handler is None or handler.suspends or handler.attempts > 1:
            return None
        body, copied = codec.copied(message)
        return None if len(body) > limits.MAX_BODY else (turns, activation, handler, codec.name, body, copied)

    def _is_round_over(self) -> bool:
        """Whether direct calls have kept the loop from going round for long enough."""
        now = time.perf_counter()
        if not self._round_began:
            self._round_began = now
            asyncio.get_running_loop().call_soon(self._goes_round)
        return now - self._round_began > SLICE

    def _goes_round(self) -> None:
        self._round_began = 0.0
