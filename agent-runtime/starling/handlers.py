"""Handlers: methods of an agent that take one message, chosen by the message's type."""

from __future__ import annotations

import dis
import inspect
import typing
import warnings
from collections.abc import Callable, Coroutine
from enum import Enum
from types import FunctionType, NoneType
from typing import Any, Final, TypeVar

from starling.errors import HandlerFailed, SpecError
from starling.messages import Codec, registry

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "__starling_handler__"
_WAITS: Final = frozenset({"GET_AWAITABLE", "GET_AITER", "GET_ANEXT", "BEFORE_ASYNC_WITH", "YIELD_VALUE"})


class Kind(Enum):
    """What a handler is for."""

    EVENT = "event"
    RPC = "rpc"


class _Mark:
    def __init__(self, kind: Kind, match: Callable[[Any], bool] | None) -> None:
        self.kind = kind
        self.match = match


def event(method: F) -> F:
    """Take a message in: `async def moved(self, message: Movement, ctx: Context) -> None`."""
    return _marked(method, Kind.EVENT)


def rpc(method: F) -> F:
    """Take a message and answer: `async def report(self, message: Ask, ctx: Context) -> Report`."""
    return _marked(method, Kind.RPC)


def _marked(method: F, kind: Kind, match: Callable[[Any], bool] | None = None) -> F:
    name = getattr(method, "__qualname__", repr(method))
    if not inspect.iscoroutinefunction(method):
        raise SpecError(
            name,
            f"a handler must be `async def`, so that it never blocks the pod; @{kind.value} is on a plain function",
        )
    setattr(method, _MARK, _Mark(kind, match))
    return method


def suspends(function: Callable[..., Any]) -> bool:
    """Whether the coroutine can wait at all; True when that is not sure. One that cannot runs without a task."""
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return True
    seen = [i for i in dis.get_instructions(function) if i.opname in _WAITS]
    return bool(seen)


class Handler:
    """One handler of an agent class."""

    __slots__ = ("codec", "function", "kind", "name", "result", "result_class", "suspends", "with_context")

    def __init__(
        self, name: str, function: Callable[..., Any], mark: _Mark, message: type, result: Any, with_context: bool
    ) -> None:
        self.name = name
        self.function = function
        self.kind = mark.kind
        self.codec: Codec[Any] = registry.register(message)
        self.result_class = result
        self.result: Codec[Any] | None = registry.register(result) if mark.kind is Kind.RPC else None
        self.suspends = suspends(function)
        self.with_context = with_context

    def start(self, agent: Any, message: object, context: object) -> Coroutine[Any, Any, Any]:
        """Return the coroutine of one turn."""
        if self.with_context:
            return self.function(agent, message, context)  # type: ignore[no-any-return]
        return self.function(agent, message)  # type: ignore[no-any-return]

    def encode_result(self, value: object) -> tuple[str, bytes]:
        """Return type name and body of an answer. Raises HandlerFailed when it is not what the handler declares."""
        if self.result is None:
            return "none", b"null"
        if not isinstance(value, self.result_class):
            raise HandlerFailed(
                "WrongResult", f"{self.name} declares {self.result_class.__name__} and returned {type(value).__name__}"
            )
        codec = self.result if type(value) is self.result_class else registry.register(type(value))
        return codec.name, codec.dump(value)


def handlers_of(cls: type) -> dict[str, Handler]:
    """Return the class's handlers by method name, in fixed (sorted) order. Raises SpecError."""
    found: dict[str, Handler] = {}
    for name in sorted(dir(cls)):
        function = inspect.getattr_static(cls, name, None)
        mark = getattr(function, _MARK, None)
        if isinstance(mark, _Mark):
            found[name] = _handler(cls, name, typing.cast("Callable[..., Any]", function), mark)
    return found


def _handler(cls: type, name: str, function: Callable[..., Any], mark: _Mark) -> Handler:
    where = f"{cls.__qualname__}.{name}"
    positional = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) not in (2, 3):
        raise SpecError(where, "takes the message, and after it the context if it wants one")
    hints = _hints(cls, function, where)
    message = hints.get(positional[1].name)
    if message is None:
        raise SpecError(where, f"parameter {positional[1].name!r} needs the message's class as its annotation")
    result = hints.get("return", inspect.Signature.empty)
    if mark.kind is Kind.RPC and result is inspect.Signature.empty:
        raise SpecError(where, "an @rpc needs a return annotation: its answer's class, or None")
    if mark.kind is Kind.EVENT and result not in (None, NoneType, inspect.Signature.empty):
        warnings.warn(f"{where} is an @event: what it returns is not sent to anybody", stacklevel=5)
    return Handler(where, function, mark, message, NoneType if result is None else result, len(positional) == 3)


def _hints(cls: type, function: Callable[..., Any], where: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, localns={cls.__name__: cls})
    except NameError:
        return _hints_with_context(cls, function, where)


def _hints_with_context(cls: type, function: Callable[..., Any], where: str) -> dict[str, Any]:
    """The context is often imported for type checkers only; the message's class must be there at run time."""
    from starling.context import Context

    try:
        return typing.get_type_hints(function, localns={cls.__name__: cls, "Context": Context})
    except NameError as error:
        raise SpecError(where, f"annotation cannot be read: {error}; import the message's class at run time") from error
