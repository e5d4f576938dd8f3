"""Agents: a class with typed state and handlers."""

from __future__ import annotations

import logging
import re
import typing
from collections.abc import Callable
from types import NoneType
from typing import Any, ClassVar, Final, Generic

from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import TypeVar

from starling.core.ids import AgentId, check_agent_type
from starling.errors import CantHandle, DecodeError, SpecError
from starling.handlers import Handler, Kind, handlers_of
from starling.messages import adapter_of, registry

State = TypeVar("State", default=None)

_STEP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Agent(Generic[State]):
    """Base of all agents: `class Airport(Agent[AirportState])`.

    The type name comes from the class name (`WeatherStation` is `weather_station`) unless `type = "…"` gives it.
    State is a pydantic model or a dataclass that can be made without arguments; without one an agent has none.
    """

    type: ClassVar[str]
    id: AgentId
    state: State

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "type" not in vars(cls):
            cls.type = _STEP.sub("_", cls.__name__).lower()
        check_agent_type(cls.type)
        definition(cls)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that says which agent speaks."""
        return logging.LoggerAdapter(logging.getLogger(f"starling.agents.{self.type}"), {"agent": str(self.id)})


class AgentDefinition:
    """What the runtime knows of an agent class."""

    __slots__ = (
        "_calls",
        "_dump",
        "_events",
        "_load",
        "_state",
        "cls",
        "handlers",
        "has_state",
        "state_version",
        "type",
    )

    def __init__(self, cls: type[Agent[Any]]) -> None:
        self.cls = cls
        self.type = cls.type
        self.state_version = 1
        self._state = _state_class(cls)
        self.has_state = self._state is not NoneType
        self._load: Callable[..., Any] | None = None
        self._dump: Callable[..., bytes] | None = None
        if self.has_state:
            adapter: TypeAdapter[Any] = adapter_of(self._state)
            self._load, self._dump = adapter.validator.validate_json, adapter.serializer.to_json
            self.new_state()
        self.handlers = handlers_of(cls)
        self._events: dict[str, Handler | None] = {}
        self._calls: dict[str, Handler | None] = {}

    def new_agent(self, agent_id: AgentId, state: Any) -> Agent[Any]:
        """Return an instance."""
        agent = self.cls()
        agent.id, agent.state = agent_id, state
        return agent

    def new_state(self) -> Any:
        """Return the state of an agent that has never been active. Raises SpecError."""
        try:
            return self._state() if self.has_state else None
        except (TypeError, ValidationError) as error:
            raise SpecError(
                self.cls.__qualname__, f"state {self._state.__name__} cannot be made without arguments: {error}"
            ) from error

    def dump_state(self, state: Any) -> bytes:
        """Return the state as stored. Raises DecodeError when a field holds what its type does not allow."""
        assert self._dump is not None
        try:
            return self._dump(state, warnings="error")
        except ValueError as error:
            raise DecodeError(f"state of {self.type}: {error}") from error

    def load_state(self, data: bytes) -> Any:
        """Raises DecodeError."""
        assert self._load is not None
        try:
            return self._load(data)
        except ValidationError as error:
            raise DecodeError(f"state of {self.type}: {error}") from error

    def find(self, type_name: str, body: bytes, is_call: bool, content_type: str = "") -> tuple[Handler, Any]:
        """Return the handler for a message, and the message. Raises CantHandle, UnregisteredType, DecodeError."""
        known = self._calls if is_call else self._events
        try:
            handler = known[type_name]
        except KeyError:
            handler = known[type_name] = self._search(type_name, is_call)
        if handler is None:
            raise CantHandle(f"{self.type} has no {'rpc' if is_call else 'event'} handler for {type_name!r}")
        codec = handler.codec
        if codec.name != type_name or content_type:
            codec = registry.codec(type_name, content_type)
        return handler, codec.load(body)

    def _search(self, type_name: str, is_call: bool) -> Handler | None:
        """The handler of the class itself, else of its nearest base; a call may go to an event, which answers None."""
        kinds = (Kind.RPC, Kind.EVENT) if is_call else (Kind.EVENT, Kind.RPC)
        for kind in kinds:
            by_class = {h.codec.cls: h for h in reversed(self.handlers.values()) if h.kind is kind}
            by_name = {h.codec.name: h for h in reversed(self.handlers.values()) if h.kind is kind}
            if type_name in by_name:
                return by_name[type_name]
            for base in registry.codec(type_name).cls.__mro__:
                if base in by_class:
                    return by_class[base]
        return None


def _state_class(cls: type[Agent[Any]]) -> type:
    for klass in cls.__mro__:
        for base in getattr(klass, "__orig_bases__", ()):
            if typing.get_origin(base) is Agent:
                state = typing.get_args(base)[0]
                if state in (None, NoneType):
                    return NoneType
                if isinstance(state, type) and (issubclass(state, BaseModel) or hasattr(state, "__dataclass_fields__")):
                    return state
                raise SpecError(cls.__qualname__, f"state {state!r} must be a pydantic model or a dataclass")
    return NoneType


def definition(cls: type[Agent[Any]]) -> AgentDefinition:
    """Return the definition of an agent class, made once."""
    made = vars(cls).get("__starling_definition__")
    if made is None:
        made = AgentDefinition(cls)
        cls.__starling_definition__ = made  # type: ignore[attr-defined]
    return typing.cast("AgentDefinition", made)
