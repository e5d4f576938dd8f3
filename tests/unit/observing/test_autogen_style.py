"""Agents in the style of autogen-core: the same names, on Starling's runtime."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any

import pytest
import starling
import starling.testing
from starling import AgentId, Topic, TopicId, message
from starling.autogen_style import AgentStyle, BaseAgent, CancellationToken, MessageContext
from starling.errors import SpecError

CHEERS = Topic("style.cheers")

# Of autogen-core 0.7.5: parameters after `self` or `cls`, those after "*" by keyword only.
AGENT = {
    "bind_id_and_runtime": ["id", "runtime"],
    "on_message": ["message", "ctx"],
    "save_state": [],
    "load_state": ["state"],
    "close": [],
}
BASE_AGENT = {
    **AGENT,
    "on_message_impl": ["message", "ctx"],
    "send_message": ["message", "recipient", "*", "cancellation_token", "message_id"],
    "publish_message": ["message", "topic_id", "*", "cancellation_token"],
    "register": [
        "runtime",
        "type",
        "factory",
        "*",
        "skip_class_subscriptions",
        "skip_direct_message_subscription",
    ],
    "register_instance": [
        "runtime",
        "agent_id",
        "*",
        "skip_class_subscriptions",
        "skip_direct_message_subscription",
    ],
}
CONTEXT = ["sender", "topic_id", "is_rpc", "cancellation_token", "message_id"]
TOKEN = {"cancel": [], "is_cancelled": [], "add_callback": ["callback"], "link_future": ["future"]}


def parameters(cls: type, name: str) -> list[str]:
    listed: list[str] = []
    for parameter in inspect.signature(getattr(cls, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in listed:
            listed.append("*")
        listed.append(parameter.name)
    return [name for name in listed if name not in ("self", "cls")]


@pytest.mark.row("RT-75", part="signatures")
@pytest.mark.parametrize(
    ("cls", "table"),
    [(AgentStyle, AGENT), (BaseAgent, BASE_AGENT), (CancellationToken, TOKEN)],
    ids=["Agent", "BaseAgent", "CancellationToken"],
)
def test_signatures_are_those_of_autogen_core(cls: type, table: Mapping[str, list[str]]) -> None:
    assert {name: parameters(cls, name) for name in table} == table
    waits = {name for name in table if inspect.iscoroutinefunction(getattr(cls, name))}
    assert waits == (set() if cls is CancellationToken else set(table))


def test_the_message_context_starts_with_the_fields_of_autogen_core() -> None:
    assert [field.name for field in fields(MessageContext)][: len(CONTEXT)] == CONTEXT


@pytest.mark.row("RT-75", part="the recorded signatures are those of the installed classes")
def test_the_recorded_signatures_are_those_of_the_installed_classes() -> None:
    if importlib.util.find_spec("autogen_core") is None:
        pytest.skip("autogen-core is not installed; the recorded table stands for it")
    core: Any = importlib.import_module("autogen_core")
    for cls, table in ((core.Agent, AGENT), (core.BaseAgent, BASE_AGENT), (core.CancellationToken, TOKEN)):
        assert {name: parameters(cls, name) for name in table} == table
    assert [field.name for field in fields(core.MessageContext)] == CONTEXT


@message
@dataclass
class StyleGreet:
    name: str


@message
@dataclass
class StyleCheer:
    name: str


class Greeter(BaseAgent):
    """Asks a writer, publishes, and counts."""

    def __init__(self) -> None:
        super().__init__("greets")
        self.count = 0

    async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
        seen.append(ctx)
        if not isinstance(message, StyleGreet):
            return None
        self.count += 1
        text = await self.send_message(message, AgentId("writer", "1"), cancellation_token=ctx.cancellation_token)
        await self.publish_message(StyleCheer(message.name), CHEERS("all"))
        if message.name == "nobody":
            raise ValueError("who?")
        return f"{text} ({self.count})"

    async def save_state(self) -> Mapping[str, Any]:
        return {"count": self.count}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]

    async def close(self) -> None:
        closed.append(self.count)


class Writer(BaseAgent):
    async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
        seen.append(ctx)
        if message.name == "hang":
            ctx.cancellation_token.add_callback(lambda: closed.append(-1))
            await asyncio.Event().wait()
        return f"Hello, {message.name}"


class Cheerer(BaseAgent):
    async def on_message_impl(self, message: Any, ctx: MessageContext) -> None:
        seen.append(ctx)


seen: list[MessageContext] = []
closed: list[int] = []
GREETER = AgentId("greeter", "1")


async def runtime() -> starling.LocalRuntime:
    made = starling.local()
    seen.clear()
    closed.clear()
    assert await Greeter.register(made, "greeter", Greeter) == "greeter"
    await Writer.register(made, "writer", lambda: Writer("writes"))
    await Cheerer.register(made, "cheerer", Cheerer)
    made.subscribe("style.cheers", "cheerer")
    return made


@pytest.mark.row("RT-75", part="an agent that uses these names only", completes=True)
async def test_an_agent_in_this_style_calls_publishes_and_keeps_its_state() -> None:
    mesh = await runtime()
    async with mesh:
        assert await mesh.call(GREETER, StyleGreet("Ada"), timeout=10) == "Hello, Ada (1)"
        with pytest.raises(starling.errors.HandlerFailed, match="who"):
            await mesh.call(GREETER, StyleGreet("nobody"), timeout=10)
        assert await mesh.call(GREETER, StyleGreet("Bob"), timeout=10) == "Hello, Bob (2)"
    assert closed[-1] == 2
    async with mesh:
        assert await mesh.call(GREETER, StyleGreet("Eve"), timeout=10) == "Hello, Eve (3)"


@pytest.mark.row("RT-50")
async def test_a_request_has_no_topic_and_an_event_has_one() -> None:
    mesh = await runtime()
    async with mesh:
        await mesh.call(GREETER, StyleGreet("Ada"), timeout=10)
        async with asyncio.timeout(20):
            while len(seen) < 3:
                await asyncio.sleep(0.001)
        await mesh.send(AgentId("cheerer", "direct"), StyleCheer("x"))
        async with asyncio.timeout(20):
            while len(seen) < 4:
                await asyncio.sleep(0.001)
    table = [(ctx.sender, ctx.topic_id, ctx.is_rpc, ctx.attempt) for ctx in seen]
    assert table == [
        (None, None, True, 1),
        (GREETER, None, True, 1),
        (GREETER, TopicId("style.cheers", "all"), False, 1),
        (None, None, False, 1),
    ]
    assert len({ctx.message_id for ctx in seen}) == 4
    assert seen[0].idempotency_key == f"{seen[0].message_id}/{GREETER}"
    assert not seen[0].cancellation_token.is_cancelled()
    with pytest.raises(FrozenInstanceError):
        seen[0].is_rpc = False  # type: ignore[misc]


@pytest.mark.row("RT-50", part="the token is cancelled when the caller gives up")
async def test_the_token_is_cancelled_when_the_caller_gives_up() -> None:
    mesh = await runtime()
    async with mesh:
        call = asyncio.create_task(mesh.call(AgentId("writer", "1"), StyleGreet("hang"), timeout=60))
        async with asyncio.timeout(20):
            while not seen:
                await asyncio.sleep(0.001)
            call.cancel()
            while not closed:
                await asyncio.sleep(0.001)
    assert seen[0].cancellation_token.is_cancelled()
    assert closed[0] == -1


async def test_an_instance_is_bound_to_one_id() -> None:
    mesh = starling.local()
    greeter = Greeter()
    assert await greeter.register_instance(mesh, GREETER) == GREETER
    assert isinstance(greeter, AgentStyle)
    assert greeter.metadata == {"type": "greeter", "key": "1", "description": "greets"}
    assert greeter.runtime is mesh
    with pytest.raises(SpecError, match="is greeter/1 already"):
        await greeter.bind_id_and_runtime(AgentId("greeter", "2"), mesh)
    with pytest.raises(SpecError, match="another one already"):
        await greeter.bind_id_and_runtime(GREETER, starling.local())


async def test_outside_of_a_turn_nothing_is_sent() -> None:
    with pytest.raises(SpecError, match="on_message_impl"):
        await Greeter().publish_message(StyleCheer("x"), CHEERS("all"))


async def test_a_token_cancels_what_is_linked_to_it_once() -> None:
    token, told = CancellationToken(), []
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert token.link_future(future) is future
    token.add_callback(lambda: told.append("first"))
    token.cancel()
    token.cancel()
    token.add_callback(lambda: told.append("late"))
    assert future.cancelled()
    assert told == ["first", "late"]
