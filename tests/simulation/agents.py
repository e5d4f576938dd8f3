"""The agents of the simulation: each turn notes its message and does what the plan says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar

from starling import Agent, Context, event, message, rpc
from starling.core.ids import AgentId, TopicId

from .plan import Action, Plan, Step

CALL_TIMEOUT = 20.0


@message("simulation-do")
@dataclass(frozen=True, slots=True)
class Do:
    """Do what the plan says of this tag."""

    tag: str


@message("simulation-asked")
@dataclass(frozen=True, slots=True)
class Asked:
    """As `Do`, as a call."""

    tag: str


@message("simulation-answer")
@dataclass(frozen=True, slots=True)
class Answer:
    tag: str


@dataclass
class Noted:
    """Tags of the messages that were handled, in order."""

    tags: list[str] = field(default_factory=list)


class Failed(Exception):
    """The plan says that this attempt fails."""


class Running:
    """Where the agents find the plan of the run that is going on in this process; one at a time."""

    plan: ClassVar[Plan]


def _note(noted: Noted, agent: AgentId, tag: str) -> Action:
    noted.tags.append(tag)
    return Running.plan.of(tag, agent)


def _step(step: Step, ctx: Context) -> None:
    if isinstance(step.to, TopicId):
        ctx.publish(step.to, Do(step.tag))
    else:
        ctx.send(step.to, Do(step.tag))


def _end(action: Action, ctx: Context) -> None:
    """Fail at the end, so that a failed turn has something to take back."""
    if ctx.attempt <= action.fails:
        raise Failed(f"{action.tag} attempt {ctx.attempt}")


class One(Agent[Noted], type="one"):
    """Its turns cannot wait: they run without a task of their own."""

    @event
    async def do(self, message: Do, ctx: Context) -> None:
        self._act(message.tag, ctx)

    @rpc
    async def asked(self, message: Asked, ctx: Context) -> Answer:
        self._act(message.tag, ctx)
        return Answer(message.tag)

    def _act(self, tag: str, ctx: Context) -> None:
        action = _note(self.state, self.id, tag)
        for step in action.steps:
            _step(step, ctx)
        _end(action, ctx)


class Two(Agent[Noted], type="two"):
    """Its turns wait: for time, and for the answers of others."""

    @event
    async def do(self, message: Do, ctx: Context) -> None:
        await self._act(message.tag, ctx)

    @rpc
    async def asked(self, message: Asked, ctx: Context) -> Answer:
        await self._act(message.tag, ctx)
        return Answer(message.tag)

    async def _act(self, tag: str, ctx: Context) -> None:
        action = _note(self.state, self.id, tag)
        if action.pause:
            await asyncio.sleep(action.pause)
        for step in action.steps:
            if step.kind == "call":
                await ctx.call(step.to, Asked(step.tag), timeout=CALL_TIMEOUT)  # type: ignore[arg-type]
            else:
                _step(step, ctx)
        _end(action, ctx)


AGENTS = (One, Two)
