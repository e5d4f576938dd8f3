"""The mesh from outside: publish, send, call."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from starling.agent import Agent
from starling.batch import Batch, Published, check_stored
from starling.context import NO_HEADERS, checked_headers, checked_priority, later
from starling.core import limits
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, PoolName, TopicId, check_mesh, message_id
from starling.core.priority import Priority, lane_of
from starling.core.reference import Reference, by_pool
from starling.core.routes import Target
from starling.deadlines import Deadlines
from starling.engine.calls import Calls
from starling.engine.flow import Flow
from starling.engine.producer import Accepted, Producer
from starling.engine.routes_view import RoutesView
from starling.engine.turn import CANCEL_TYPE
from starling.errors import SpecError, TooLarge, Unreachable
from starling.messages import decode, encode
from starling.node.routing import watch_routes
from starling.node.stream_time import StreamTime
from starling.ports.store import Store
from starling.proxies import client_proxy
from starling.seconds import checked_seconds
from starling.tracing import tracing

A = TypeVar("A", bound=Agent[Any])

START_TIMEOUT = 10.0

WhenFull = Literal["refuse", "wait"]
"""What to do when the mailbox is full."""


class Mesh:
    """A connection to a mesh. Every wait has a bound: the timeout given, else the default of its kind."""

    def __init__(
        self,
        store: Store,
        mesh: str,
        *,
        name: str | None,
        wall: Any = time.time,
        chance: random.Random,
        producer: Producer | None = None,
    ) -> None:
        """producer: puts its messages into mailboxes, in place of one of its own of this name."""
        self._store = store
        self._mesh = mesh
        self._machine_wall = wall
        self._time = StreamTime(store, mesh, wall)
        wall = self._wall = self._time.now
        self._chance = chance
        self._routes = RoutesView()
        own_name = name if name is not None else f"{chance.getrandbits(64):016x}"
        self._producer = producer if producer is not None else Producer(store, mesh, own_name, chance)
        self._deadlines = Deadlines()
        self._calls = Calls(store, mesh, self._producer, self._routes, wall=wall, chance=chance)
        self._watch: asyncio.Task[None] | None = None
        self._keeping_time: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Hear the routes and listen for replies. Raises Unreachable.

        An SDK for traces that is configured later is not noticed.
        """
        self._producer.tracing = tracing(self._machine_wall)  # as the spans of others are stamped
        await self._calls.open()
        self._watch = asyncio.get_running_loop().create_task(
            watch_routes(self._store, self._mesh, self._routes), name="routes"
        )
        heard = asyncio.get_running_loop().create_task(self._routes.heard.wait())
        await asyncio.wait({self._watch, heard}, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if not self._routes.heard.is_set():
            heard.cancel()
            reason = f"mesh {self._mesh!r} has no route table; is a pool applied?"
            if self._watch.done() and (error := self._watch.exception()):
                raise Unreachable(f"{reason} ({error})") from error
            raise Unreachable(reason)
        await self._time.look()
        self._keeping_time = asyncio.get_running_loop().create_task(self._time.keep(), name="store's time")

    async def close(self) -> None:
        """Close; what was not stored ends with Unreachable."""
        for task in (self._watch, self._keeping_time):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._calls.close()
        await self._producer.close()

    async def publish(
        self,
        topic: TopicId,
        message: object,
        *,
        id: str | None = None,  # noqa: A002 - the field's own word
        headers: Mapping[str, str] | None = None,
        priority: Priority = Priority.NORMAL,
        delay: float = 0.0,
        at: datetime | None = None,
        when_full: WhenFull = "refuse",
        timeout: float = 30.0,
    ) -> tuple[Accepted, ...]:
        """Store one message for every agent that hears the topic; it is stored when this returns.

        id: a repeat of the same id by the same producer within the pool's dedupe window (30 s) counts once;
        after that it is a new message. priority: order holds among low and normal, and among high and urgent messages.
        delay: seconds from now, or at: a time with its zone, when it is handed over; `cancel` takes it back by its id.
        when_full: "refuse" raises MailboxFull at once, "wait" waits for room, and
        so does what is sent to the same shard after it. Raises MailboxFull, TooLarge, DecodeError (nothing was
        stored), OutcomeUnknown, and TimeoutError after `timeout` seconds, when nobody can say.
        """
        type_name, body = encode(message)
        return await self.publish_raw(
            topic,
            type_name,
            body,
            id=id,
            headers=headers,
            priority=priority,
            not_before=later(self._wall(), delay, at),
            when_full=when_full,
            timeout=timeout,
        )

    async def publish_raw(
        self,
        topic: TopicId,
        type_name: str,
        body: bytes,
        *,
        id: str | None = None,  # noqa: A002
        headers: Mapping[str, str] | None = None,
        priority: int = Priority.NORMAL,
        not_before: int = 0,
        when_full: WhenFull = "refuse",
        timeout: float = 30.0,
    ) -> tuple[Accepted, ...]:
        """As `publish`, for a message that is encoded already. not_before: milliseconds since 1970."""
        checked_seconds(timeout)
        if not isinstance(topic, TopicId):
            raise SpecError("topic", f"{topic!r} is none; give a TopicId, or a Topic called with its source")
        own_id = id if id is not None else self._new_id()
        headers, patient, priority = checked_headers(headers), _is_patient(when_full), checked_priority(priority)
        targets = list(self._routes.current.targets(topic))
        large = await self._claims(targets, body, timeout)
        futures = [
            self._put(
                target,
                type_name,
                body,
                own_id,
                headers,
                topic=topic,
                user_id=id,
                patient=patient,
                priority=priority,
                not_before=not_before,
                large=large.get(target.pool.pool),
            )
            for target in targets
        ]
        async with asyncio.timeout(timeout):
            return tuple([await future for future in futures])

    async def publish_many(
        self,
        messages: Iterable[tuple[TopicId | AgentId, object]],
        *,
        id: str | None = None,  # noqa: A002
        all_or_nothing: bool = False,
        headers: Mapping[str, str] | None = None,
        when_full: WhenFull = "refuse",
        timeout: float = 30.0,
    ) -> list[Published]:
        """Publish to topics, and send to agents, many messages at once; return a result per message, in order.

        Each shard gets its messages in one frame, or in a few: a thousand to one shard cost one round trip. A message
        that is wrong has its error in its result, and the others are stored. all_or_nothing: every message is checked
        before any is sent, and each shard gets its share whole or not at all; returns when all are stored, else
        raises BatchRefused. Over several shards one may refuse (a full mailbox) what another has stored: the error
        says how many; repeat the batch with its id.
        id: the same messages again under the same id, by the same producer and within the dedupe window, count once.
        Raises SpecError, and TimeoutError after `timeout` seconds, when nobody can say.
        """
        checked_seconds(timeout)
        batch = Batch(
            self._routes.current,
            batch_id=id,
            new_id=self._new_id,
            created=int(self._wall() * 1000),
            headers=checked_headers(headers),
        )
        for to, message in messages:
            batch.add(to, message)
        if all_or_nothing:
            batch.check_whole()
        async with asyncio.timeout(timeout):
            results = await batch.send(self._producer, whole=all_or_nothing, patient=_is_patient(when_full))
        if all_or_nothing:
            check_stored(results)
        return results

    async def publish_all(
        self,
        messages: Iterable[tuple[TopicId, object, str | None]],
        *,
        in_flight: int = 2000,
        timeout: float = 30.0,
    ) -> int:
        """Publish many messages, cheaper than one by one; return how many, once all are stored.

        messages: topic, message and id as in `publish`, taken while fewer than `in_flight` are on their way. Those to
        one agent stay in this order: where `publish` raises MailboxFull, this waits for room. timeout: seconds without
        any message stored, then TimeoutError. Raises TooLarge, DecodeError, UnknownPool; some may be stored then.
        """
        if in_flight < 1:
            raise SpecError("in_flight", f"is {in_flight}; give at least 1")
        flow = Flow(checked_seconds(timeout))
        count = 0
        try:
            for topic, message, user_id in messages:
                if len(flow) >= in_flight:
                    await flow.until(in_flight // 2)
                type_name, body = encode(message)
                own_id = user_id if user_id is not None else self._new_id()
                targets = list(self._routes.current.targets(topic))
                large = await self._claims(targets, body, timeout)
                for target in targets:
                    place = large.get(target.pool.pool)
                    flow.add(
                        self._put(
                            target,
                            type_name,
                            body,
                            own_id,
                            NO_HEADERS,
                            topic=topic,
                            user_id=user_id,
                            patient=True,
                            large=place,
                        )
                    )
                count += 1
            await flow.until(0)
        finally:
            flow.cancel()
        return count

    async def send(
        self,
        target: AgentId,
        message: object,
        *,
        id: str | None = None,  # noqa: A002
        headers: Mapping[str, str] | None = None,
        priority: Priority = Priority.NORMAL,
        delay: float = 0.0,
        at: datetime | None = None,
        when_full: WhenFull = "refuse",
        timeout: float = 30.0,
    ) -> Accepted:
        """Store one message for one agent; stored when this returns. Raises as `publish`, and UnknownAgentType."""
        type_name, body = encode(message)
        return await self.send_raw(
            target,
            type_name,
            body,
            id=id,
            headers=headers,
            priority=priority,
            not_before=later(self._wall(), delay, at),
            when_full=when_full,
            timeout=timeout,
        )

    async def cancel(self, target: AgentId, id: str, *, timeout: float = 30.0) -> Accepted:  # noqa: A002
        """Take back a message that was sent with a delay and this id; it is not handed over after this is handled.

        Nothing happens when it has been handed over. Raises as `send`.
        """
        return await self.send_raw(target, CANCEL_TYPE, id.encode(), priority=Priority.URGENT, timeout=timeout)

    async def send_raw(
        self,
        target: AgentId,
        type_name: str,
        body: bytes,
        *,
        id: str | None = None,  # noqa: A002
        headers: Mapping[str, str] | None = None,
        priority: int = Priority.NORMAL,
        not_before: int = 0,
        when_full: WhenFull = "refuse",
        timeout: float = 30.0,
    ) -> Accepted:
        """As `send`, for a message that is encoded already. not_before: milliseconds since 1970."""
        checked_seconds(timeout)
        own_id = id if id is not None else self._new_id()
        route = self._routes.current.target(target)
        headers, patient, priority = checked_headers(headers), _is_patient(when_full), checked_priority(priority)
        large = await self._claims([route], body, timeout)
        future = self._put(
            route,
            type_name,
            body,
            own_id,
            headers,
            topic=None,
            user_id=id,
            patient=patient,
            priority=priority,
            not_before=not_before,
            large=large.get(route.pool.pool),
        )
        slot = self._deadlines.watch(future, timeout)  # a timer of its own would be a seventh of a send's CPU
        try:
            return await future
        finally:
            slot.pop(future, None)

    async def _claims(self, targets: Sequence[Target], body: bytes, timeout: float) -> dict[PoolName, Reference]:
        """Put a large body into the object store of each pool that hears it; nothing happens to a small one.

        Raises TooLarge, Unreachable, UnknownPool and TimeoutError: nothing is published then.
        """
        if len(body) <= limits.MAX_BODY:
            return {}
        if len(body) > limits.MAX_LARGE:
            raise TooLarge(f"the message has {len(body)} bytes, at most {limits.MAX_LARGE}")
        async with asyncio.timeout(timeout):
            return {
                of_pool[0].pool.pool: await self._calls.claim(of_pool[0], body, len(of_pool))
                for of_pool in by_pool(targets)
            }

    def _put(
        self,
        target: Target,
        type_name: str,
        body: bytes,
        message_id: str,
        headers: Mapping[str, str],
        *,
        topic: TopicId | None,
        user_id: str | None,
        patient: bool = False,
        priority: int = Priority.NORMAL,
        not_before: int = 0,
        large: Reference | None = None,
    ) -> asyncio.Future[Accepted]:
        envelope = Envelope(
            id=message_id,
            type=type_name,
            body=body if large is None else b"",
            large=large,
            target=target.agent,
            topic=topic,
            created=int(self._wall() * 1000),
            headers=headers,
            priority=priority,
            not_before=not_before,
        )
        return self._producer.put(target, envelope, user_id=user_id, lane=lane_of(priority), patient=patient)

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
        """Call an agent and return its answer, which comes after its commit.

        timeout: seconds, default 30, at most an hour. id: the same call by the same producer again, before the first
        one's deadline, is not handled again: it gets the first one's answer. Cancelling tells the callee, whose
        handler is cancelled if it has not ended. Raises CallFailed and its kinds, RouteError, MailboxFull.
        """
        type_name, body = encode(message)
        result_type, result = await self.call_raw(
            target, type_name, body, timeout=timeout, headers=headers, priority=priority, id=id
        )
        return decode(result_type, result)

    async def call_raw(
        self,
        target: AgentId,
        type_name: str,
        body: bytes,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        priority: int = Priority.NORMAL,
        id: str | None = None,  # noqa: A002
    ) -> tuple[str, bytes]:
        """As `call`, for a message that is encoded already; return type name and body of the answer."""
        if timeout is not None:
            checked_seconds(timeout)
        call_id = "" if id is None else self._producer.call_id(target, id)
        return await self._calls.call(
            target,
            type_name,
            body,
            timeout=timeout,
            headers=checked_headers(headers),
            priority=checked_priority(priority),
            call_id=call_id,
        )

    async def query(
        self,
        target: AgentId,
        message: object,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask an agent's `@query` handler and return its answer, which says what was committed lately.

        It goes past the log to the owner of the agent's shard, and wakes no agent. The answer may be as old as the
        time in which a pod that lost its connection is noticed (10 s). timeout: seconds, default 5. Raises as
        `call`, but Unreachable when the shard has no owner for so long.
        """
        if timeout is not None:
            checked_seconds(timeout)
        type_name, body = encode(message)
        result_type, result = await self._calls.queries.query(
            target, type_name, body, timeout=timeout, headers=headers or NO_HEADERS
        )
        return decode(result_type, result)

    async def query_raw(
        self,
        target: AgentId,
        type_name: str,
        body: bytes,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[str, bytes]:
        """As `query`, for a message that is encoded already; return type name and body of the answer."""
        if timeout is not None:
            checked_seconds(timeout)
        return await self._calls.queries.query(target, type_name, body, timeout=timeout, headers=headers or NO_HEADERS)

    def agent(self, cls: type[A], key: str) -> A:
        """Return a typed stand-in for an agent: `await mesh.agent(Airport, "EWR").report(Ask(), timeout=5.0)`."""
        return client_proxy(self, cls, key)

    def _new_id(self, now: float | None = None) -> str:
        return message_id(int((self._wall() if now is None else now) * 1000), self._chance.getrandbits(76))


def _is_patient(when_full: str) -> bool:
    if when_full not in ("refuse", "wait"):
        raise SpecError("when_full", f"is {when_full!r}; give 'refuse' or 'wait'")
    return when_full == "wait"


@asynccontextmanager
async def connect(
    url: str = "nats://127.0.0.1:4222",
    *,
    mesh: str = "dev",
    name: str | None = None,
    credentials: Path | None = None,
) -> AsyncIterator[Mesh]:
    """Connect to a mesh over NATS.

    name: of this producer, part of what makes a message id unique; give it when a restarted process repeats
    its messages. credentials: a NATS credentials file. Raises Unreachable, SpecError for a file that is not there or a
    name that no mesh can have.
    """
    from starling.adapters.nats import connect as connect_store

    check_mesh(mesh)
    store = await connect_store(url, name=name or "client", credentials=credentials)
    try:
        async with opened(store, mesh, name=name) as client:
            yield client
    finally:
        await store.close()


@asynccontextmanager
async def opened(store: Store, mesh: str, *, name: str | None = None) -> AsyncIterator[Mesh]:
    """A mesh over a store that is connected, and stays so. Raises as `connect`."""
    client = Mesh(store, mesh, name=name, chance=random.Random())
    await client.open()
    try:
        yield client
    finally:
        await client.close()
