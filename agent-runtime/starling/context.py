"""What a handler knows of its message, and what it may do beside changing its state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, cast, overload

from starling.core import limits
from starling.core.ids import AgentId, TopicId
from starling.core.priority import Priority
from starling.core.recurrence import next_by_rule
from starling.errors import SpecError
from starling.messages import decode, encode
from starling.seconds import checked_seconds

if TYPE_CHECKING:
    from starling.agent import Agent

A = TypeVar("A", bound="Agent[Any]")
P = ParamSpec("P")
T = TypeVar("T")

RESERVED_PREFIXES: Final = ("st-", "nats-", "traceparent", "tracestate")


class Addressed(Protocol):
    """An agent, or its stand-in."""

    id: AgentId


Target = AgentId | Addressed


class Outgoing(Protocol):
    """What the runtime does with what a turn asks for. not_before: milliseconds since 1970, 0 for at once."""

    def send(
        self, target: AgentId, type_name: str, body: bytes, headers: Mapping[str, str], priority: int, not_before: int
    ) -> str: ...

    def publish(
        self, topic: TopicId, type_name: str, body: bytes, headers: Mapping[str, str], priority: int, not_before: int
    ) -> None: ...

    def cancel(self, target: AgentId, message_id: str) -> None: ...

    def set_timer(self, name: str, type_name: str, body: bytes, at: float, every: float, cron: str) -> None: ...

    def cancel_timer(self, name: str) -> None: ...

    def destroy(self) -> None: ...

    async def step(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...

    def wall(self) -> float: ...

    async def call(
        self, target: AgentId, type_name: str, body: bytes, timeout: float | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes]: ...

    async def query(
        self, target: AgentId, type_name: str, body: bytes, timeout: float | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes]: ...


class Context:
    """One turn. `send` and `publish` fill its outbox, which the commit makes true; `call` waits for an answer.

    id: of this agent; sender: None from outside; attempt: 1 at the first; deadline and created: seconds since 1970;
    idempotency_key: the same for every attempt of this turn, for calls to the outside world.
    """

    __slots__ = (
        "_outgoing",
        "attempt",
        "created",
        "deadline",
        "headers",
        "id",
        "is_call",
        "message_id",
        "sender",
        "topic",
    )

    def __init__(
        self,
        outgoing: Outgoing,
        *,
        id: AgentId,  # noqa: A002 - the field's own word
        sender: AgentId | None,
        topic: TopicId | None,
        message_id: str,
        attempt: int,
        deadline: float | None,
        created: float,
        headers: Mapping[str, str],
        is_call: bool,
    ) -> None:
        self._outgoing = outgoing
        self.id = id
        self.sender = sender
        self.topic = topic
        self.message_id = message_id
        self.attempt = attempt
        self.deadline = deadline
        self.created = created
        self.headers = headers
        self.is_call = is_call

    def end(self) -> None:
        """The turn is over: a task that the handler has left behind can send nothing any more, and hears so."""
        self._outgoing = _OVER

    @property
    def idempotency_key(self) -> str:
        return f"{self.message_id}/{self.id}"

    def send(
        self,
        target: Target,
        message: object,
        *,
        headers: Mapping[str, str] | None = None,
        priority: Priority = Priority.NORMAL,
        delay: float = 0.0,
        at: datetime | None = None,
    ) -> str:
        """Send to one agent when this turn commits, with the headers of our own message and these; return its id.

        priority: order holds among low and normal messages, and among high and urgent ones; delay: seconds from now,
        at: a time with its zone, one of the two, for a message that is handed over later. Raises UnknownAgentType,
        UnregisteredType, DecodeError naming the field, TooLarge, SpecError.
        """
        type_name, body = encode(message)
        not_before = later(self._outgoing.wall(), delay, at) if delay or at is not None else 0
        return self._outgoing.send(
            address(target), type_name, body, self._passed_on(headers), checked_priority(priority), not_before
        )

    def publish(
        self,
        topic: TopicId,
        message: object,
        *,
        headers: Mapping[str, str] | None = None,
        priority: Priority = Priority.NORMAL,
        delay: float = 0.0,
        at: datetime | None = None,
    ) -> None:
        """Send to every agent that hears the topic, but ourselves, when this turn commits. Otherwise as `send`."""
        if not isinstance(topic, TopicId):
            raise SpecError("topic", f"is a {type(topic).__name__}; give a TopicId, such as Topic('orders')('eu')")
        type_name, body = encode(message)
        not_before = later(self._outgoing.wall(), delay, at) if delay or at is not None else 0
        self._outgoing.publish(topic, type_name, body, self._passed_on(headers), checked_priority(priority), not_before)

    def cancel(self, target: Target, message_id: str) -> None:
        """Take back a message of `send` with a delay; nothing happens when it has been handed over already."""
        self._outgoing.cancel(address(target), message_id)

    def set_timer(
        self,
        name: str,
        message: object,
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        every: float = 0.0,
        cron: str = "",
    ) -> None:
        """Send `message` to this agent at a time, also while it sleeps; set when this turn commits.

        name: a timer of the same name is replaced. delay in seconds or at: the first time (default: after one
        `every`, or when `cron` says, in UTC); every: seconds between two, at least 1; cron: five fields. Occurrences
        that were missed are not made up for. Raises SpecError, and as `send`.
        """
        if not name or len(name.encode()) > MAX_TIMER_NAME:
            raise SpecError("timer", f"{name!r} must have 1 to {MAX_TIMER_NAME} bytes")
        if every and cron:
            raise SpecError("timer", "give `every` or `cron`, not both")
        if every and checked_seconds(every, "every") < 1.0:
            raise SpecError("every", f"is {every} s; give at least 1")
        now = self._outgoing.wall()
        first = later(now, delay, at) / 1000
        if not first:
            first = now + every if every else next_by_rule(cron, now) if cron else now
        type_name, body = encode(message)
        self._outgoing.set_timer(name, type_name, body, first, every, cron)

    def cancel_timer(self, name: str) -> None:
        """Take a timer back when this turn commits; nothing happens when there is none of that name."""
        self._outgoing.cancel_timer(name)

    def destroy(self) -> None:
        """End this agent with this turn: its state, timers and delayed messages go in one commit.

        A message that comes later finds a new agent.
        """
        self._outgoing.destroy()

    @overload
    async def step(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    async def step(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def step(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function once for all attempts of this turn: its result is saved before the turn goes on.

        The result's type is read from the function's annotation. Only if the process ends between the call and the
        save is it called again: give outside systems `idempotency_key`. Two steps of one function in a turn need
        `named_step`. What it raises is not saved. Raises SpecError, DecodeError, TooLarge.
        """
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return await self._outgoing.step(name, function, args, kwargs)

    @overload
    async def named_step(
        self, name: str, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    @overload
    async def named_step(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def named_step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As `step`, under a name of its own, unique in this turn."""
        return await self._outgoing.step(name, function, args, kwargs)

    async def call(
        self,
        target: Target,
        message: object,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Call another agent and return its answer, which comes after its commit.

        timeout: seconds; default is what is left of our own deadline, else 30. Raises UnknownAgentType,
        CallCycle, CallTimeout, CantHandle, HandlerFailed. A repeated turn makes the same calls and gets the same
        answers.
        """
        if timeout is not None:
            checked_seconds(timeout)
        type_name, body = encode(message)
        result_type, result = await self._outgoing.call(
            address(target), type_name, body, timeout, self._passed_on(headers)
        )
        return decode(result_type, result)

    async def query(
        self,
        target: Target,
        message: object,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask another agent's `@query` handler and return its answer: what it had committed when it answered.

        timeout: seconds, default 5, at most what is left of our own deadline. Raises UnknownAgentType, CallTimeout,
        CantHandle, HandlerFailed, Unreachable. A repeated turn may get another answer.
        """
        if timeout is not None:
            checked_seconds(timeout)
        type_name, body = encode(message)
        result_type, result = await self._outgoing.query(
            address(target), type_name, body, timeout, self._passed_on(headers)
        )
        return decode(result_type, result)

    def agent(self, cls: type[A], key: str) -> A:
        """Return a stand-in for an agent: its events are sent with this turn's commit, rpcs and queries are awaited."""
        return _stand_in()(self, cls, key)

    def _passed_on(self, headers: Mapping[str, str] | None) -> Mapping[str, str]:
        if not headers:
            return self.headers
        return _bounded({**self.headers, **checked_headers(headers)})


@cache
def _stand_in() -> Callable[[Context, type[A], str], A]:
    """What imports us cannot be imported above; the statement itself costs a microsecond each time."""
    from starling.proxies import stand_in

    return stand_in


class _Over:
    """Stands in a context for a turn that has ended."""

    def __getattr__(self, name: str) -> Any:
        raise SpecError(
            "ctx",
            f"`{name}` after the turn has ended would never be committed; await in the handler what uses ctx, "
            "or let it send to the agent from outside",
        )


_OVER: Final = cast("Outgoing", _Over())
MAX_TIMER_NAME: Final = 128


def later(now: float, delay: float, at: datetime | None) -> int:
    """Return when a message is to be handed over, milliseconds since 1970; 0 for at once. Raises SpecError."""
    if at is None:
        if not isinstance(delay, int | float) or not 0 <= delay < inf:
            raise SpecError("delay", f"is {delay!r} s; give 0 or more, and an end")
        return int((now + delay) * 1000) if delay else 0
    if delay:
        raise SpecError("delay", "give `delay` or `at`, not both")
    if at.tzinfo is None:
        raise SpecError("at", f"{at.isoformat()} has no time zone; write datetime(..., tzinfo=UTC)")
    return max(1, int(at.timestamp() * 1000))


NO_HEADERS: Final[Mapping[str, str]] = {}


def address(target: Target) -> AgentId:
    """Return the id of an agent or of its stand-in. Raises SpecError."""
    found = target if isinstance(target, AgentId) else getattr(target, "id", None)
    if not isinstance(found, AgentId):
        raise SpecError("target", f"is a {type(target).__name__}; give an AgentId or what `agent(Class, key)` returns")
    return found


def checked_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the user's headers. Raises SpecError for a reserved name, or what is not text, or too much of it."""
    if not headers:
        return NO_HEADERS
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise SpecError(f"headers.{name}", f"header names and values are text, not {type(value).__name__}")
        if name.lower().startswith(RESERVED_PREFIXES):
            raise SpecError(f"headers.{name}", f"names that start with {', '.join(RESERVED_PREFIXES)} are reserved")
    return _bounded(headers)


def _bounded(headers: Mapping[str, str]) -> Mapping[str, str]:
    size = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
    if size > limits.MAX_HEADERS:
        raise SpecError("headers", f"have {size} bytes, at most {limits.MAX_HEADERS}; put it into the message")
    return headers


def checked_priority(priority: int) -> int:
    """Return the priority. Raises SpecError for one that is none."""
    if type(priority) is Priority or (type(priority) is int and 0 <= priority < len(Priority)):
        return priority
    raise SpecError("priority", f"is {priority!r}; give one of {', '.join(f'Priority.{p.name}' for p in Priority)}")
