"""Stand-ins for agents: typed as the agent's class, sending where its methods would run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from starling.agent import Agent, definition
from starling.core.ids import AgentId
from starling.errors import SpecError
from starling.handlers import Kind

if TYPE_CHECKING:
    from starling.context import Context

A = TypeVar("A", bound=Agent[Any])


class Calling(Protocol):
    """What a stand-in needs of its context or client."""

    def call(
        self,
        target: AgentId,
        message: object,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]: ...


class _Proxy:
    def __init__(self, cls: type[Agent[Any]], key: str, call: Callable[..., Any], send: Callable[..., Any]) -> None:
        self._cls = cls
        self._target = AgentId(cls.type, key)
        self._call = call
        self._send = send

    def __getattr__(self, name: str) -> Callable[..., Any]:
        handler = definition(self._cls).handlers.get(name)
        if handler is None:
            raise SpecError(f"{self._cls.__qualname__}.{name}", "is no handler; agents are reached by messages only")
        act = self._call if handler.kind is Kind.RPC else self._send

        def message(value: object, *_: object, **options: Any) -> Any:
            return act(self._target, value, **options)

        return message


def turn_proxy(context: Context, cls: type[A], key: str) -> A:
    """Return a stand-in whose events go with the turn's commit and whose rpcs are awaited calls."""
    return cast("A", _Proxy(cls, key, context.call, context.send))


def client_proxy(mesh: Any, cls: type[A], key: str) -> A:
    """Return a stand-in for use outside of agents: events and rpcs are both awaited."""
    return cast("A", _Proxy(cls, key, mesh.call, mesh.send))
