"""Agents: a class with typed state and handlers."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import typing
from collections.abc import Mapping, MutableMapping
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, cast

from pydantic import ValidationError
from typing_extensions import TypeVar

from starling.codec import Codec
from starling.core.ids import AgentId, check_agent_type
from starling.dispatch import Dispatch, Handler, handlers_of
from starling.errors import CantHandle, DecodeError, SpecError
from starling.handlers import HandlerMethod, Kind
from starling.messages import is_record

if TYPE_CHECKING:
    from starling.context import Context

State = TypeVar("State", default=None)

_STEP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DEFINITION: Final = "__starling_definition__"


class Agent(Generic[State]):
    """Base of all agents: `class Airport(Agent[AirportState])`.

    The type name comes from the class name (`WeatherStation` is `weather_station`) unless the class says
    `type = "…"` or `class Airport(Agent[AirportState], type="…")`. State is a pydantic model or a dataclass that can
    be made without arguments; without one an agent has none. An `__init__` of its own takes no arguments and finds
    `id` and `state` there already; what it sets is forgotten whenever the agent leaves memory.
    """

    type: ClassVar[str]
    id: AgentId
    state: State

    def __init_subclass__(cls, *, type: str | None = None, **kwargs: Any) -> None:  # noqa: A002
        super().__init_subclass__(**kwargs)
        _define(cls, type, sys._getframe(1).f_locals)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that says which agent speaks."""
        return _AgentLog(logging.getLogger(f"starling.agents.{self.id.type}"), {"agent": str(self.id)})

    async def on_unhandled(self, message: object, ctx: Context) -> None:
        """Called with an event that no handler takes; unless overridden it becomes a dead letter."""
        raise CantHandle(f"{self.id.type} has no handler that takes {message.__class__.__name__}")


class _AgentLog(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class AgentDefinition:
    """What a runtime knows of an agent class. handlers: by method name, sorted."""

    __slots__ = ("_state", "_state_codec", "cls", "find", "handlers", "has_state", "state_version", "type")

    def __init__(self, cls: type[Agent[Any]], state: type, local_names: Mapping[str, Any]) -> None:
        self.cls = cls
        self.type = cls.type
        self.state_version = 1
        self.has_state = state is not NoneType
        self._state = state
        self._state_codec = Codec(f"state of {cls.type}", state, limit=None)
        self.handlers = handlers_of(cls, local_names)
        self.find = Dispatch(self.type, self.handlers, _on_unhandled(cls)).find
        """Chooses the handler for a message and decodes it; see `Dispatch.find`."""
        _check_init(cls)
        self.new_state()

    def new_agent(self, agent_id: AgentId, state: Any) -> Agent[Any]:
        """Return an instance. Raises what the class's own `__init__` raises."""
        agent = self.cls.__new__(self.cls)
        agent.id, agent.state = agent_id, state
        agent.__init__()  # type: ignore[misc]
        return agent

    def new_state(self) -> Any:
        """Return the state of an agent that has never been active, None if it has no state. Raises SpecError."""
        if not self.has_state:
            return None
        try:
            return self._state()
        except (TypeError, ValidationError) as error:
            raise SpecError(
                self.cls.__qualname__,
                f"state {self._state.__name__} needs a default for every field ({error})",
            ) from error

    def dump_state(self, state: Any) -> bytes:
        """Return the state as stored. Raises DecodeError when it could not be loaded again as it is."""
        if type(state) is not self._state:
            raise DecodeError(f"state of {self.type}: is a {type(state).__name__}, not a {self._state.__name__}")
        return self._state_codec.dump(state)

    def load_state(self, data: bytes) -> Any:
        """Raises DecodeError."""
        return self._state_codec.load(data)


def definition(cls: type[Agent[Any]]) -> AgentDefinition:
    """Return the definition of an agent class, the same one each time. Raises SpecError."""
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        raise SpecError("agent", f"{cls!r} is not an Agent class")
    made = vars(cls).get(_DEFINITION)
    if made is None:
        raise SpecError(cls.__qualname__, "is a base class: its state is not given yet")
    return cast("AgentDefinition", made)


def _define(cls: type[Agent[Any]], given: str | None, local_names: Mapping[str, Any]) -> None:
    own = vars(cls).get("type")
    if given is not None and own is not None and given != own:
        raise SpecError(cls.__qualname__, f"has two types, {given!r} and {own!r}; give one")
    wanted: object = given if given is not None else own
    if not isinstance(wanted, str | None):
        raise SpecError(f"{cls.__qualname__}.type", f"must be text, the agent's type name, not {wanted!r}")
    cls.type = wanted if wanted is not None else _STEP.sub("_", cls.__name__).lower()
    try:
        check_agent_type(cls.type)
    except SpecError as error:
        raise SpecError(f"{cls.__qualname__}.type", error.problem) from error
    state = _state_class(cls)
    if state is not None:
        setattr(cls, _DEFINITION, AgentDefinition(cls, state, {**local_names, cls.__name__: cls}))


def _state_class(cls: type[Agent[Any]]) -> type | None:
    """NoneType for an agent without state; None for a base class that leaves it open."""
    if getattr(cls, "__parameters__", ()):
        return None
    state = _state_argument(cls)
    if state in (None, NoneType):
        return NoneType
    if isinstance(state, type) and is_record(state):
        return state
    raise SpecError(cls.__qualname__, f"state {state!r} must be a pydantic model or a dataclass, or be left out")


def _state_argument(cls: type) -> Any:
    """What stands for Agent's State, through any generic base classes in between."""
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = typing.get_origin(base) or base
        if origin is Agent:
            return typing.get_args(base)[0] if typing.get_args(base) else None
        if isinstance(origin, type) and issubclass(origin, Agent):
            known = dict(zip(getattr(origin, "__parameters__", ()), typing.get_args(base), strict=False))
            state = _state_argument(origin)
            return known.get(state, state) if isinstance(state, typing.TypeVar) else state
    return None


def _on_unhandled(cls: type[Agent[Any]]) -> Handler | None:
    if cls.on_unhandled is Agent.on_unhandled:
        return None
    method = HandlerMethod(cls.on_unhandled, Kind.EVENT, None)
    return Handler(f"{cls.__qualname__}.on_unhandled", method, messages=(), results={}, with_context=True)


def _check_init(cls: type[Agent[Any]]) -> None:
    if cls.__init__ is object.__init__:
        return
    needed = [
        p.name
        for p in list(inspect.signature(cls.__init__).parameters.values())[1:]
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise SpecError(f"{cls.__qualname__}.__init__", f"takes no arguments; {needed[0]!r} has nobody to give it")
