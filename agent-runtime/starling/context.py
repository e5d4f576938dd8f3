"""What a handler knows of its message, and what it may do beside changing its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from starling.core.ids import AgentId, TopicId
from starling.errors import SpecError
from starling.messages import decode, encode

if TYPE_CHECKING:
    from starling.agent import Agent

A = TypeVar("A", bound="Agent[Any]")

RESERVED_PREFIXES: Final = ("st-", "nats-", "traceparent", "tracestate")


class Addressed(Protocol):
    """An agent, or its stand-in."""

    id: AgentId


Target = AgentId | Addressed


class Outgoing(Protocol):
    """What the runtime does with what a turn sends."""

    def send(self, target: AgentId, type_name: str, body: bytes, headers: Mapping[str, str]) -> None: ...

    def publish(self, topic: TopicId, type_name: str, body: bytes, headers: Mapping[str, str]) -> None: ...

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

    @property
    def idempotency_key(self) -> str:
        return f"{self.message_id}/{self.id}"

    def send(self, target: Target, message: object, *, headers: Mapping[str, str] | None = None) -> None:
        """Send to one agent when this turn commits, with the headers of our own message and these.

        Raises UnknownAgentType, UnregisteredType, DecodeError naming the field, TooLarge, SpecError.
        """
        type_name, body = encode(message)
        self._outgoing.send(address(target), type_name, body, self._passed_on(headers))

    def publish(self, topic: TopicId, message: object, *, headers: Mapping[str, str] | None = None) -> None:
        """Send to every agent that hears the topic, but ourselves, when this turn commits. Otherwise as `send`."""
        type_name, body = encode(message)
        self._outgoing.publish(topic, type_name, body, self._passed_on(headers))

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
        CallCycle, CallTimeout, CantHandle, HandlerFailed. Overtakes what this turn has sent and not committed.
        """
        if timeout is not None and not timeout > 0:
            raise SpecError("timeout", f"is {timeout!r} s; give more than 0, or None for the default")
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
        if timeout is not None and not timeout > 0:
            raise SpecError("timeout", f"is {timeout!r} s; give more than 0, or None for the default")
        type_name, body = encode(message)
        result_type, result = await self._outgoing.query(
            address(target), type_name, body, timeout, self._passed_on(headers)
        )
        return decode(result_type, result)

    def agent(self, cls: type[A], key: str) -> A:
        """Return a stand-in for an agent: its events are sent with this turn's commit, rpcs and queries are awaited."""
        from starling.proxies import stand_in

        return stand_in(self, cls, key)

    def _passed_on(self, headers: Mapping[str, str] | None) -> Mapping[str, str]:
        own = checked_headers(headers)
        return {**self.headers, **own} if own else self.headers


NO_HEADERS: Final[Mapping[str, str]] = {}


def address(target: Target) -> AgentId:
    """Return the id of an agent or of its stand-in. Raises SpecError."""
    found = target if isinstance(target, AgentId) else getattr(target, "id", None)
    if not isinstance(found, AgentId):
        raise SpecError("target", f"is a {type(target).__name__}; give an AgentId or what `agent(Class, key)` returns")
    return found


def checked_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the user's headers. Raises SpecError for a reserved name, or what is not text."""
    if not headers:
        return NO_HEADERS
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise SpecError(f"headers.{name}", f"header names and values are text, not {type(value).__name__}")
        if name.lower().startswith(RESERVED_PREFIXES):
            raise SpecError(f"headers.{name}", f"names that start with {', '.join(RESERVED_PREFIXES)} are reserved")
    return headers
