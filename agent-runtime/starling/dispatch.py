"""What a runtime does with handlers: read them off a class, choose one for a message, start it, encode its answer."""

from __future__ import annotations

import dis
import inspect
import logging
import typing
import warnings
from collections.abc import Callable, Coroutine, Mapping
from types import FunctionType, NoneType, SimpleNamespace, UnionType
from typing import Any, Final, NamedTuple

from starling.codec import Codec
from starling.errors import CantHandle, HandlerFailed, MessageError, SpecError
from starling.handlers import HandlerMethod, Kind
from starling.messages import JSON, PLAIN, registry

log = logging.getLogger(__name__)

_WAITS: Final = frozenset({"GET_AWAITABLE", "GET_AITER", "GET_ANEXT", "BEFORE_ASYNC_WITH", "SEND", "YIELD_VALUE"})
_TAKEN_NAMES: Final = frozenset(
    {"id", "log", "state", "type", "on_activate", "on_close", "on_passivate", "on_unhandled"}
)
_WARNING_LEVEL: Final = 6  # from warnings.warn up to the class statement


def suspends(function: Callable[..., Any]) -> bool:
    """Whether the coroutine can wait at all; True when that is not sure. One that cannot runs without a task."""
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return True
    return any(instruction.opname in _WAITS for instruction in dis.get_instructions(function))


class Handler:
    """One handler of an agent class. messages: the classes that it names; results: class to codec of its answers."""

    __slots__ = ("attempts", "kind", "match", "messages", "name", "results", "start", "suspends", "with_context")

    def __init__(
        self,
        name: str,
        method: HandlerMethod,
        *,
        messages: tuple[Codec, ...],
        results: Mapping[Any, Codec],
        with_context: bool,
        has_cells: bool = False,
    ) -> None:
        self.name = name
        self.kind = method.kind
        self.attempts = method.attempts
        self.match = method.match
        self.messages = messages
        self.results = results
        self.with_context = with_context
        self.suspends = has_cells or suspends(method.function)
        function = method.function
        self.start: Callable[[Any, Any, Any], Coroutine[Any, Any, Any]] = (
            function if with_context else lambda agent, message, _: function(agent, message)
        )
        """Returns the coroutine of one turn: agent, message, context."""

    def encode_result(self, value: object) -> tuple[str, bytes]:
        """Return type name and body of an answer.

        Raises HandlerFailed when it is not what the handler declares, DecodeError when a field does not fit.
        """
        codec, value = self._answer(value)
        return codec.name, codec.dump(value)

    def copied_result(self, value: object) -> tuple[bytes, Any]:
        """Return an answer's body, and the answer as its caller gets it. Raises as `encode_result`."""
        codec, value = self._answer(value)
        return codec.copied(value)

    def _answer(self, value: object) -> tuple[Codec, object]:
        if self.kind is Kind.EVENT:
            self.drop_result(value)
            value = None
        return self.results.get(type(value)) or self._subclass(type(value)), value

    def finish(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what a coroutine of `start` returns that cannot wait."""
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        coroutine.close()
        raise RuntimeError(f"{self.name} waited although nothing in it can")

    def drop_result(self, value: object) -> None:
        """Take what the handler returned to a message that nobody waits for; an event should not have answered."""
        if value is not None and self.kind is Kind.EVENT:
            log.warning("an @event returned a value, which nobody gets", extra={"handler": self.name})

    def _subclass(self, cls: type) -> Codec:
        if cls not in PLAIN and any(base in self.results for base in cls.__mro__):
            return registry.register(cls)
        declared = " or ".join(codec.name for codec in self.results.values())
        raise HandlerFailed("WrongResult", f"{self.name} declares {declared} and returned {cls.__name__}")


class _Route(NamedTuple):
    """Where messages of one type name go: to the only handler, else to the first of `choices` that says so."""

    codec: Codec
    only: Handler | None
    choices: tuple[Handler, ...]


class Dispatch:
    """Chooses the handler: by the message's class, then its bases; of one class in the order that `event` tells."""

    def __init__(self, agent_type: str, handlers: Mapping[str, Handler], otherwise: Handler | None) -> None:
        self._agent_type = agent_type
        self._handlers = tuple(handlers.values())
        self._otherwise = otherwise
        self._events: dict[str, _Route] = {}
        self._calls: dict[str, _Route] = {}
        self._queries: dict[str, _Route] = {}

    def find(self, type_name: str, body: bytes, is_call: bool, content_type: str = JSON) -> tuple[Handler, Any]:
        """Return the handler for a message, and the message. Raises CantHandle, UnregisteredType, DecodeError."""
        known, kinds = (self._calls, _CALL) if is_call else (self._events, _EVENT)
        route = known.get(type_name)
        if route is not None and route.only is not None and not content_type:  # nearly always
            return route.only, route.codec.load(body)
        return self._find(known, kinds, type_name, body, content_type)

    def find_query(self, type_name: str, body: bytes, content_type: str = JSON) -> tuple[Handler, Any]:
        """Return the query handler for a message, and the message. Raises as `find`."""
        return self._find(self._queries, _QUERY, type_name, body, content_type)

    def only_call_handler(self, codec: Codec) -> Handler | None:
        """Return who takes every call with such a message; None when nobody does, or what it holds decides."""
        route = self._calls.get(codec.name)
        if route is None:
            try:
                route = self._calls[codec.name] = self._route(codec, _CALL)
            except CantHandle:
                return None
        return route.only if route.codec is codec else None

    def call_attempts(self, type_name: str) -> int:
        """Return how often a call with such a message runs at most, as far as that is known without reading it."""
        route = self._calls.get(type_name)
        if route is None:
            try:
                route = self._route(registry.codec(type_name, JSON), _CALL)
            except MessageError:
                return 1
        return max((handler.attempts for handler in route.choices), default=1)

    def _find(
        self, known: dict[str, _Route], kinds: tuple[Kind, ...], type_name: str, body: bytes, content_type: str
    ) -> tuple[Handler, Any]:
        route = known.get(type_name)
        if route is None or content_type:
            codec = registry.codec(type_name, content_type)
            route = known[type_name] = self._route(codec, kinds)
        message = route.codec.load(body)
        if route.only is not None:
            return route.only, message
        for handler in route.choices:
            if handler.match is None or handler.match(message):
                return handler, message
        raise CantHandle(f"no handler of {self._agent_type} takes this {type_name}: none of their `match` says so")

    def _route(self, codec: Codec, kinds: tuple[Kind, ...]) -> _Route:
        for kind in kinds:
            if choices := self._choices(codec, kind):
                return _Route(codec, choices[0] if choices[0].match is None else None, tuple(choices))
        if self._otherwise is not None and kinds is _EVENT:
            return _Route(codec, self._otherwise, ())
        problem = f"{self._agent_type} has no handler that takes {codec.name}"
        if kinds is _QUERY and (others := self._choices(codec, Kind.RPC) or self._choices(codec, Kind.EVENT)):
            raise CantHandle(f"{problem} as a query; {others[0].name} is an @{others[0].kind.value}")
        if kinds is not _QUERY and (others := self._choices(codec, Kind.QUERY)):
            raise CantHandle(f"{problem} through the log; {others[0].name} is a @query: ask it by `query`")
        raise CantHandle(problem)

    def _choices(self, codec: Codec, kind: Kind) -> list[Handler]:
        bases = (codec.cls,) if codec.cls in PLAIN or not isinstance(codec.cls, type) else codec.cls.__mro__
        handlers = [h for h in self._handlers if h.kind is kind]
        return [h for base in bases for h in _of_class(handlers, base)]


_EVENT: Final = (Kind.EVENT, Kind.RPC)
_CALL: Final = (Kind.RPC, Kind.EVENT)
_QUERY: Final = (Kind.QUERY,)


def _of_class(handlers: list[Handler], cls: Any) -> list[Handler]:
    """The handlers that name this class: those with `match` by name, then the one without."""
    return sorted(
        (h for h in handlers if any(codec.cls is cls for codec in h.messages)),
        key=lambda h: (h.match is None, h.name),
    )


def handlers_of(cls: type, local_names: Mapping[str, Any], *, has_cells: bool = False) -> dict[str, Handler]:
    """Return the class's handlers by method name, sorted. local_names: what its annotations may name beside globals.

    has_cells: the end of a turn may read, so that each turn has a task. Raises SpecError.
    """
    found: dict[str, Handler] = {}
    for name in sorted(dir(cls)):
        method = inspect.getattr_static(cls, name, None)
        if isinstance(method, HandlerMethod):
            found[name] = _handler(cls, name, method, local_names, has_cells)
        else:
            _check_hidden(cls, name, method)
    _check_unambiguous(cls, found)
    return found


def _check_hidden(cls: type, name: str, method: object) -> None:
    where = f"{cls.__qualname__}.{name}"
    if isinstance(getattr(method, "__wrapped__", None), HandlerMethod):
        raise SpecError(where, "@event, @rpc and @query go above other decorators, else it is no handler")
    if any(isinstance(vars(base).get(name), HandlerMethod) for base in cls.__mro__):
        raise SpecError(where, "takes the place of a handler without being one; decorate it as well")


def _check_unambiguous(cls: type, handlers: Mapping[str, Handler]) -> None:
    taken: dict[tuple[Kind, Any], str] = {}
    for name, handler in handlers.items():
        for codec in handler.messages if handler.match is None else ():
            other = taken.setdefault((handler.kind, codec.cls), name)
            if other != name:
                raise SpecError(
                    f"{cls.__qualname__}.{name}",
                    f"takes {codec.name} as {other!r} does; give one of them a `match`, or join them",
                )


_ARTICLE: Final = {Kind.EVENT: "an @event", Kind.RPC: "an @rpc", Kind.QUERY: "a @query"}


def _handler(cls: type, name: str, method: HandlerMethod, local_names: Mapping[str, Any], has_cells: bool) -> Handler:
    where = f"{cls.__qualname__}.{name}"
    if name in _TAKEN_NAMES:
        raise SpecError(where, "is a name that every agent has already; name the handler otherwise")
    parameters = _parameters(where, method.function)
    annotations = {p.name: p.annotation for p in parameters}
    message = _read(where, annotations[parameters[0].name], parameters[0].name, method.function, local_names)
    result = _read(where, inspect.signature(method.function).return_annotation, "return", method.function, local_names)
    if method.kind is not Kind.EVENT and result is inspect.Signature.empty:
        raise SpecError(where, f"{_ARTICLE[method.kind]} needs a return annotation: the class of its answer, or None")
    if method.kind is Kind.EVENT and result not in (NoneType, inspect.Signature.empty):
        warnings.warn(
            f"{where} is an @event: nobody gets what it returns; make it an @rpc, or let it return None",
            stacklevel=_WARNING_LEVEL,
        )
    return Handler(
        where,
        method,
        messages=_messages(where, parameters[0].name, message),
        results=_results(where, NoneType if method.kind is Kind.EVENT else result),
        with_context=len(parameters) > 1,
        has_cells=has_cells,
    )


def _parameters(where: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The message's parameter, and the context's if there is one, whatever they are called."""
    every = list(inspect.signature(function).parameters.values())[1:]
    given = [p for p in every if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in every if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not given or len([p for p in needed if p not in given[:2]]) > 0:
        raise SpecError(where, "a handler takes the message, and after it the context if it wants one; nothing else")
    return [p for n, p in enumerate(given[:2]) if n == 0 or p.default is p.empty]


def _read(where: str, annotation: Any, name: str, function: Callable[..., Any], local_names: Mapping[str, Any]) -> Any:
    """Return what an annotation stands for. The context's is never read: it may be imported for type checkers only."""
    if annotation is inspect.Parameter.empty:
        return annotation
    holder = SimpleNamespace(__annotations__={name: annotation})
    try:
        hints = typing.get_type_hints(holder, inspect.unwrap(function).__globals__, dict(local_names))
    except (NameError, TypeError, SyntaxError) as error:
        raise SpecError(
            where, f"the annotation of {name!r} cannot be read ({error}); define or import the class above the agent"
        ) from error
    return hints[name]


def _messages(where: str, name: str, annotation: Any) -> tuple[Codec, ...]:
    if annotation is inspect.Parameter.empty:
        raise SpecError(where, f"parameter {name!r} needs the message's class as its annotation")
    if any(typing.get_origin(one) is not None for one in _members(annotation)):
        raise SpecError(where, f"parameter {name!r} is {annotation}; a message needs a class of its own")
    return tuple(_registered(where, one) for one in _members(annotation))


def _results(where: str, annotation: Any) -> dict[Any, Codec]:
    found: dict[Any, Codec] = {}
    for one in _members(annotation):
        cls = typing.get_origin(one) or one
        if found.setdefault(cls, codec := _registered(where, one)) is not codec:
            raise SpecError(where, f"answers two kinds of {cls.__name__}; make message classes of them")
    return found


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _registered(where: str, cls: Any) -> Codec:
    try:
        return registry.register(cls)
    except SpecError as error:
        raise SpecError(where, error.problem) from error
