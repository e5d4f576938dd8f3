"""Agents in the style of autogen-core: `on_message_impl`, `send_message`, `save_state`, on Starling's own runtime.

    class Greeter(BaseAgent):
        def __init__(self) -> None:
            super().__init__("greets")

        async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
            return await self.send_message(Ask(message.name), AgentId("writer", "1"))

    await Greeter.register(runtime, "greeter", Greeter)                  # a LocalRuntime; in a pool, name the class

Names and signatures are those of autogen-core 0.7. What is promised is Starling's: one message at a time, state saved
with the turn's commit, messages stored before they are sent. An agent takes every message class that is registered.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypedDict, final, runtime_checkable

from pydantic import JsonValue

from starling.agent import Agent, definition
from starling.context import Context
from starling.core.ids import AgentId, TopicId
from starling.dispatch import Handler
from starling.errors import SpecError
from starling.handlers import HandlerMethod, Kind
from starling.messages import JSON, registry

if TYPE_CHECKING:
    from starling.local_runtime import LocalRuntime


class AgentMetadata(TypedDict):
    """Who an agent is."""

    type: str
    key: str
    description: str


class CancellationToken:
    """Cancelled when the turn is: its caller gave up, its deadline passed, or its pod stops."""

    def __init__(self) -> None:
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Tell everybody; once."""
        if not self._cancelled:
            self._cancelled = True
            for callback in self._callbacks:
                callback()

    def is_cancelled(self) -> bool:
        return self._cancelled

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Call it when cancelled; at once when that has been."""
        if self._cancelled:
            callback()
        else:
            self._callbacks.append(callback)

    def link_future(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Cancel the future with this token; return it."""
        self.add_callback(lambda: void(future.cancel()))
        return future


def void(_: object) -> None:
    """Drop a value."""


@dataclass(frozen=True)
class MessageContext:
    """What a handler knows of its message. sender: None from outside; topic_id: None for one that was not published."""

    sender: AgentId | None
    topic_id: TopicId | None
    is_rpc: bool
    cancellation_token: CancellationToken
    message_id: str
    attempt: int = 1
    idempotency_key: str = ""

    @classmethod
    def of(cls, ctx: Context) -> MessageContext:
        """Return it for a turn, with a token of its own."""
        return cls(
            sender=ctx.sender,
            topic_id=ctx.topic,
            is_rpc=ctx.is_call,
            cancellation_token=CancellationToken(),
            message_id=ctx.message_id,
            attempt=ctx.attempt,
            idempotency_key=ctx.idempotency_key,
        )


@runtime_checkable
class AgentStyle(Protocol):
    """What autogen-core calls an Agent."""

    @property
    def metadata(self) -> AgentMetadata: ...

    @property
    def id(self) -> AgentId: ...

    async def bind_id_and_runtime(self, id: AgentId, runtime: Any) -> None: ...  # noqa: A002 - autogen-core's word

    async def on_message(self, message: Any, ctx: MessageContext) -> Any: ...

    async def save_state(self) -> Mapping[str, Any]: ...

    async def load_state(self, state: Mapping[str, Any]) -> None: ...

    async def close(self) -> None: ...


@dataclass
class Saved:
    """What `save_state` returned after the last good turn."""

    values: dict[str, JsonValue] = field(default_factory=dict)


class BaseAgent(Agent[Saved], type="autogen_style.base_agent"):
    """Base of agents in this style. A class of its own needs `on_message_impl`; what it saves must be plain JSON."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        definition(cls).find = _takes_everything(cls)

    def __init__(self, description: str = "") -> None:
        if not isinstance(description, str):
            raise SpecError(f"{type(self).__qualname__}.description", "must be text")
        self._description = description
        self._runtime: Any = None
        self._turn: Context | None = None

    @property
    def metadata(self) -> AgentMetadata:
        return AgentMetadata(type=self.id.type, key=self.id.key, description=self._description)

    @property
    def runtime(self) -> Any:
        """What it was bound to; None in a pool."""
        return self._runtime

    async def bind_id_and_runtime(self, id: AgentId, runtime: Any) -> None:  # noqa: A002
        """Raises SpecError when it is bound to another id or runtime already."""
        if getattr(self, "id", id) != id:
            raise SpecError("id", f"is {self.id} already, not {id}")
        if self._runtime not in (None, runtime):
            raise SpecError("runtime", "is another one already")
        self.id, self._runtime = id, runtime

    @final
    async def on_message(self, message: Any, ctx: MessageContext) -> Any:
        return await self.on_message_impl(message, ctx)

    @abstractmethod
    async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
        """Handle one message; what it returns is the answer to a call."""
        raise NotImplementedError(f"{type(self).__qualname__}.on_message_impl")

    async def send_message(
        self,
        message: Any,
        recipient: AgentId,
        *,
        cancellation_token: CancellationToken | None = None,
        message_id: str | None = None,
    ) -> Any:
        """Call another agent from a handler, as `Context.call`. message_id: only None, a turn's calls have ids."""
        if message_id is not None:
            raise SpecError("message_id", "cannot be given: a turn's calls have ids of their own, for repeats")
        call = asyncio.ensure_future(self._context.call(recipient, message))
        if cancellation_token is not None:
            cancellation_token.link_future(call)
        return await call

    async def publish_message(
        self, message: Any, topic_id: TopicId, *, cancellation_token: CancellationToken | None = None
    ) -> None:
        """Publish from a handler; it goes out when the turn commits. Nothing happens with a cancelled token."""
        if cancellation_token is None or not cancellation_token.is_cancelled():
            self._context.publish(topic_id, message)

    @property
    def _context(self) -> Context:
        if self._turn is None:
            raise SpecError(type(self).__qualname__, "sends and publishes in `on_message_impl` only")
        return self._turn

    async def save_state(self) -> Mapping[str, Any]:
        """Return what is kept; called after each good turn."""
        return self.state.values

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Take what was kept; called when the agent becomes active and has saved something."""

    async def close(self) -> None:
        """Called when the instance goes."""

    async def on_activate(self) -> None:
        if self.state.values:
            await self.load_state(self.state.values)

    async def on_close(self) -> None:
        await self.close()

    @classmethod
    async def register(
        cls,
        runtime: LocalRuntime,
        type: str,  # noqa: A002
        factory: Callable[[], Self | Awaitable[Self]],
        *,
        skip_class_subscriptions: bool = False,
        skip_direct_message_subscription: bool = False,
    ) -> str:
        """Let agents of this type be made by `factory`; return the type.

        Direct messages need no subscription here, and classes have none: both options change nothing.
        """
        runtime.register(cls, factory=factory, type=type)
        return type

    async def register_instance(
        self,
        runtime: LocalRuntime,
        agent_id: AgentId,
        *,
        skip_class_subscriptions: bool = True,
        skip_direct_message_subscription: bool = False,
    ) -> AgentId:
        """Let this object be that agent; return its id. Options as in `register`."""
        await self.bind_id_and_runtime(agent_id, runtime)
        return runtime.register_instance(self, agent_id.key, type=agent_id.type)


class _Everything(Handler):
    """Takes every registered message, answers with whatever is registered."""

    __slots__ = ()

    def encode_result(self, value: object) -> tuple[str, bytes]:
        return registry.encode(value)


def _takes_everything(cls: type[BaseAgent]) -> Any:
    name = f"{cls.__qualname__}.on_message_impl"
    if not inspect.iscoroutinefunction(cls.on_message_impl):
        raise SpecError(name, "must be `async def`, so that it never blocks the pod")
    handler = _Everything(name, HandlerMethod(_turn, Kind.RPC, None), messages=(), results={}, with_context=True)

    def find(type_name: str, body: bytes, is_call: bool, content_type: str = JSON) -> tuple[Handler, Any]:
        return handler, registry.decode(type_name, body, content_type)

    return find


async def _turn(agent: BaseAgent, message: Any, ctx: Context) -> Any:
    known = MessageContext.of(ctx)
    agent._turn = ctx
    try:
        result = await agent.on_message(message, known)
        agent.state.values = dict(await agent.save_state())
        return result
    except asyncio.CancelledError:
        known.cancellation_token.cancel()
        raise
    finally:
        agent._turn = None
