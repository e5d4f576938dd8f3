"""One turn as its handler sees it from inside: what it sends, calls, saves and sets, for the commit to make true."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgpack

from starling.codec import Codec
from starling.core import limits
from starling.core.due import step_key
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, PoolName, TopicId
from starling.core.priority import Priority
from starling.core.record import Cell
from starling.core.reference import BODY, Reference, check_inline, shared
from starling.core.reply import Reply
from starling.core.routes import Target
from starling.core.stencil import Stencil
from starling.engine.query_client import QueryClient
from starling.engine.work import Asked, SavedStep, Send, Work
from starling.errors import (
    CallCycle,
    CallFailed,
    CallTimeout,
    DecodeError,
    MeshError,
    NotDeterministic,
    ObjectLost,
    ObjectUnreadable,
    SpecError,
    TooLarge,
)
from starling.log_context import id_only
from starling.messages import decode, encode

if TYPE_CHECKING:
    from starling.context import Context
    from starling.engine.activation import Activation
    from starling.engine.calls import MakeRoom
    from starling.engine.large import LargeValues
    from starling.engine.room import Share
    from starling.tracing import TurnTrace

CANCEL_TYPE: Final = "starling.cancel"
"""A message to the shard, not to the agent: takes a delayed message back."""


class Timer:
    """A timer to set. at: first occurrence, milliseconds since 1970; every: seconds, cron: a rule, for further ones."""

    __slots__ = ("at", "cron", "envelope", "every")

    def __init__(self, at: int, every: float, cron: str, envelope: Envelope) -> None:
        self.at = at
        self.every = every
        self.cron = cron
        self.envelope = envelope


class Shard(Protocol):
    """What a turn needs of its shard."""

    @property
    def queries(self) -> QueryClient: ...

    def target(self, agent: AgentId) -> Target: ...

    def targets(self, topic: TopicId) -> list[Target]: ...

    def wall(self) -> float: ...

    @property
    def large(self) -> LargeValues:
        """What it has in the object store."""
        ...

    async def save(self, key: str, data: bytes | None, sends: tuple[Send, ...]) -> None:
        """Commit a cell, and messages with it, before the turn goes on."""
        ...

    async def read_saved(self, key: str) -> bytes | None: ...

    def expect_reply(self) -> tuple[str, asyncio.Future[Reply]]: ...

    async def reply(self, target: Target, reply_to: str, answer: asyncio.Future[Reply], seconds: float) -> Reply: ...

    def forget_reply(self, reply_to: str) -> None: ...

    def give_up_call(self, target: Target, call: str) -> None: ...

    def waits(self, waiting: int) -> None:
        """A turn waits for a call (+1), or goes on (-1): it needs no slot meanwhile."""
        ...

    async def call_at_once(self, envelope: Envelope, asked: Asked, trace: str, room: MakeRoom) -> tuple[str, bytes]: ...

    def share(self, priority: int) -> Share:
        """Return the share that a turn has in the room for large bodies."""
        ...

    def called(self, result: str) -> None:
        """Count a call that a turn has made: ok, timeout or error."""
        ...


class Turn:
    """Collects what one turn does beside changing its agent's state."""

    __slots__ = (
        "_activation",
        "_envelope",
        "_ids",
        "_shard",
        "_shared",
        "_stencil",
        "_steps",
        "_trace",
        "attempts",
        "calls",
        "cells",
        "context",
        "destroyed",
        "has_ended",
        "large",
        "sends",
        "sent_bytes",
        "timers",
        "trace",
        "work",
    )

    def __init__(self, shard: Shard, activation: Activation, work: Work, envelope: Envelope) -> None:
        self._shard = shard
        self._activation = activation
        self._envelope = envelope
        self.work = work
        self.attempts = 1
        """How often its handler runs at most for a call."""
        self.sends: list[Send] = []
        self.sent_bytes = 0
        self.calls = 0
        self.large: dict[Reference, bytes] = {}
        """What has to be in the object store before its commit."""
        self.cells: Mapping[str, Cell] | None = None
        """Named cells that it has changed, by cell name."""
        self.destroyed = False
        self.has_ended = False
        self.trace: TurnTrace | None = None
        """Its span; None without tracing."""
        self.context: Context | None = None
        """Kept for the error hooks, when its class has any."""
        self.timers: dict[str, Timer | None] | None = None
        """By name; None takes the timer back."""
        self._steps: set[str] | None = None
        self._trace = envelope.trace
        self._ids = ""
        """What the ids of all messages that it sends begin with."""
        self._stencil: Stencil | None = None
        self._shared: tuple[object, ...] = ()
        """What the stencil holds."""

    # -- messages

    def send(
        self, target: AgentId, type_name: str, body: bytes, headers: Mapping[str, str], priority: int, not_before: int
    ) -> str:
        """Add a message to one agent and return its id. Raises UnknownAgentType, TooLarge."""
        message_id = self._next_id()
        to = self._shard.target(target)
        large = self._put_aside(to, body, 1) if len(body) > limits.MAX_BODY else None
        self._add(to, message_id, type_name, body, headers, None, priority, not_before, large)
        return message_id

    def publish(
        self, topic: TopicId, type_name: str, body: bytes, headers: Mapping[str, str], priority: int, not_before: int
    ) -> None:
        """Add a message to every agent that hears the topic. Raises TooLarge."""
        message_id = self._next_id()
        targets = [target for target in self._shard.targets(topic) if target.agent != self._envelope.target]
        large: dict[PoolName, Reference] = {}
        if len(body) > limits.MAX_BODY:
            large = shared(targets, lambda to, share: self._put_aside(to, body, share))
        for target in targets:
            place = large.get(target.pool.pool)
            self._add(target, message_id, type_name, body, headers, topic, priority, not_before, place)

    def _put_aside(self, target: Target, body: bytes, share: int) -> Reference:
        """Let a body go to the object store of its target's pool when the turn ends well. Raises TooLarge."""
        self.sent_bytes += len(body)
        reference = self._shard.large.refer(BODY, body, to=(target.pool.pool, target.shard), share=share)
        self.large[reference] = body
        return reference

    def cancel(self, target: AgentId, message_id: str) -> None:
        """Take a delayed message back that has not been handed over yet."""
        self._add(
            self._shard.target(target), self._next_id(), CANCEL_TYPE, message_id.encode(), {}, None, Priority.URGENT, 0
        )

    def _add(
        self,
        target: Target,
        message_id: str,
        type_name: str,
        body: bytes,
        headers: Mapping[str, str],
        topic: TopicId | None,
        priority: int,
        not_before: int,
        large: Reference | None = None,
    ) -> None:
        trace = self._trace_id() if self.trace is None else self.trace.sends(message_id, type_name, target, topic)
        shared = (topic, trace, int(self._shard.wall() * 1000), priority, not_before, headers)
        if self._stencil is None or shared != self._shared:
            self._shared = shared
            self._stencil = Stencil(
                self._envelope.target,
                topic=topic,
                trace=trace,
                created=shared[2],
                priority=priority,
                not_before=not_before,
                headers=headers,
            )
        packed = self._stencil.pack(message_id, type_name, body, target.agent, large)
        self.sent_bytes += len(packed)
        if self.sent_bytes > limits.MAX_TURN_BYTES:
            raise TooLarge(f"one turn sent more than {limits.MAX_TURN_BYTES} bytes; send less at once")
        self.sends.append((target.mailboxes[priority], packed))

    def _next_id(self) -> str:
        if not self._ids:
            self._ids = derived_id(self._envelope.id, self._envelope.target, "sends")
        return f"{self._ids}.{len(self.sends)}"

    def _trace_id(self) -> str:
        """What the messages of this turn carry without tracing: so their log lines share an id all the same."""
        if not self._trace:
            self._trace = id_only(self._envelope.id)
        return self._trace

    @property
    def is_large(self) -> bool:
        """Whether what it sends goes out in pieces."""
        return self.in_place_bytes > limits.MAX_BODY or len(self.sends) > limits.MAX_TURN_TARGETS

    @property
    def in_place_bytes(self) -> int:
        """What it sends without bodies that go to the object store; `large` holds answers and cells, too."""
        return sum(len(packed) for _, packed in self.sends) if self.large else self.sent_bytes

    # -- timers

    def set_timer(self, name: str, type_name: str, body: bytes, at: float, every: float, cron: str) -> None:
        """Wake this agent by a message. at: seconds since 1970. Raises TooLarge."""
        check_inline(body, f"the message of timer {name!r}")
        source = self._envelope
        envelope = Envelope(
            id=derived_id(source.id, source.target, f"timer {name}"),
            type=type_name,
            body=body,
            target=source.target,
            sender=source.target,
            created=int(self._shard.wall() * 1000),
        )
        if self.timers is None:
            self.timers = {}
        self.timers[name] = Timer(int(at * 1000), every, cron, envelope)

    def cancel_timer(self, name: str) -> None:
        """Take a timer back; nothing happens when there is none."""
        if self.timers is None:
            self.timers = {}
        self.timers[name] = None

    def destroy(self) -> None:
        """End this agent with this turn: its cells, timers and delayed messages go in the same commit."""
        self.destroyed = True

    # -- steps

    async def step(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `function` once for all attempts of this turn: its result is saved before the turn goes on."""
        if self._steps is None:
            self._steps = set()
        if name in self._steps:
            raise SpecError("step", f"this turn has a step {name!r} already; give one of them another `name`")
        self._steps.add(name)
        run = self._step(name, function, args, kwargs)
        return await (run if self.trace is None else self.trace.step(name, run))

    async def _step(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        saved = await self._saved(f"step-{name}")
        codec = _result_codec(function)
        if saved is not None:
            return _load_result(codec, saved.data)
        result = function(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        data = _dump_result(codec, result)
        if len(data) > limits.MAX_BODY:
            raise TooLarge(f"the result of step {name!r} has {len(data)} bytes, at most {limits.MAX_BODY}")
        await self._save(f"step-{name}", data, ())
        return result

    async def _saved(self, name: str) -> SavedStep | None:
        known = self.work.saved
        if known is not None and name in known:
            return known[name]
        if self.work.fresh:
            return None
        key = self._key(name)
        data = await self._shard.read_saved(key)
        if data is None:
            return None
        return self._remember(name, SavedStep(key, data))

    async def _save(self, name: str, data: bytes, sends: tuple[Send, ...]) -> SavedStep:
        key = self._key(name)
        await self._shard.save(key, data, sends)
        return self._remember(name, SavedStep(key, data))

    def _remember(self, name: str, step: SavedStep) -> SavedStep:
        if self.work.saved is None:
            self.work.saved = {}
        self.work.saved[name] = step
        return step

    def _key(self, name: str) -> str:
        shard = int(self._activation.key.split(".", 1)[0])
        return step_key(shard, self._activation.id, self._envelope.id, name)  # type: ignore[arg-type]

    # -- calls

    async def call(
        self, target: AgentId, type_name: str, body: bytes, timeout: float | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes]:
        """Call another agent and wait for its answer: saved before it is sent, so that a repeated turn makes it once.

        Raises CallFailed and its kinds, RouteError, RetryLater, NotDeterministic.
        """
        make = self._call_at_once if self._activation.definition.options.durability == "none" else self._call
        result = "error"
        try:
            answer = await self._traced("call", make, Asked(target, type_name, body, timeout, headers))
            result = "ok"
            return answer
        except CallTimeout:
            result = "timeout"
            raise
        finally:
            self._shard.called(result)

    def _traced(
        self, verb: str, make: Callable[[Asked, str], Awaitable[tuple[str, bytes]]], asked: Asked
    ) -> Awaitable[tuple[str, bytes]]:
        """Ask another agent, with tracing in a span of its own; `make` gets the traceparent."""
        if self.trace is None:
            return make(asked, self._trace_id())
        route = self._shard.target(asked.target)
        return self.trace.calling(asked.type_name, route, lambda trace: make(asked, trace), verb=verb)

    async def _call(self, asked: Asked, trace: str) -> tuple[str, bytes]:
        source = self._envelope
        name = f"call-{self.calls}"
        self.calls += 1
        digest = hashlib.sha256(
            b"\0".join((str(asked.target).encode(), asked.type_name.encode(), asked.body))
        ).digest()[:16]
        route = self._shard.target(asked.target)
        saved = await self._saved(name)
        sent = saved is None
        reply_to, answer = self._shard.expect_reply()
        try:
            if saved is None:
                call_id = derived_id(source.id, source.target, f"{name} {self.work.attempt}")
                call = SavedCall(call_id, digest, self._deadline(asked.timeout), b"")
                packed = await self._pack_call(call, route, asked, reply_to, trace)
                saved = await self._save(name, call.encode(), ((route.mailboxes[source.priority], packed),))
            call = SavedCall.decode(saved.data)
            if call.digest != digest:
                raise NotDeterministic(
                    f"this turn calls {asked.target} with {asked.type_name} where it made another call the first "
                    "time; what a turn calls may depend on its message, its state, steps and answers only"
                )
            if call.reply:
                return _answer(saved, await self._whole(saved, Reply.unpack(call.reply)))
            if not sent:
                packed = await self._pack_call(call, route, asked, reply_to, trace)
                await self._shard.save("", None, ((route.mailboxes[source.priority], packed),))
            reply = await self._wait(saved, call, route, asked.type_name, reply_to, answer)
            saved.data = SavedCall(call.id, call.digest, call.deadline, reply.pack()).encode()
            return _answer(saved, await self._whole(saved, reply))
        finally:
            self._shard.forget_reply(reply_to)

    async def _call_at_once(self, asked: Asked, trace: str) -> tuple[str, bytes]:
        waiting = 1

        async def room(size_bytes: int) -> None:
            nonlocal waiting
            self._waits(-waiting)  # the answer is there: it waits for nobody, and goes on once it has room
            waiting = 0
            await self._make_room(size_bytes)

        self._waits(waiting)
        try:
            return await self._shard.call_at_once(self._envelope, asked, trace, room)
        finally:
            self._waits(-waiting)

    async def _whole(self, saved: SavedStep, reply: Reply) -> Reply:
        """Return the answer with its body; a lost one the next attempt asks for anew. Raises CallFailed;
        ObjectUnreadable for one that is kept until it can be read."""
        try:
            if reply.large is not None:
                await self._make_room(reply.large.size_bytes)
            return await self._shard.large.answer(reply)
        except ObjectUnreadable:
            raise
        except ObjectLost as error:
            saved.failed = True
            raise CallFailed(f"the answer of {reply.by} is not kept any more: {error}") from error

    async def _wait(
        self,
        saved: SavedStep,
        call: SavedCall,
        route: Target,
        type_name: str,
        reply_to: str,
        answer: asyncio.Future[Reply],
    ) -> Reply:
        left = max(0.0, call.deadline / 1000 - self._shard.wall())
        self._waits(1)
        try:
            return await self._shard.reply(route, reply_to, answer, left)
        except TimeoutError:
            saved.failed = True
            raise CallTimeout(f"{route.agent} did not answer {type_name} by its deadline") from None
        except asyncio.CancelledError:
            self._shard.give_up_call(route, call.id)
            raise
        finally:
            self._waits(-1)

    def _waits(self, waiting: int) -> None:
        """It waits for a call (+1), or goes on (-1): meanwhile it holds nobody up."""
        self._shard.waits(waiting)
        if not self.has_ended:
            self._share().calls(waiting)

    def _share(self) -> Share:
        """Return what it has of the room for large bodies; its own from the first call on, which may bring one."""
        if self.work.share is None:
            self.work.share = self._shard.share(self._envelope.priority)
        return self.work.share

    async def _make_room(self, size_bytes: int) -> None:
        """Wait for room for an answer, which it keeps to its end; meanwhile it holds nobody up."""
        if self.has_ended:
            return  # a task that the handler has left behind: nobody would give the room back
        self._shard.waits(1)
        try:
            await self._share().ask(size_bytes).entered()
        finally:
            self._shard.waits(-1)

    def ended(self) -> None:
        """Its handler has come to its end: the room of what it got is free."""
        self.has_ended = True
        if self.work.share is not None:
            self.work.share.leave()
            self.work.share = None

    def _deadline(self, timeout: float | None) -> int:
        now = self._shard.wall()
        own = self._envelope.deadline
        if timeout is None and own:
            return own
        seconds = min(limits.CALL_TIMEOUT if timeout is None else timeout, limits.MAX_CALL_TIMEOUT)
        deadline = int((now + seconds) * 1000)
        return min(deadline, own) if own else deadline

    async def _pack_call(self, call: SavedCall, route: Target, asked: Asked, reply_to: str, trace: str) -> bytes:
        source, target, body = self._envelope, route.agent, asked.body
        chain = (*source.chain, str(source.target))
        if str(target) in chain:
            raise CallCycle(" -> ".join((*chain, str(target))))
        large = None
        if len(body) > limits.MAX_BODY:
            large = self._shard.large.refer(BODY, body, to=(route.pool.pool, route.shard))
            await self._shard.large.put({large: body})
        return Envelope(
            id=call.id,
            type=asked.type_name,
            body=body if large is None else b"",
            large=large,
            target=target,
            sender=source.target,
            reply=reply_to,
            trace=trace,
            created=int(self._shard.wall() * 1000),
            priority=source.priority,
            deadline=call.deadline,
            headers=asked.headers,
            chain=chain,
            repeatable=True,
        ).pack()

    async def query(
        self, target: AgentId, type_name: str, body: bytes, timeout: float | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes]:
        """Ask another agent, past the log. Raises as `QueryClient.query`."""
        return await self._traced("query", self._query, Asked(target, type_name, body, timeout, headers))

    def _query(self, asked: Asked, trace: str) -> Awaitable[tuple[str, bytes]]:
        source = self._envelope
        return self._shard.queries.query(
            asked.target,
            asked.type_name,
            asked.body,
            timeout=asked.timeout,
            headers=asked.headers,
            sender=source.target,
            trace=trace,
            not_after=source.deadline / 1000 if source.deadline else None,
        )

    @property
    def records_nothing(self) -> bool:
        """Whether its agent has durability none: what it does waits for no commit."""
        return self._activation.definition.durability == "none"

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._shard.wall()

    # -- the end

    def saved_cells(self, *, retried: bool) -> dict[str, Cell]:
        """What becomes of saved steps and calls: all go with the end of the turn.

        Before a further attempt only calls that ended in an error go, to be made anew, and answers are kept.
        """
        steps = self.work.saved
        if not steps:
            return {}
        if not retried:
            return {step.key: Cell(0, None) for step in steps.values()}
        cells = {step.key: Cell(1, None) if step.failed else Cell(0, step.data) for step in steps.values()}
        self.work.saved = {name: step for name, step in steps.items() if not step.failed}
        return cells


class SavedCall:
    """A call as it is saved. deadline: milliseconds since 1970; reply: packed, once there was one."""

    __slots__ = ("deadline", "digest", "id", "reply")

    def __init__(self, id: str, digest: bytes, deadline: int, reply: bytes) -> None:  # noqa: A002
        self.id = id
        self.digest = digest
        self.deadline = deadline
        self.reply = reply

    def encode(self) -> bytes:
        return msgpack.packb((self.id, self.digest, self.deadline, self.reply))  # type: ignore[no-any-return]

    @classmethod
    def decode(cls, data: bytes) -> SavedCall:
        """Raises DecodeError."""
        try:
            return cls(*msgpack.unpackb(data))
        except Exception as error:
            raise DecodeError(f"saved call: {error!r}") from error


def derived_id(message_id: str, agent: AgentId, index: int | str) -> str:
    """Return an id for what an agent's turn of `message_id` sends under this index; the same for a repeated turn.

    The agent is part of it: one publish is heard by several agents, and each of them sends.
    """
    made = f"{message_id} {agent} {index}"
    return hashlib.blake2b(made.encode(), digest_size=12).hexdigest()


def _digest(asked: Asked) -> bytes:
    """What tells one call of a turn from another."""
    return hashlib.sha256(b"\0".join((str(asked.target).encode(), asked.type_name.encode(), asked.body))).digest()[:16]


def _answer(saved: SavedStep, reply: Reply) -> tuple[str, bytes]:
    try:
        reply.raise_error()
    except MeshError:
        saved.failed = True
        raise
    return reply.type, reply.body


def _result_codec(function: Callable[..., Any]) -> Codec | None:
    """The codec of what a function says that it returns; None when it does not say."""
    target = inspect.unwrap(function)
    target = getattr(target, "__func__", target)
    codec = _codecs.get(target)
    if codec is None:
        try:
            annotation = inspect.signature(target, eval_str=True).return_annotation
        except (TypeError, ValueError, NameError):
            return None
        if annotation is inspect.Signature.empty or annotation is Any:
            return None
        name = f"result of step {getattr(target, '__qualname__', target)}"
        codec = _codecs[target] = Codec(name, annotation, limit=None)
    return codec


_codecs: dict[Any, Codec] = {}


def _dump_result(codec: Codec | None, result: Any) -> bytes:
    if codec is not None:
        return codec.dump(result)
    name, body = encode(result)
    return msgpack.packb((name, body))  # type: ignore[no-any-return]


def _load_result(codec: Codec | None, data: bytes) -> Any:
    if codec is not None:
        return codec.load(data)
    name, body = msgpack.unpackb(data)
    return decode(name, body)
