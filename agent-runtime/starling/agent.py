"""Agents: a class with typed state and handlers."""

from __future__ import annotations

import copy
import inspect
import logging
import re
import sys
import typing
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, cast

from pydantic import ValidationError
from typing_extensions import TypeVar

from starling.codec import Codec
from starling.core import limits
from starling.core.ids import AgentId, check_agent_type
from starling.dispatch import Dispatch, Handler, handlers_of
from starling.error_hooks import error_hooks_of
from starling.errors import AgentConstructionError, CantHandle, DecodeError, SpecError, StateUnreadable
from starling.handlers import HandlerMethod, Kind
from starling.messages import is_record
from starling.migrations import migrations_of
from starling.named_cells import CellSet, cell_fields_of, give_cells

if TYPE_CHECKING:
    from starling.context import Context

State = TypeVar("State", default=None)

_STEP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DEFINITION: Final = "__starling_definition__"
_OPTIONS: Final = "__starling_options__"
_HOOKS: Final = ("on_activate", "on_passivate", "on_close")


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How agents of a type are kept. idle: seconds without a message after which one leaves memory, inf for never.

    durability "none": turns are not recorded, so that state is lost with the instance; ordered: whether the
    messages of an agent wait while an earlier one waits for its next attempt.
    """

    version: int = 1
    durability: str = "committed"
    ordered: bool = True
    idle: float = limits.PASSIVATION_IDLE
    max_active: int | None = None
    """How many agents of the type a process keeps in memory; None: only the pod's own limit holds."""

    def checked(self, where: str) -> AgentOptions:
        """Raises SpecError naming the option."""
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise SpecError(f"{where}.version", f"is {self.version!r}; give a whole number, 1 or more")
        if self.durability not in ("committed", "none"):
            raise SpecError(f"{where}.durability", f"is {self.durability!r}; give 'committed' or 'none'")
        if not isinstance(self.ordered, bool):
            raise SpecError(f"{where}.ordered", f"is {self.ordered!r}; give True or False")
        if not isinstance(self.idle, int | float) or isinstance(self.idle, bool) or not self.idle > 0:
            raise SpecError(f"{where}.idle", f"is {self.idle!r}; give seconds, more than 0, or inf for never")
        return self


class Agent(Generic[State]):
    """Base of all agents: `class Airport(Agent[AirportState])`.

    The type name comes from the class name (`WeatherStation` is `weather_station`) unless the class says
    `type = "…"` or `class Airport(Agent[AirportState], type="…")`. State is a pydantic model or a dataclass that can
    be made without arguments; without one an agent has none. An `__init__` of its own takes no arguments and finds
    `id` and `state` there already; what it sets is forgotten whenever the agent leaves memory, and after a failed turn.

    version: of the state's fields, see `migrate`; durability: "none" answers at once and records nothing, so that
    state is lost with the instance, and a reply with the pod; ordered=False lets later messages pass one that waits
    for its next attempt; idle: seconds without a message after which the agent leaves memory (600). What a class does
    not say it has from its base. A pool's manifest may override durability and idle.
    """

    type: ClassVar[str]
    id: AgentId
    state: State

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,  # noqa: A002
        version: int | None = None,
        durability: str | None = None,
        ordered: bool | None = None,
        idle: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        given = {"version": version, "durability": durability, "ordered": ordered, "idle": idle}
        options = replace(
            getattr(cls, _OPTIONS, AgentOptions()), **{name: one for name, one in given.items() if one is not None}
        )
        setattr(cls, _OPTIONS, options.checked(cls.__qualname__))
        _define(cls, type, sys._getframe(1).f_locals)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that says which agent speaks."""
        return _AgentLog(logging.getLogger(f"starling.agents.{self.id.type}"), {"agent": str(self.id)})

    async def on_unhandled(self, message: object, ctx: Context) -> None:
        """Called with an event that no handler takes; unless overridden it becomes a dead letter."""
        raise CantHandle(f"{self.id.type} has no handler that takes {message.__class__.__name__}")

    async def on_activate(self) -> None:
        """Called once the agent is in memory, before its first turn. What it sets is kept; it may take 30 s.

        An error is that of the message that waits, which is tried again or given up by its policy.
        """

    async def on_passivate(self) -> None:
        """Called before an agent that has been idle leaves memory, then `on_close`. State that it changes is lost."""

    async def on_close(self) -> None:
        """Called when the instance goes for whatever reason but a crash, to close what `on_activate` opened.

        It gets 1 s. That an agent goes is settled by then: errors are logged.
        """


class _AgentLog(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class AgentDefinition:
    """What a runtime knows of an agent class. handlers: by method name, sorted; hooks: names of those it overrides."""

    __slots__ = (
        "_state",
        "_state_codec",
        "call_attempts",
        "cells",
        "cls",
        "error_hooks",
        "factory",
        "find",
        "find_query",
        "handlers",
        "has_state",
        "hooks",
        "migrations",
        "only_call_handler",
        "options",
        "type",
    )

    def __init__(self, cls: type[Agent[Any]], state: type, local_names: Mapping[str, Any]) -> None:
        self.cls = cls
        self.type = cls.type
        self.options: AgentOptions = getattr(cls, _OPTIONS)
        self.has_state = state is not NoneType
        self._state = state
        self._state_codec = Codec(f"state of {cls.type}", state, limit=None)
        self.cells = cell_fields_of(cls)
        if self.cells and self.options.durability == "none":
            raise SpecError(f"{cls.__qualname__}.durability", "is 'none', and cells have to be recorded; leave one out")
        self.migrations = migrations_of(cls, cls.type, self.options.version, frozenset(self.cells))
        self.hooks = _hooks_of(cls)
        self.error_hooks = error_hooks_of(cls)
        self.handlers = handlers_of(cls, local_names, has_cells=bool(self.cells))
        dispatch = Dispatch(self.type, self.handlers, _on_unhandled(cls))
        self.find = dispatch.find
        """Chooses the handler for a message and decodes it; see `Dispatch.find`."""
        self.find_query = dispatch.find_query
        self.call_attempts = dispatch.call_attempts
        self.only_call_handler = dispatch.only_call_handler
        self.factory: Callable[[], Any] | None = None
        """Makes an instance without arguments, or is awaited for it; None: the class itself."""
        _check_init(cls)
        self.new_state()

    def with_options(
        self,
        *,
        durability: str | None = None,
        idle: float | None = None,
        max_active: int | None = None,
        factory: Callable[[], Any] | None = None,
        agent_type: str | None = None,
    ) -> AgentDefinition:
        """Return the definition with a pool's own options; the class keeps its own. Raises SpecError."""
        given: dict[str, Any] = {"durability": durability, "idle": idle, "max_active": max_active}
        made = copy.copy(self)
        made.options = replace(self.options, **{name: one for name, one in given.items() if one is not None}).checked(
            self.type
        )
        if made.cells and made.options.durability == "none":
            raise SpecError(f"{self.type}.durability", "is 'none', and cells have to be recorded; leave one out")
        made.factory = factory if factory is not None else self.factory
        if agent_type is not None:
            check_agent_type(agent_type)
            made.type = agent_type
        return made

    @property
    def state_version(self) -> int:
        """Version of the state's fields that this code writes."""
        return self.options.version

    @property
    def durability(self) -> str:
        """ "committed" or "none"."""
        return self.options.durability

    @property
    def ordered(self) -> bool:
        """Whether an agent's messages wait while an earlier one waits for its next attempt."""
        return self.options.ordered

    @property
    def idle(self) -> float:
        """Seconds without a message after which an agent leaves memory; inf for never."""
        return self.options.idle

    @property
    def is_recorded(self) -> bool:
        """Whether turns leave their state in the commit."""
        return self.has_state and self.options.durability == "committed"

    @property
    def activation_waits(self) -> bool:
        """Whether an instance is made by `activated`; else `new_agent` will do."""
        return self.factory is not None or "on_activate" in self.hooks

    def new_agent(self, agent_id: AgentId, state: Any, cells: CellSet | None = None) -> Agent[Any]:
        """Return an instance of the class. Raises AgentConstructionError from what its own `__init__` raises."""
        agent = self.cls.__new__(self.cls)
        agent.id, agent.state = agent_id, state
        if self.cells:
            give_cells(agent, cells)
        try:
            agent.__init__()  # type: ignore[misc]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _not_made(agent_id, error) from error
        return agent

    async def activated(self, agent_id: AgentId, state: Any, cells: CellSet | None = None) -> Agent[Any]:
        """Return an instance, from the factory if there is one, after its `on_activate`.

        Raises AgentConstructionError from what the factory or `__init__` raises, and what `on_activate` raises.
        """
        if self.factory is None:
            agent = self.new_agent(agent_id, state, cells)
        else:
            agent = await self._from_factory(agent_id, self.factory)
            agent.id, agent.state = agent_id, state
            if self.cells:
                give_cells(agent, cells)
        if "on_activate" in self.hooks:
            await agent.on_activate()
        return agent

    async def _from_factory(self, agent_id: AgentId, factory: Callable[[], Any]) -> Agent[Any]:
        outer = being_made.set(agent_id)
        try:
            made = factory()
            agent = await made if inspect.isawaitable(made) else made
        except Exception as error:
            raise _not_made(agent_id, error) from error
        finally:
            being_made.reset(outer)
        if not isinstance(agent, self.cls):
            raise AgentConstructionError(
                f"{agent_id}: its factory made a {type(agent).__name__}, not a {self.cls.__qualname__}"
            )
        return agent

    def view(self, agent_id: AgentId, state: Any, live: Agent[Any] | None, cells: CellSet | None = None) -> Agent[Any]:
        """Return an instance for one query: a copy of the one in memory, with a state and cells of its own."""
        if live is None:
            return self.new_agent(agent_id, state, cells)
        agent = copy.copy(live)
        agent.state = state
        if self.cells:
            give_cells(agent, cells)
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

    def written_state(self, state: Any) -> bytes:
        """Return the state as `dump_state` does, without its checks: to see whether it has changed."""
        if type(state) is not self._state:
            raise DecodeError(f"state of {self.type}: is a {type(state).__name__}, not a {self._state.__name__}")
        return self._state_codec.written(state)

    def upgraded(self, data: bytes, version: int) -> bytes:
        """Return a stored state as this code's version has it. Raises StateUnreadable, as `load_state` does."""
        return self.migrations.upgraded(data, version)

    def load_state(self, data: bytes) -> Any:
        """Return the state from bytes of this code's version. Raises StateUnreadable."""
        try:
            return self._state_codec.load(data)
        except DecodeError as error:
            raise StateUnreadable(str(error)) from error


being_made: Final[ContextVar[AgentId]] = ContextVar("starling.being_made")
"""In a factory: the id of the agent that it makes."""


def _not_made(agent_id: AgentId, error: BaseException) -> AgentConstructionError:
    return AgentConstructionError(f"{agent_id}: {type(error).__name__}: {error}")


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


def _hooks_of(cls: type[Agent[Any]]) -> frozenset[str]:
    """Names of the lifecycle hooks that the class overrides. Raises SpecError."""
    found = [name for name in _HOOKS if getattr(cls, name) is not getattr(Agent, name)]
    for name in found:
        hook = getattr(cls, name)
        if not inspect.iscoroutinefunction(hook):
            raise SpecError(f"{cls.__qualname__}.{name}", "a hook must be `async def`, so that it never blocks the pod")
        if len(inspect.signature(hook).parameters) != 1:
            raise SpecError(f"{cls.__qualname__}.{name}", "a hook takes nothing but `self`")
    return frozenset(found)


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
