"""Stand-ins for agents: typed as the agent's class, sending where its methods would run."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from starling.agent import Agent, definition
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
    __slots__ = ("_definition", "_messenger", "id")

    def __init__(self, messenger: Messenger, cls: type[Agent[Any]], key: str) -> None:
        self._messenger = messenger
        self._definition = definition(cls)
        self.id = known_agent(self._definition.type, key)

    def __getattr__(self, name: str) -> Any:
        handler = self._definition.handlers.get(name)
        if handler is None:
            cls = self._definition.cls
            raise NoSuchHandler(
                f"{cls.__qualname__}.{name}", "is no handler; other agents are reached by messages only"
            )
        messenger = self._messenger
        if handler.kind is Kind.EVENT:
            act: Any = messenger.send
        else:
            act = messenger.call if handler.kind is Kind.RPC else messenger.query
        return partial(act, self.id)

    def __repr__(self) -> str:
        return f"<stand-in for {self.id}>"


class NoSuchHandler(SpecError, AttributeError):
    """A stand-in was asked for something that its agent's class does not handle."""


def stand_in(messenger: Messenger, cls: type[A], key: str) -> A:
    """Return a stand-in: rpcs are awaited calls, queries are awaited, events do what the messenger's `send` does."""
    return cast("A", _StandIn(messenger, cls, key))


client_proxy = stand_in
