"""Handlers: methods of an agent that take one message, chosen by the message's class.

`@event` takes in, `@rpc` answers, `@query` answers without the log. Seen from a turn or from outside, a handler is
what one says to the agent:
`await ctx.agent(Weather, key).now(Now(), timeout=2.0)`; the types below let type checkers follow that.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum
from types import MethodType, NoneType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast, overload

from starling.errors import SpecError

if TYPE_CHECKING:
    from starling.context import Context

M = TypeVar("M")
R = TypeVar("R")
M_contra = TypeVar("M_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Match = Callable[[Any], bool]


class Kind(Enum):
    """What a handler is for."""

    EVENT = "event"
    RPC = "rpc"
    QUERY = "query"


class RpcCall(Protocol[M_contra, R_co]):
    """Rpc or query: with options on a stand-in, with its context on the agent (`super().report(message, ctx)`)."""

    @overload
    def __call__(self, message: M_contra, ctx: Context, /) -> Coroutine[Any, Any, R_co]: ...
    @overload
    def __call__(
        self, message: M_contra, /, *, timeout: float | None = None, headers: Mapping[str, str] | None = None
    ) -> Coroutine[Any, Any, R_co]: ...


class EventSend(Protocol[M_contra]):
    """An event: a plain call on a turn's stand-in, awaited on a client's; with the context on the agent itself."""

    @overload
    def __call__(self, message: M_contra, ctx: Context, /) -> Coroutine[Any, Any, None]: ...
    @overload
    def __call__(self, message: M_contra, /, *, headers: Mapping[str, str] | None = None) -> Any: ...


class HandlerMethod:
    """A method that a decorator has made a handler."""

    def __init__(self, function: Callable[..., Any], kind: Kind, match: Match | None, attempts: int = 1) -> None:
        functools.update_wrapper(cast("Callable[..., Any]", self), function)
        self.function = function
        self.kind = kind
        self.match = match
        self.attempts = attempts
        name = getattr(function, "__qualname__", repr(function))
        if type(attempts) is not int or attempts < 1:
            raise SpecError(f"{name}.attempts", f"is {attempts!r}; give a whole number from 1 on (@{kind.value})")
        if not inspect.iscoroutinefunction(function):
            raise SpecError(name, f"a handler must be `async def`, so that it never blocks the pod (@{kind.value})")

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self.function, instance)


class RpcMethod(HandlerMethod, Generic[M_contra, R_co]):
    """What `@rpc` makes."""

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type | None = None) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: type | None = None) -> RpcCall[M_contra, R_co]: ...
        def __get__(self, instance: object | None, owner: type | None = None) -> Any: ...


class QueryMethod(RpcMethod[M_contra, R_co]):
    """What `@query` makes."""


class EventMethod(HandlerMethod, Generic[M_contra]):
    """What `@event` makes."""

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type | None = None) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: type | None = None) -> EventSend[M_contra]: ...
        def __get__(self, instance: object | None, owner: type | None = None) -> Any: ...


class _MakesRpc(Protocol):
    @overload
    def __call__(self, method: Callable[[Any, M, Context], Coroutine[Any, Any, R]], /) -> RpcMethod[M, R]: ...
    @overload
    def __call__(self, method: Callable[[Any, M], Coroutine[Any, Any, R]], /) -> RpcMethod[M, R]: ...


class _MakesQuery(Protocol):
    @overload
    def __call__(self, method: Callable[[Any, M, Context], Coroutine[Any, Any, R]], /) -> QueryMethod[M, R]: ...
    @overload
    def __call__(self, method: Callable[[Any, M], Coroutine[Any, Any, R]], /) -> QueryMethod[M, R]: ...


class _MakesEvent(Protocol):
    @overload
    def __call__(self, method: Callable[[Any, M, Context], Coroutine[Any, Any, Any]], /) -> EventMethod[M]: ...
    @overload
    def __call__(self, method: Callable[[Any, M], Coroutine[Any, Any, Any]], /) -> EventMethod[M]: ...


@overload
def rpc(method: Callable[[Any, M, Context], Coroutine[Any, Any, R]], /) -> RpcMethod[M, R]: ...
@overload
def rpc(method: Callable[[Any, M], Coroutine[Any, Any, R]], /) -> RpcMethod[M, R]: ...
@overload
def rpc(*, match: Match | None = None, attempts: int = 1) -> _MakesRpc: ...
def rpc(method: Any = None, /, *, match: Match | None = None, attempts: int = 1) -> Any:
    """Take a message and answer: `async def report(self, message: Ask, ctx: Context) -> Report`.

    attempts: how often it runs at most for a call, while the caller's deadline is not over. The pauses and the errors
    that are tried again are those of the pool's delivery policy. With 1 the caller gets the first error.
    match: takes the message only if this says so; see `event`. A message that is sent instead of called is taken
    as well, and what the handler returns is dropped.
    """
    return _made(RpcMethod, Kind.RPC, method, match, attempts)


@overload
def query(method: Callable[[Any, M, Context], Coroutine[Any, Any, R]], /) -> QueryMethod[M, R]: ...
@overload
def query(method: Callable[[Any, M], Coroutine[Any, Any, R]], /) -> QueryMethod[M, R]: ...
@overload
def query(*, match: Match) -> _MakesQuery: ...
def query(method: Any = None, /, *, match: Match | None = None) -> Any:
    """Answer from what is committed, without the log: `async def total(self, message: Ask) -> Total`.

    It changes nothing and sends nothing; the caller gets an error if it does. It may run while a turn of the agent
    runs, on an instance of its own: what it needs is in `state`, in cells, or set by `__init__`. The answer may be as
    old as the last commit that the asked pod knows of. match: as in `event`.
    """
    return _made(QueryMethod, Kind.QUERY, method, match)


@overload
def event(method: Callable[[Any, M, Context], Coroutine[Any, Any, Any]], /) -> EventMethod[M]: ...
@overload
def event(method: Callable[[Any, M], Coroutine[Any, Any, Any]], /) -> EventMethod[M]: ...
@overload
def event(*, match: Match) -> _MakesEvent: ...
def event(method: Any = None, /, *, match: Match | None = None) -> Any:
    """Take a message in: `async def moved(self, message: Movement, ctx: Context) -> None`; the context may be left out.

    match: takes the message only if this says so. Among handlers of one class those with `match` are asked first, in
    the order of their names; then comes the one without, then the handlers of the message's base classes.
    A caller gets None once the turn is committed.
    """
    return _made(EventMethod, Kind.EVENT, method, match)


@overload
def message_handler(method: Callable[..., Coroutine[Any, Any, Any]], /) -> HandlerMethod: ...
@overload
def message_handler(*, match: Match) -> Callable[[Callable[..., Coroutine[Any, Any, Any]]], HandlerMethod]: ...
def message_handler(method: Any = None, /, *, match: Match | None = None) -> Any:
    """Be `@rpc` if the method is annotated with what it answers, else `@event`. Type checkers follow those two only."""
    if method is None:
        return functools.partial(message_handler, match=match)
    if getattr(method, "__annotations__", {}).get("return") in (None, NoneType, "None"):
        return _made(EventMethod, Kind.EVENT, method, match)
    return _made(RpcMethod, Kind.RPC, method, match)


def _made(cls: type[HandlerMethod], kind: Kind, method: Any, match: Match | None, attempts: int = 1) -> Any:
    if method is not None:
        return cls(method, kind, match, attempts)
    return lambda function: cls(function, kind, match, attempts)
