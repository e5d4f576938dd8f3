"""Queries as their askers see them: one core message to the shard's owner, and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from starling.core import limits
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, PoolName, ShardId
from starling.core.names import MeshNames
from starling.core.reference import check_inline
from starling.core.reply import AGAIN, Reply
from starling.engine.routes_view import RoutesView
from starling.errors import CallTimeout, Unreachable
from starling.ports.store import Store

_PAUSE: Final = 0.02
_PAUSE_CAP: Final = 0.5
_TICK: Final = 0.02
"""A timer may fire this much early, by the clock's resolution."""


class _Shard:
    """A shard that was asked. epoch: the largest that has answered; an owner with a smaller one has been replaced."""

    __slots__ = ("epoch", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.epoch = 0


class QueryClient:
    """Asks the owners of shards, for a whole process."""

    def __init__(self, store: Store, mesh: str, routes: RoutesView, *, wall: Callable[[], float]) -> None:
        self._store = store
        self._names = MeshNames(mesh)
        self._routes = routes
        self._wall = wall
        self._next = 0
        self._shards: dict[tuple[PoolName, str, ShardId], _Shard] = {}
        self._clock: Callable[[], float] | None = None

    async def query(
        self,
        target: AgentId,
        type_name: str,
        body: bytes,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str],
        sender: AgentId | None = None,
        trace: str = "",
        not_after: float | None = None,
    ) -> tuple[str, bytes]:
        """Return type name and body of the answer, which says what was committed lately.

        timeout: seconds, default 5; not_after: the asker's own deadline, seconds since 1970. While the shard has
        no owner that knows itself to be current, it is asked again. Raises UnknownAgentType at once, CantHandle,
        StateUnreadable, HandlerFailed; CallTimeout, and Unreachable when nobody was there to ask, by the timeout.
        """
        check_inline(body, f"query {type_name}")
        target_route = self._routes.current.target(target)
        pool, shard = target_route.pool, target_route.shard
        now = self._wall()
        seconds = limits.QUERY_TIMEOUT if timeout is None else timeout
        if not_after is not None:
            seconds = min(seconds, max(0.0, not_after - now))
        self._next += 1
        packed = Envelope(
            id=str(self._next),
            type=type_name,
            body=body,
            target=target,
            sender=sender,
            trace=trace,
            deadline=int((now + seconds) * 1000),
            headers=headers,
        ).pack()
        key = (pool.pool, pool.incarnation, shard)
        asked = self._shards.get(key)
        if asked is None:
            asked = self._shards[key] = _Shard(self._names.pool(pool.pool).queries(shard))
        clock = self._clock
        if clock is None:  # to ask for the running loop is a system call
            clock = self._clock = asyncio.get_running_loop().time
        end = clock() + seconds
        pause = _PAUSE
        while True:
            try:
                answer = await self._store.ask(asked.subject, packed, end - clock())
            except Unreachable:
                if clock() < end - _TICK:
                    raise  # the connection is away, not the owner
                raise CallTimeout(f"{target} did not answer {type_name} within {seconds:.3g} s") from None
            reply = None if answer is None else Reply.unpack(answer)
            if reply is not None and reply.error not in AGAIN and reply.epoch >= asked.epoch:
                asked.epoch = reply.epoch
                reply.raise_error()
                return reply.type, reply.body
            if clock() + pause >= end:
                why = "no owner" if reply is None else f"no current owner ({reply.error or 'an old one answered'})"
                raise Unreachable(f"shard {shard} of {pool.pool} has {why} to answer for {target} in {seconds:.3g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_CAP)
