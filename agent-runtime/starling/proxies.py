"""Stand-ins for agents: typed as the agent's class, sending where its methods would run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

from starling.agent import Agent, AgentDefinition, definition
from starling.core.envelope import known_agent
from starling.core.ids import AgentId
from starling.errors import SpecError
from starling.handlers import Kind

A = TypeVar("A", bound=Agent[Any])


class Messenger(Protocol):
    """What a stand-in speaks through: a turn's context or a client. Only a client's `send` is awaited."""

    def send(self, target: AgentId, message: object, /, *, headers: Mapping[str, str] | None = None) -> Any: ...

    def call(
        self,
        target: AgentId,
        message: object,
        /,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]: ...

    def query(
        self,
        target: AgentId,
        message: object,
        /,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]: ...


class _StandIn:
    """What the stand-ins of all classes have in common; that of one class has a method for each of its handlers."""

    __slots__ = ("_messenger", "id")

    _definition: ClassVar[AgentDefinition]

    def __init__(self, messenger: Messenger, key: str) -> None:
        self._messenger = messenger
        self.id = known_agent(self._definition.type, key)

    def __getattr__(self, name: str) -> Any:
        cls = self._definition.cls
        raise NoSuchHandler(f"{cls.__qualname__}.{name}", "is no handler; other agents are reached by messages only")

    def _send(self, message: object, /, **options: Any) -> Any:
        return self._messenger.send(self.id, message, **options)

    def _call(self, message: object, /, **options: Any) -> Coroutine[Any, Any, Any]:
        return self._messenger.call(self.id, message, **options)

    def _query(self, message: object, /, **options: Any) -> Coroutine[Any, Any, Any]:
        return self._messenger.query(self.id, message, **options)

    def __repr__(self) -> str:
        return f"<stand-in for {self.id}>"


class NoSuchHandler(SpecError, AttributeError):
    """A stand-in was asked for something that its agent's class does not handle."""


_METHODS: Final[Mapping[Kind, Callable[..., Any]]] = {
    Kind.EVENT: _StandIn._send,
    Kind.RPC: _StandIn._call,
    Kind.QUERY: _StandIn._query,
}


_classes: Final[dict[type, type[_StandIn]]] = {}


def _class_of(cls: type[Agent[Any]]) -> type[_StandIn]:
    """Made once for an agent class: to look a handler up for each message costs as much as to encode it."""
    made = definition(cls)
    methods = {name: _METHODS[handler.kind] for name, handler in made.handlers.items() if not hasattr(_StandIn, name)}
    return type(f"{cls.__name__}StandIn", (_StandIn,), {"__slots__": (), "_definition": made, **methods})


def stand_in(messenger: Messenger, cls: type[A], key: str) -> A:
    """Return a stand-in: rpcs are awaited calls, queries are awaited, events do what the messenger's `send` does."""
    try:
        made = _classes[cls]
    except (KeyError, TypeError):
        made = _classes[cls] = _class_of(cls)
    return cast("A", made(messenger, key))


client_proxy = stand_in
