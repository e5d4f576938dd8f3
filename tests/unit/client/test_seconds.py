"""A wait that is none is refused in the same words wherever one is given, before anything is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import starling
from starling import Agent, AgentId, Context, Topic, event, query, rpc, testing
from starling.errors import SpecError
from starling.retrying import Retrying

WRONG = [-1, 0, 0.0, -0.5, float("nan"), float("inf"), "5", True, [1]]
BIRD = AgentId("bird", "anna")
SEEN = Topic("seconds.seen")


@dataclass
class Seen:
    """wait: as the handler gives it on; where: to which of the context's calls."""

    where: str = ""
    wait: Any = None


@dataclass
class BirdState:
    seen: int = 0


class Bird(Agent[BirdState]):
    @event
    async def seen(self, message: Seen, ctx: Context) -> None:
        self.state.seen += 1

    @rpc
    async def pass_on(self, message: Seen, ctx: Context) -> str:
        try:
            if message.where == "call":
                await ctx.call(AgentId("bird", "bo"), Seen(), timeout=message.wait)
            elif message.where == "query":
                await ctx.query(AgentId("bird", "bo"), Seen(), timeout=message.wait)
            elif message.where == "timer":
                ctx.set_timer("t", Seen(), every=message.wait)
        except SpecError as error:
            return str(error)
        return ""

    @query
    async def count(self, message: Seen) -> int:
        return self.state.seen


Wait = Callable[[Any, Any], Awaitable[Any]]
OF_A_MESH: dict[str, Wait] = {
    "call": lambda mesh, wait: mesh.call(BIRD, Seen(), timeout=wait),
    "call_raw": lambda mesh, wait: mesh.call_raw(BIRD, "Seen", b"{}", timeout=wait),
    "query": lambda mesh, wait: mesh.query(BIRD, Seen(), timeout=wait),
    "query_raw": lambda mesh, wait: mesh.query_raw(BIRD, "Seen", b"{}", timeout=wait),
    "send": lambda mesh, wait: mesh.send(BIRD, Seen(), timeout=wait),
    "send_raw": lambda mesh, wait: mesh.send_raw(BIRD, "Seen", b"{}", timeout=wait),
    "cancel": lambda mesh, wait: mesh.cancel(BIRD, "id", timeout=wait),
    "publish": lambda mesh, wait: mesh.publish(SEEN("x"), Seen(), timeout=wait),
    "publish_raw": lambda mesh, wait: mesh.publish_raw(SEEN("x"), "Seen", b"{}", timeout=wait),
    "publish_many": lambda mesh, wait: mesh.publish_many([(BIRD, Seen())], timeout=wait),
    "publish_all": lambda mesh, wait: mesh.publish_all([(SEEN("x"), Seen(), None)], timeout=wait),
    "stand-in": lambda mesh, wait: mesh.agent(Bird, "anna").pass_on(Seen(), timeout=wait),
}
OF_A_LOCAL_RUNTIME = {name: OF_A_MESH[name] for name in ("call", "query", "send", "publish", "stand-in")}


async def refusals(waits: dict[str, Wait], mesh: Any, wait: object) -> dict[str, str]:
    found = {}
    for name, start in waits.items():
        try:
            await start(mesh, wait)
        except SpecError as error:
            found[name] = str(error)
    return found


@pytest.mark.parametrize("wait", WRONG, ids=repr)
async def test_every_wait_of_a_mesh_is_checked_in_the_same_words_and_nothing_is_sent(wait: object) -> None:
    async with testing.mesh(Bird, subscriptions={"seconds.seen": Bird}) as mesh:
        text = f"timeout: must be a positive number of seconds, not {wait!r}"
        assert await refusals(OF_A_MESH, mesh, wait) == dict.fromkeys(OF_A_MESH, text)
        await mesh.idle()
        assert await mesh.query(BIRD, Seen()) == 0


@pytest.mark.parametrize("wait", WRONG, ids=repr)
async def test_those_of_a_local_runtime_too_also_before_it_runs(wait: object) -> None:
    text = f"timeout: must be a positive number of seconds, not {wait!r}"
    runtime = starling.local(Bird)
    assert await refusals(OF_A_LOCAL_RUNTIME, runtime, wait) == dict.fromkeys(OF_A_LOCAL_RUNTIME, text)
    async with runtime:
        await runtime.call(BIRD, Seen())
        assert await refusals(OF_A_LOCAL_RUNTIME, runtime, wait) == dict.fromkeys(OF_A_LOCAL_RUNTIME, text)


@pytest.mark.parametrize("wait", [-1, "5", 0.0, [1]], ids=repr)
async def test_those_of_a_turn_too(wait: object) -> None:
    async with testing.mesh(Bird) as mesh:
        for where, field in (("call", "timeout"), ("query", "timeout"), ("timer", "every")):
            if (where, wait) == ("timer", 0.0):
                continue  # a timer that runs once
            said = await mesh.call(BIRD, Seen(where, wait))
            assert said == f"{field}: must be a positive number of seconds, not {wait!r}"


@pytest.mark.parametrize("wait", WRONG, ids=repr)
def test_and_how_long_is_retried(wait: Any) -> None:
    with pytest.raises(SpecError, match="timeout: must be a positive number of seconds, not"):
        Retrying(timeout=wait)


@pytest.mark.parametrize("wait", [1, 2.5])
async def test_a_number_of_seconds_is_taken_whole_or_not(wait: float) -> None:
    async with testing.mesh(Bird, subscriptions={"seconds.seen": Bird}) as mesh:
        assert await refusals(OF_A_MESH, mesh, wait) == {}
