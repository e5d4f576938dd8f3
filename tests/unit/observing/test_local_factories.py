"""Agents made by factories, and instances that are agents."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
import starling
from starling import Agent, AgentId
from starling.agent import being_made
from starling.core.retry import Backoff, RetryPolicy
from starling.errors import AgentConstructionError, HandlerFailed
from starling.local_runtime import LocalRuntime, current_runtime

AT_ONCE = RetryPolicy(attempts=3, backoff=Backoff.FIXED, initial=0.0, jitter=False)


@dataclass
class Feather:
    where: str


@dataclass
class AskMade:
    text: str = ""


@dataclass
class Nest:
    seen: int = 0


class Starling(Agent[Nest], type="made_starling"):
    """Counts where it was seen."""

    note = "made by the class"

    @starling.event
    async def seen(self, message: Feather) -> None:
        self.state.seen += 1

    @starling.rpc
    async def ask(self, message: AskMade) -> str:
        if message.text == "fail":
            self.state.seen = 99
            raise ValueError("the bird flew away")
        return f"{self.id.key} {self.state.seen} {self.note}"


BIRD = AgentId("made_starling", "anna")


async def test_an_instance_is_the_agent_and_keeps_what_it_holds() -> None:
    runtime = starling.local()
    own = Starling()
    own.note = "made by hand"
    runtime.register_instance(own, "anna")
    async with runtime as mesh:
        assert await mesh.call(BIRD, AskMade(), timeout=5) == "anna 0 made by hand"
        with pytest.raises(HandlerFailed, match="flew away"):
            await mesh.call(BIRD, AskMade("fail"), timeout=5)
        assert await mesh.call(BIRD, AskMade(), timeout=5) == "anna 0 made by hand"
        with pytest.raises(AgentConstructionError, match="no instance is bound to made_starling/berta"):
            await mesh.call(AgentId("made_starling", "berta"), AskMade(), timeout=5)


@pytest.mark.row("RT-48", part="a factory reads its id and its runtime")
async def test_a_factory_knows_whom_it_makes_and_for_whom() -> None:
    known: list[tuple[AgentId, LocalRuntime]] = []

    async def make() -> Starling:
        known.append((being_made.get(), current_runtime.get()))
        made = Starling()
        made.note = "made by a factory"
        return made

    runtime = starling.local()
    runtime.register(Starling, factory=make)
    async with runtime as mesh:
        assert await mesh.call(BIRD, AskMade(), timeout=5) == "anna 0 made by a factory"
        assert await mesh.call(BIRD, AskMade(), timeout=5) == "anna 0 made by a factory"
    assert known == [(BIRD, runtime)]


@pytest.mark.row("RT-49")
async def test_a_factorys_error_reaches_the_caller_with_its_cause_and_the_next_message_tries_again() -> None:
    fails = [LookupError("no feathers")]

    def make() -> Starling:
        if fails:
            raise fails.pop()
        return Starling()

    runtime = starling.local()
    runtime.register(Starling, factory=make)
    async with runtime as mesh:
        with pytest.raises(AgentConstructionError, match="made_starling/anna: LookupError: no feathers") as raised:
            await mesh.call(BIRD, AskMade(), timeout=5)
        cause = raised.value.__cause__
        assert isinstance(cause, HandlerFailed)
        assert (cause.kind, cause.text) == ("LookupError", "no feathers")
        assert await mesh.call(BIRD, AskMade(), timeout=5) == "anna 0 made by the class"


@pytest.mark.row("RT-49", part="a failing factory counts as an attempt")
async def test_an_event_waits_for_its_agent_to_be_made_as_its_policy_says() -> None:
    fails = [LookupError("no feathers"), LookupError("no wings")]

    def make() -> Starling:
        if fails:
            raise fails.pop()
        return Starling()

    runtime = starling.local(retry=AT_ONCE)
    runtime.register(Starling, factory=make)
    async with runtime as mesh:
        await mesh.send(BIRD, Feather("roof"))
        async with asyncio.timeout(10):
            while not (await mesh.call(BIRD, AskMade(), timeout=5)).startswith("anna 1"):
                await asyncio.sleep(0.001)
    assert not fails
