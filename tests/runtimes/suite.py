"""What every runtime must do, with the same agents: a runtime's test module has a class over `Suite` and a `mesh`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest
from starling import AgentId, LocalRuntime, Mesh
from starling.core.subscriptions import SubscriptionRoute
from starling.errors import CantHandle, HandlerFailed, UnknownAgentType
from starling.topics import exact, pattern, prefix

from tests.runtimes import members
from tests.runtimes.members import AskBalance, AskHeard, Happened, PaidIn, RunsAccount

AnyMesh = Mesh | LocalRuntime
AGENTS = (RunsAccount, members.Greeter, members.Audit, members.Desk, members.Alarm)
SUBSCRIPTIONS: dict[str, SubscriptionRoute] = {
    "login-greeter": exact("user.login", members.Greeter),
    "words-greeter": pattern("user.login.>", members.Greeter),
    "one-word-greeter": pattern("*.login", members.Greeter),
    "user-audit": prefix("user.", members.Audit),
    "user-desk": prefix("user.", members.Desk, key="front"),
    "failed-alarm": pattern("*.*.failed", members.Alarm),
}
"""By the names of their objects."""
BOUND = 60.0


def new_key() -> str:
    """A key that no other test has: runtimes that take long to start are shared."""
    return uuid.uuid4().hex[:12]


async def until(fact: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(BOUND):
        while not await fact():
            await asyncio.sleep(0.01)


async def heard(mesh: AnyMesh, agent_type: str, key: str) -> list[tuple[str, str]]:
    """What an agent has heard: topic types and marks."""
    answer: members.HeardSoFar = await mesh.call(AgentId(agent_type, key), AskHeard(), timeout=BOUND)
    return [(topic, mark) for topic, mark in answer.all]


async def paid(mesh: AnyMesh, keys: list[str]) -> set[tuple[int, int]]:
    """Balance and turns of these accounts."""
    answers = await asyncio.gather(*(mesh.agent(RunsAccount, key).balance(AskBalance(), timeout=BOUND) for key in keys))
    return {(answer.amount, answer.turns) for answer in answers}


class Suite:
    """The same assertions on every runtime."""

    @pytest.mark.row("RT-31", part="events, calls and states are the same on all runtimes")
    @pytest.mark.row("RT-10", part="a thousand orders make a thousand agents", completes=True)
    async def test_a_thousand_keys_are_a_thousand_agents(self, mesh: AnyMesh) -> None:
        start = new_key()
        keys = [f"{start}-{number}" for number in range(1000)]
        for first in range(0, len(keys), 250):
            await asyncio.gather(*(mesh.send(AgentId("account", key), PaidIn(3)) for key in keys[first : first + 250]))
        for first in range(0, len(keys), 250):
            assert await paid(mesh, keys[first : first + 250]) == {(3, 1)}

    @pytest.mark.row("RT-31", part="topics reach the same agents on all runtimes")
    @pytest.mark.row("RT-34", part="the same agents hear a topic on all runtimes", completes=True)
    async def test_topics_reach_those_that_they_match(self, mesh: AnyMesh) -> None:
        user = new_key()
        for topic in (members.LOGIN, members.LOGOUT, members.FAILED):
            await mesh.publish(topic(user), Happened(user))
        await mesh.publish(members.LOGIN(user), Happened("last"))
        everything = [(topic.type, user) for topic in (members.LOGIN, members.LOGOUT, members.FAILED)]

        async def came() -> bool:
            return ("user.login", "last") in await heard(mesh, "audit", user)

        await until(came)
        assert (await heard(mesh, "audit", user))[:3] == everything
        assert [one for one in await heard(mesh, "desk", "front") if one[1] == user] == everything
        assert await heard(mesh, "greeter", user) == [everything[0], everything[2], ("user.login", "last")]
        assert await heard(mesh, "alarm", user) == [everything[2]]
        assert await heard(mesh, "desk", user) == []

    @pytest.mark.row("RT-31", part="two subscriptions, one turn, on all runtimes")
    @pytest.mark.row("RT-35", part="published once, matched twice: one turn", completes=True)
    async def test_two_subscriptions_that_match_one_agent_are_one_turn(self, mesh: AnyMesh) -> None:
        user = new_key()
        for mark in ("first", "second"):
            stored = await mesh.publish(members.LOGIN(user), Happened(mark))
            assert len(stored) == 3  # greeter, audit, desk

        async def came() -> bool:
            return ("user.login", "second") in await heard(mesh, "greeter", user)

        await until(came)
        assert await heard(mesh, "greeter", user) == [("user.login", "first"), ("user.login", "second")]

    @pytest.mark.row("RT-31", part="agents call, send and publish on all runtimes")
    async def test_an_agent_calls_sends_and_publishes(self, mesh: AnyMesh) -> None:
        payer, payee = new_key(), new_key()
        await mesh.send(AgentId("account", payee), PaidIn(5))
        answer = await mesh.agent(RunsAccount, payer).transfer(members.Transfer(payee, 7), timeout=BOUND)
        assert (answer.amount, answer.turns) == (-7, 0)

        async def came() -> bool:
            return await heard(mesh, "audit", payer) == [("user.logout", "had 5")]

        await until(came)
        assert await paid(mesh, [payee]) == {(12, 2)}
        looked = await mesh.agent(RunsAccount, payee).look(members.LookAtBalance(), timeout=BOUND)
        assert (looked.amount, looked.turns) == (12, 2)

    @pytest.mark.row("RT-31", part="errors are the same on all runtimes")
    async def test_errors_are_of_the_same_kinds(self, mesh: AnyMesh) -> None:
        key = new_key()
        with pytest.raises(HandlerFailed, match=r"ValueError.*too much"):
            await mesh.agent(RunsAccount, key).overdraw(members.Overdraw("too much"), timeout=BOUND)
        assert await paid(mesh, [key]) == {(0, 0)}
        with pytest.raises(CantHandle, match="NobodyTakes"):
            await mesh.call(AgentId("account", key), members.NobodyTakes(), timeout=BOUND)
        with pytest.raises(UnknownAgentType, match="'train'"):
            await mesh.send(AgentId("train", key), PaidIn(1))
