"""The agents of the simulation: each turn notes its message and does what the plan says."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from starling import Agent, Context, event, message, query, rpc
from starling.core.ids import AgentId, TopicId
from starling.core.priority import Priority
from starling.errors import CallFailed

from .large import ANSWER, BODY, STATE
from .plan import Action, Plan, Step

Key = tuple[str, AgentId]
"""Tag and agent of an action."""

CALL_TIMEOUT = 20.0


@message("simulation-do")
@dataclass(frozen=True, slots=True)
class Do:
    """Do what the plan says of this tag."""

    tag: str
    pad: str = ""

    @classmethod
    def of(cls, tag: str) -> Do:
        return cls(tag, Running.plan.pad(tag, BODY))


@message("simulation-asked")
@dataclass(frozen=True, slots=True)
class Asked:
    """As `Do`, as a call."""

    tag: str
    pad: str = ""

    @classmethod
    def of(cls, tag: str) -> Asked:
        return cls(tag, Running.plan.pad(tag, BODY))


@message("simulation-answer")
@dataclass(frozen=True, slots=True)
class Answer:
    tag: str
    pad: str = ""

    @classmethod
    def of(cls, tag: str) -> Answer:
        return cls(tag, Running.plan.pad(tag, ANSWER))


@message("simulation-look")
@dataclass(frozen=True, slots=True)
class Look:
    """What has been handled so far?"""


@message("simulation-wait-and-look")
@dataclass(frozen=True, slots=True)
class WaitAndLook:
    """As `Look`, by a handler that waits."""


@message("simulation-tags")
@dataclass(frozen=True, slots=True)
class Tags:
    tags: tuple[str, ...]


@dataclass
class Noted:
    """Tags of the messages that were handled, in order. pad: of the last one."""

    tags: list[str] = field(default_factory=list)
    pad: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether the padding is that of the last tag."""
        return self.pad == (Running.plan.pad(self.tags[-1], STATE) if self.tags else "")


class Failed(Exception):
    """The plan says that this attempt fails."""


class Running:
    """Where the agents find the plan of the run that is going on in this process; one at a time."""

    plan: ClassVar[Plan]
    unsure: ClassVar[set[Key]]
    """Calls that ended without an answer: whether they took effect nobody can say, and another may be made."""
    steps: ClassVar[dict[str, list[int]]]
    """What each attempt of a turn got from its step, by the turn's key."""
    calls_of_steps: ClassVar[Counter[str]]
    damaged: ClassVar[list[str]]
    """Values that came out other than they went in."""

    @classmethod
    def begin(cls, plan: Plan) -> None:
        """Start a run."""
        cls.plan, cls.unsure, cls.steps, cls.calls_of_steps, cls.damaged = plan, set(), {}, Counter(), []


def _note(noted: Noted, ctx: Context, message: Do | Asked) -> Action:
    tag = message.tag
    if not noted.is_whole:
        Running.damaged.append(f"{ctx.id} starts {tag} with a state that is not its own: {noted}")
    if message.pad != Running.plan.pad(tag, BODY):
        Running.damaged.append(f"{ctx.id} gets a body that is not that of {tag}: {message.pad}")
    noted.tags.append(tag)
    noted.pad = Running.plan.pad(tag, STATE)
    action = Running.plan.of(tag, ctx.id)
    if action.cancels:
        ctx.cancel_timer(action.cancels)
    if action.times > 1 and noted.tags.count(tag) >= action.times:
        ctx.cancel_timer(tag)
    return action


def _step(step: Step, ctx: Context) -> None:
    priority = Priority.URGENT if step.urgent else Priority.NORMAL
    if isinstance(step.to, TopicId):
        ctx.publish(step.to, Do.of(step.tag), priority=priority)
    elif step.kind == "timer":
        ctx.set_timer(step.tag, Do.of(step.tag), delay=step.delay, every=step.every)
        if step.taken_back:
            ctx.cancel_timer(step.tag)
    else:
        sent = ctx.send(step.to, Do.of(step.tag), priority=priority, delay=step.delay)
        if step.taken_back:
            ctx.cancel(step.to, sent)


async def _call(step: Step, ctx: Context) -> None:
    assert isinstance(step.to, AgentId)
    try:
        answer = await ctx.call(step.to, Asked.of(step.tag), timeout=CALL_TIMEOUT)
    except CallFailed as error:
        if "ObjectLost" in str(error) or "not kept any more" in str(error):
            Running.damaged.append(f"the call {step.tag}: {error!r}")
        Running.unsure.add((step.tag, step.to))
        raise
    check_answer(step.tag, answer)


def check_answer(tag: str, answer: object) -> None:
    """Note an answer that is not that of its call."""
    if answer != Answer.of(tag):
        Running.damaged.append(f"the call {tag} was answered by {answer}")


async def _once(ctx: Context) -> None:
    key = ctx.idempotency_key

    def outside_world() -> int:
        Running.calls_of_steps[key] += 1
        return Running.calls_of_steps[key]

    Running.steps.setdefault(key, []).append(await ctx.step(outside_world))


def _end(action: Action, ctx: Context) -> None:
    """Fail at the end, so that a failed turn has something to take back."""
    if action.destroys:
        ctx.destroy()
    if ctx.attempt <= action.fails:
        raise Failed(f"{action.tag} attempt {ctx.attempt}")


async def _looked_at(noted: Noted) -> Tags:
    await asyncio.sleep(0.02)
    return Tags(tuple(noted.tags))


class One(Agent[Noted], type="one"):
    """Its turns cannot wait: they run without a task of their own."""

    @event
    async def do(self, message: Do, ctx: Context) -> None:
        self._act(message, ctx)

    @rpc
    async def asked(self, message: Asked, ctx: Context) -> Answer:
        self._act(message, ctx)
        return Answer.of(message.tag)

    @query
    async def look(self, message: Look) -> Tags:
        return Tags(tuple(self.state.tags))

    @query
    async def wait_and_look(self, message: WaitAndLook) -> Tags:
        return await _looked_at(self.state)

    def _act(self, message: Do | Asked, ctx: Context) -> None:
        action = _note(self.state, ctx, message)
        for step in action.steps:
            _step(step, ctx)
        _end(action, ctx)


class Two(Agent[Noted], type="two"):
    """Its turns wait: for time, and for the answers of others."""

    @event
    async def do(self, message: Do, ctx: Context) -> None:
        await self._act(message, ctx)

    @rpc
    async def asked(self, message: Asked, ctx: Context) -> Answer:
        await self._act(message, ctx)
        return Answer.of(message.tag)

    @query
    async def look(self, message: Look) -> Tags:
        return Tags(tuple(self.state.tags))

    @query
    async def wait_and_look(self, message: WaitAndLook) -> Tags:
        return await _looked_at(self.state)

    async def _act(self, message: Do | Asked, ctx: Context) -> None:
        action = _note(self.state, ctx, message)
        if action.pause:
            await asyncio.sleep(action.pause)
        if action.once:
            await _once(ctx)
        for step in action.steps:
            if step.kind == "call":
                await _call(step, ctx)
            else:
                _step(step, ctx)
        _end(action, ctx)


AGENTS = (One, Two)
