"""An agent that changes its role by a message: the change is an event in its state, and its next answer shows it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from starling import Agent, AgentId, event, message, rpc, testing


@message("roles.Become")
@dataclass(frozen=True)
class Become:
    role: str


@message("roles.Say")
@dataclass(frozen=True)
class Say:
    text: str


@dataclass
class Persona:
    """events: the roles it took, in order."""

    events: list[Become] = field(default_factory=list)


class Speaker(Agent[Persona], type="roles_speaker"):
    @event
    async def become(self, message: Become) -> None:
        self.state.events.append(message)

    @rpc
    async def say(self, message: Say) -> str:
        role = self.state.events[-1].role if self.state.events else "nobody"
        return f"{role}: {message.text}"


@pytest.mark.row("RT-94")
async def test_a_role_taken_by_a_message_is_in_the_state_and_shows_in_the_next_answer() -> None:
    speaker = AgentId("roles_speaker", "k")
    async with testing.mesh(Speaker) as mesh:
        assert await mesh.call(speaker, Say("hello")) == "nobody: hello"
        for role in ("critic", "planner"):
            await mesh.send(speaker, Become(role))
            assert await mesh.call(speaker, Say("hello")) == f"{role}: hello"
        await mesh.crash()
        assert await mesh.call(speaker, Say("again")) == "planner: again"
        assert (await mesh.state(Speaker, "k")).events == [Become("critic"), Become("planner")]
