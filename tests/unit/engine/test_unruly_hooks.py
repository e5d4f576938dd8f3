"""Hooks, `__init__`, queries and direct calls that raise what is no Exception: they fail, and their shard goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import starling
from starling import Agent, Context, event, on_error, query, rpc, testing
from starling.core.retry import RetryPolicy
from starling.errors import HandlerFailed
from starling.unruly import as_error, is_from_outside

from tests.unit.engine.meshes import in_memory, shards


class Abort(BaseException):
    """As libraries in other languages raise for a panic of theirs."""


def cancel_itself() -> BaseException:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return Abort("never: the next wait is cancelled")


KINDS = ("Abort", "SystemExit", "GeneratorExit", "CancelledError", "cancels itself")
MADE: dict[str, Callable[[], BaseException]] = {
    "Abort": lambda: Abort("panic"),
    "SystemExit": lambda: SystemExit("left"),
    "GeneratorExit": lambda: GeneratorExit("closed"),
    "CancelledError": lambda: asyncio.CancelledError("stray"),
}
TROUBLE: dict[str, str] = {}
"""What each place raises once, by place."""
SEEN: list[str] = []


async def trouble(place: str) -> None:
    """Raise what is wanted here, after a wait."""
    SEEN.append(place)
    kind = TROUBLE.pop(place, "")
    if kind == "cancels itself":
        cancel_itself()
    await asyncio.sleep(0)
    if kind:
        raise MADE[kind]()


def trouble_at_once(place: str) -> None:
    SEEN.append(place)
    if kind := TROUBLE.pop(place, ""):
        raise MADE[kind]()


@dataclass
class Add:
    n: int = 1


@dataclass
class Break: ...


@dataclass
class End: ...


@dataclass
class Ask:
    where: str = ""


@dataclass
class Count:
    n: int = 0


class Fussy(Agent[Count], idle=60.0):
    def __init__(self) -> None:
        trouble_at_once("init")

    @rpc
    async def add(self, message: Add) -> int:
        self.state.n += message.n
        return self.state.n

    @event
    async def end(self, message: End, ctx: Context) -> None:
        ctx.destroy()

    @event
    async def fail(self, message: Break) -> None:
        raise ValueError("as told")

    @query
    async def ask(self, message: Ask) -> int:
        if message.where == "waiting":
            await trouble("waiting query")
        else:
            trouble_at_once("query")
        return self.state.n


class Hooked(Fussy, idle=60.0):
    async def on_activate(self) -> None:
        await trouble("activate")

    async def on_passivate(self) -> None:
        await trouble("passivate")

    async def on_close(self) -> None:
        SEEN.append("close")

    @on_error(ValueError)
    async def about(self, error: Exception, ctx: Context) -> None:
        await trouble("error hook")


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    TROUBLE.clear()
    SEEN.clear()
    yield
    TROUBLE.clear()


def same_owner(mesh: testing.TestMesh) -> bool:
    """Whether no shard was lost: each is in its first epoch."""
    return {shard.epoch for shard in shards(mesh)} == {1}


ONCE_MORE = RetryPolicy(attempts=2, initial=0.01)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_activation_hook_that_raises_no_exception_is_a_failed_attempt(kind: str) -> None:
    async with testing.mesh(Hooked, shards=1, retry=ONCE_MORE) as mesh:
        TROUBLE["activate"] = kind
        await mesh.send(starling.AgentId("hooked", "a"), Add(3))
        await mesh.idle()
        assert (await mesh.state(Hooked, "a")).n == 3
        assert SEEN.count("activate") == 2

        TROUBLE["activate"] = kind
        with pytest.raises(HandlerFailed, match=r"the agent's activation (raised|waited for)"):
            await mesh.agent(Hooked, "b").add(Add())
        assert await mesh.agent(Hooked, "b").add(Add(7)) == 7
        assert same_owner(mesh)


@pytest.mark.parametrize("kind", KINDS[:-1])
async def test_an_init_that_raises_no_exception_is_a_failed_attempt_even_after_a_failed_turn(kind: str) -> None:
    async with testing.mesh(Fussy, shards=1, retry=ONCE_MORE) as mesh:
        for key in "ab":
            TROUBLE["init"] = kind
            await mesh.send(starling.AgentId("fussy", key), Add(3))
            await mesh.idle()
            assert (await mesh.state(Fussy, key)).n == 3
            assert "init" not in TROUBLE
            await mesh.send(starling.AgentId("fussy", key), Break())
            TROUBLE["init"] = kind  # raised where the agent is rolled back
            await mesh.idle()
            assert await mesh.agent(Fussy, key).add(Add()) == 4
        assert same_owner(mesh)
        assert [letter.reason for letter in await mesh.dead_letters()] == ["ValueError"] * 2


@pytest.mark.parametrize("kind", KINDS[:-1])
async def test_an_init_that_raises_where_an_agent_ends_itself_holds_up_nobody(kind: str) -> None:
    async with testing.mesh(Fussy, shards=1, retry=ONCE_MORE) as mesh:
        assert await mesh.agent(Fussy, "a").add(Add(3)) == 3
        TROUBLE["init"] = kind  # raised where it is made anew
        await mesh.send(starling.AgentId("fussy", "a"), End())
        await mesh.idle()
        assert "init" not in TROUBLE
        assert await mesh.agent(Fussy, "a").add(Add()) == 1
        assert same_owner(mesh)
        assert not await mesh.dead_letters()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_passivation_hook_that_raises_no_exception_is_logged_and_the_agent_leaves(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with testing.mesh(Hooked, shards=1) as mesh:
        assert await mesh.agent(Hooked, "a").add(Add(3)) == 3
        TROUBLE["passivate"] = kind
        with caplog.at_level(logging.ERROR):
            await mesh.advance(61)
            async with asyncio.timeout(5):
                while in_memory(mesh):
                    await asyncio.sleep(0.001)
        if kind != "cancels itself":
            assert "lifecycle hook failed" in caplog.text
            assert SEEN[-2:] == ["passivate", "close"]
        assert await mesh.agent(Hooked, "a").add(Add()) == 4
        assert same_owner(mesh)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_hook_that_raises_no_exception_holds_up_nobody(kind: str) -> None:
    async with testing.mesh(Hooked, shards=1, retry=RetryPolicy(attempts=1)) as mesh:
        TROUBLE["error hook"] = kind
        await mesh.send(starling.AgentId("hooked", "a"), Break())
        await mesh.idle()
        assert await mesh.agent(Hooked, "a").add(Add(3)) == 3
        assert [letter.reason for letter in await mesh.dead_letters()] == ["ValueError"]
        assert same_owner(mesh)


@pytest.mark.parametrize(
    ("kind", "where"), [*((kind, "waiting query") for kind in KINDS), *((kind, "query") for kind in KINDS[:-1])]
)
async def test_a_query_that_raises_no_exception_is_answered_with_an_error(kind: str, where: str) -> None:
    async with testing.mesh(Fussy, shards=1) as mesh:
        await mesh.agent(Fussy, "a").add(Add(3))
        TROUBLE[where] = kind
        if kind == "cancels itself":  # as when its shard goes: asked again
            assert await mesh.agent(Fussy, "a").ask(Ask("waiting")) == 3
            return
        with pytest.raises(HandlerFailed, match=r"the handler (raised|waited for)"):
            await mesh.agent(Fussy, "a").ask(Ask(where.partition(" ")[0]))
        assert await mesh.agent(Fussy, "a").ask(Ask("waiting")) == 3
        assert same_owner(mesh)


@dataclass
class Shelf:
    words: list[str] = field(default_factory=list)


@dataclass
class Put:
    word: str
    kind: str = ""


class Direct(Agent[Shelf]):
    @rpc
    async def put(self, message: Put) -> list[str]:
        self.state.words.append(message.word)
        if message.kind:
            raise MADE[message.kind]()
        return self.state.words


@pytest.mark.parametrize("kind", KINDS[:-1])
async def test_a_direct_call_whose_handler_raises_no_exception_fails_and_is_rolled_back(kind: str) -> None:
    async with starling.local(Direct) as mesh:
        agent = mesh.agent(Direct, "a")
        assert await agent.put(Put("one")) == ["one"]
        async with asyncio.timeout(5):
            while _is_busy(mesh):
                await asyncio.sleep(0.001)
        with pytest.raises(HandlerFailed, match=r"the handler (raised|waited for)"):
            await agent.put(Put("two", kind))
        assert await agent.put(Put("three")) == ["one", "three"]


async def test_an_interrupt_in_a_direct_call_reaches_its_caller_and_the_agent_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MADE, "KeyboardInterrupt", KeyboardInterrupt)
    async with starling.local(Direct) as mesh:
        agent = mesh.agent(Direct, "a")
        assert await agent.put(Put("one")) == ["one"]
        async with asyncio.timeout(5):
            while _is_busy(mesh):
                await asyncio.sleep(0.001)
        with pytest.raises(KeyboardInterrupt):
            await agent.put(Put("two", "KeyboardInterrupt"))
        assert await agent.put(Put("three")) == ["one", "three"]


def _is_busy(mesh: starling.LocalRuntime) -> bool:
    """Whether a call would have to wait for something, and so would not run on the spot."""
    worker = mesh._worker
    assert worker is not None
    return any(
        shard._turns.idle(agent) is None for shard in worker.ownership.owned.values() for agent in shard._turns._agents
    )


def test_what_a_coroutine_hears_that_is_closed_after_its_loop_is_from_outside() -> None:
    heard: list[bool] = []

    async def hook() -> None:
        task = asyncio.current_task()
        try:
            await asyncio.Event().wait()
        except BaseException as raised:
            heard.append(is_from_outside(raised, task, cancelled=False))
            raise

    loop = asyncio.new_event_loop()
    coroutine = hook()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    coroutine.close()
    assert heard == [True]
    task.cancel()
    with pytest.raises((RuntimeError, asyncio.CancelledError)):
        loop.run_until_complete(task)  # of a coroutine that is closed
    loop.close()


def test_an_interrupt_and_our_own_cancellation_are_from_outside_and_nothing_else_is() -> None:
    assert is_from_outside(KeyboardInterrupt(), None, cancelled=False)
    assert [is_from_outside(asyncio.CancelledError(), None, cancelled=ours) for ours in (True, False)] == [True, False]
    assert [is_from_outside(made, None, cancelled=True) for made in (Abort(), SystemExit(), ValueError())] == [
        False
    ] * 3
    problem = ValueError("kept")
    assert as_error(problem) is problem
