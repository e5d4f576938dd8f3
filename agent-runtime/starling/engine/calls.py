"""Calls: a message with a reply address, and the wait for its answer."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext

from starling.core import limits
from starling.core.envelope import NORMAL_PRIORITY, Envelope
from starling.core.ids import AgentId, message_id
from starling.core.names import MeshNames, PoolNames
from starling.core.priority import lane_of
from starling.core.reference import BODY, Reference, refer
from starling.core.replies import MANY, address, spread
from starling.core.reply import Reply
from starling.core.routes import Target
from starling.deadlines import Deadlines
from starling.engine.objects import Objects
from starling.engine.producer import Accepted, Producer
from starling.engine.query_client import QueryClient
from starling.engine.routes_view import RoutesView
from starling.errors import CallCycle, CallTimeout, DecodeError, Unreachable
from starling.ports.store import Signal, Store, Subscription
from starling.tracing import Sending

log = logging.getLogger(__name__)

MakeRoom = Callable[[int], Awaitable[None]]
"""Waits until so many bytes of a large answer may be held."""


class Calls:
    """The calls of one process: all replies come in on one subject."""

    def __init__(
        self,
        store: Store,
        mesh: str,
        producer: Producer,
        routes: RoutesView,
        *,
        wall: Callable[[], float],
        chance: random.Random,
    ) -> None:
        self._store = store
        self._producer = producer
        self._routes = routes
        self._wall = wall
        self._mesh = mesh
        self._subject = MeshNames(mesh).replies(f"{chance.getrandbits(64):016x}")
        self._many = f"{self._subject}.{MANY}"
        self._chance = chance
        self._objects = Objects(store, mesh, routes)
        self._next = 0
        self._deadlines = Deadlines()
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._subscription: Subscription | None = None
        self.queries = QueryClient(store, mesh, routes, wall=wall)
        self._telling: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen for replies; before the first call."""
        self._subscription = await self._store.listen(f"{self._subject}.*", self._heard)

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()
        for future in self._waiting.values():
            future.cancel()

    def _heard(self, signal: Signal) -> None:
        if signal.subject != self._many:
            self._answered(signal.subject, signal.data)
            return
        for token, data in spread(signal.data):
            self._answered(f"{self._subject}.{token}", data)

    def _answered(self, reply_to: str, data: bytes) -> None:
        future = self._waiting.get(reply_to)
        if future is None or future.done():
            return  # a repeat, or an answer after the deadline
        try:
            future.set_result(Reply.unpack(data))
        except DecodeError as error:
            future.set_exception(error)

    def expect(self) -> tuple[str, asyncio.Future[Reply]]:
        """Return an address for one reply, and the future that gets it; `forget` it afterwards."""
        reply_to = self.next_address()
        return reply_to, self.expect_at(reply_to)

    def next_address(self) -> str:
        """Return an address for one reply, which nobody listens to before `expect_at`."""
        self._next += 1
        return address(self._subject, self._next)

    def expect_at(self, reply_to: str) -> asyncio.Future[Reply]:
        """Return the future that gets the reply to this address."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[reply_to] = future
        return future

    def forget(self, reply_to: str) -> None:
        """Wait for this reply no longer."""
        self._waiting.pop(reply_to, None)

    def give_up(self, target: Target, call: str) -> None:
        """Tell the callee that nobody waits for a call any more; it may be too late, or get lost."""
        self._tell(self._names(target).cancel(target.shard), call)

    def _names(self, target: Target) -> PoolNames:
        return MeshNames(self._mesh).pool(target.pool.pool)

    def _tell(self, subject: str, text: str) -> None:
        task = asyncio.get_running_loop().create_task(self._signal(subject, text), name=f"tells {subject}")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _signal(self, subject: str, text: str) -> None:
        try:
            await self._store.signal(subject, text.encode())
        except Unreachable:
            log.debug("callee not told of a call", extra={"subject": subject, "text": text})

    async def call(
        self,
        target: AgentId,
        type_name: str,
        body: bytes,
        *,
        timeout: float | None,
        headers: Mapping[str, str],
        sender: AgentId | None = None,
        chain: tuple[str, ...] = (),
        trace: str = "",
        not_after: float | None = None,
        priority: int = NORMAL_PRIORITY,
        call_id: str = "",
        room: MakeRoom | None = None,
    ) -> tuple[str, bytes]:
        """Return type name and body of the answer, which comes after the callee's commit.

        timeout: seconds, default 30, at most an hour; not_after: the caller's own deadline, seconds since 1970;
        call_id: the same call again, with the same id before the first one's deadline, gets the first one's answer;
        room: waits until a large answer may be fetched, None: at once.
        Raises UnknownAgentType and UnknownPool at once, CallCycle, CallTimeout, MailboxFull, CantHandle, HandlerFailed.
        """
        route = self._routes.current.target(target)
        if str(target) in chain:
            raise CallCycle(" -> ".join((*chain, str(target))))
        now = self._wall()
        seconds = min(limits.CALL_TIMEOUT if timeout is None else timeout, limits.MAX_CALL_TIMEOUT)
        deadline = now + seconds if not_after is None else min(now + seconds, not_after)
        large = await self.claim(route, body) if len(body) > limits.MAX_BODY else None
        reply_to, future = self.expect()
        envelope = Envelope(
            id=call_id or message_id(int(now * 1000), self._chance.getrandbits(76)),
            type=type_name,
            body=body if large is None else b"",
            large=large,
            target=target,
            sender=sender,
            reply=reply_to,
            trace=trace,
            created=int(now * 1000),
            deadline=int(deadline * 1000),
            headers=headers,
            chain=chain,
            priority=priority,
            repeatable=bool(call_id),
        )
        tracing = self._producer.tracing
        sending = None if tracing is None or trace else tracing.sending(envelope, route)
        with sending or nullcontext():
            # Without an id of its own for the server: it must not take a repeated call for a duplicate, since the
            # answer goes to another address; and calls that wait for the same mailbox share a frame.
            lane = lane_of(envelope.priority)
            stored = self._producer.put(route, envelope, user_id=None, lane=lane, sending=sending)
            stored.add_done_callback(lambda done: self._not_stored(done, reply_to))
            try:
                return await self.answer(route, envelope, future, deadline - now, sending, room)
            finally:
                stored.cancel()

    async def claim(self, target: Target, body: bytes, share: int = 1) -> Reference:
        """Put a body that is too large for a message into the object store of its target's pool, and return where.

        share: how many messages will refer to it. Raises Unreachable, UnknownPool: nothing is sent then.
        """
        reference = refer(target.pool.pool, target.shard, BODY, self._chance.getrandbits(96), body, share=share)
        await self._objects.put(reference, body)
        return reference

    async def answer(
        self,
        route: Target,
        envelope: Envelope,
        future: asyncio.Future[Reply],
        seconds: float,
        sending: Sending | None = None,
        room: MakeRoom | None = None,
    ) -> tuple[str, bytes]:
        """Return type name and body of the answer to a call that is under way, and forget it.

        future: of `expect`; seconds: that it may take from now. Raises as `call`; cancelling tells the callee.
        """
        try:
            reply = await self.reply(route, envelope.reply, future, seconds)
        except TimeoutError:
            raise CallTimeout(f"{envelope.target} did not answer {envelope.type} within {seconds:.3g} s") from None
        except asyncio.CancelledError:
            self.give_up(route, envelope.id)
            raise
        finally:
            self.forget(envelope.reply)
        if sending is not None:
            sending.happened("reply")
        reply.raise_error()
        if reply.large is not None:
            if room is not None:
                await room(reply.large.size_bytes)
            reply = await self._objects.answer(reply)
        return reply.type, reply.body

    async def reply(self, target: Target, reply_to: str, future: asyncio.Future[Reply], seconds: float) -> Reply:
        """Return the reply to a call that is under way. Raises TimeoutError after so many seconds.

        A reply is a core message, which is lost while its caller, a server or a route between is away: who waits
        long asks the callee to send again what it has sent.
        """
        patience = limits.ASK_AGAIN
        while True:
            patience = min(patience, seconds)
            slot = self._deadlines.watch(future, patience)
            try:
                return await future
            except TimeoutError:
                seconds -= patience
                if seconds <= 0:
                    raise
            finally:
                slot.pop(future, None)
            future = self.expect_at(reply_to)
            self._tell(self._names(target).again(target.shard), reply_to)
            patience = min(2 * patience, limits.ASK_AGAIN_CAP)

    def _not_stored(self, done: asyncio.Future[Accepted], reply_to: str) -> None:
        if done.cancelled() or (error := done.exception()) is None:
            return
        future = self._waiting.get(reply_to)
        if future is not None and not future.done():
            future.set_exception(error)
