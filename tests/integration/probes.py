"""Agents whose state tells what happened to them: what came, how often, in which order, how many at once."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from starling import Agent, AgentId, Context, Topic, event, message, query, rpc
from starling.errors import DoNotRetry

NUMBERS = Topic("probe.numbers")


@dataclass(frozen=True, slots=True)
class Numbered:
    """The `value`-th message of a sender, from 1. fails: how many attempts at it fail first."""

    sender: str
    value: int
    fails: int = 0


@dataclass(frozen=True, slots=True)
class Relayed:
    """Asks a relay to pass a number on to the recorder of this key."""

    to: str
    value: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Asks an agent for its state."""


@dataclass(frozen=True, slots=True)
class Nap:
    """Keeps the agent busy. seconds: how long; note: a file to which a line is added when it starts."""

    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Break:
    """Makes the handler raise ValueError with this text, or DoNotRetry."""

    text: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class CallOn:
    """Asks an agent to call the next of the path, which is of the form type/key."""

    path: list[str]


@dataclass(frozen=True, slots=True)
class Deadly:
    """Ends the process that handles it, at once."""


@message
@dataclass(frozen=True, slots=True)
class Unhandled:
    """A message that no probe takes."""


@dataclass
class Record:
    """last: by sender, the number that came last; wrong: what was not the next number, as "sender:last:value"."""

    count: int = 0
    last: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class Recorder(Agent[Record], type="recorder"):
    """Counts what comes and notes whatever is lost, doubled or out of order."""

    @event
    async def numbered(self, message: Numbered, ctx: Context) -> None:
        state = self.state
        last = state.last.get(message.sender, 0)
        state.count += 1
        if message.value != last + 1:
            state.wrong.append(f"{message.sender}:{last}:{message.value}")
        state.last[message.sender] = message.value
        if ctx.attempt <= message.fails:
            raise RuntimeError(f"attempt {ctx.attempt} of {message.value} fails")

    @rpc
    async def tell(self, message: Tell) -> Record:
        return self.state


@dataclass
class Passed:
    """passed: by recorder, how many numbers were passed on; values: what came last."""

    passed: dict[str, int] = field(default_factory=dict)
    last: int = 0
    wrong: int = 0


class Relay(Agent[Passed], type="relay"):
    """Passes numbers on, counted anew, so that what it sends tells whether a turn of its own took effect twice."""

    @event
    async def relayed(self, message: Relayed, ctx: Context) -> None:
        state = self.state
        state.wrong += message.value != state.last + 1
        state.last = message.value
        number = state.passed[message.to] = state.passed.get(message.to, 0) + 1
        ctx.send(AgentId("recorder", message.to), Numbered(self.id.key, number))

    @rpc
    async def tell(self, message: Tell) -> Passed:
        return self.state


@dataclass
class Busy:
    """naps: that were finished; most: how many ran at once."""

    naps: int = 0
    most: int = 0


class Sleeper(Agent[Busy], type="sleeper"):
    """Is busy for as long as it is told to."""

    running = 0

    @event
    async def nap(self, message: Nap) -> None:
        self.running += 1
        most = max(self.state.most, self.running)
        noted(message)
        await asyncio.sleep(message.seconds)
        self.running -= 1
        self.state.most = most
        self.state.naps += 1

    @rpc
    async def tell(self, message: Tell) -> Busy:
        return self.state


def noted(message: Nap) -> None:
    """Leave a line where the test sees it: an effect outside, which a repeated turn has again."""
    if message.note:
        with Path(message.note).open("a") as file:
            file.write("started\n")


@dataclass(frozen=True, slots=True)
class Heavy:
    """A message with a body that takes room, and its number."""

    number: int
    body: str


@dataclass
class Weighed:
    """Numbers of what was weighed, in order."""

    numbers: list[int] = field(default_factory=list)


class Scale(Agent[Weighed], type="scale"):
    """Takes its time for each heavy message."""

    @event
    async def heavy(self, message: Heavy) -> None:
        await asyncio.sleep(0.01)
        self.state.numbers.append(message.number)

    @query
    async def tell(self, message: Tell) -> Weighed:
        return self.state


class Caller(Agent, type="caller"):
    """Raises, and calls others."""

    @event
    async def broken(self, message: Break) -> None:
        raise DoNotRetry(message.text) if message.final else ValueError(message.text)

    @event
    async def deadly(self, message: Deadly) -> None:
        os._exit(7)

    @rpc
    async def breaks(self, message: Break) -> str:
        raise ValueError(message.text)

    @rpc
    async def call_on(self, message: CallOn, ctx: Context) -> str:
        if not message.path:
            return str(self.id)
        first, *rest = message.path
        answer: str = await ctx.call(AgentId.parse(first), CallOn(rest))
        return f"{self.id} {answer}"

    @rpc
    async def slow(self, message: Nap) -> str:
        noted(message)
        await asyncio.sleep(message.seconds)
        return "awake"


class Bearer(Agent, type="bearer"):
    """Answers with the headers that the last of a path reads; each hop but the last says that it was there."""

    @rpc
    async def call_on(self, message: CallOn, ctx: Context) -> dict[str, str]:
        if not message.path:
            return dict(ctx.headers)
        first, *rest = message.path
        answer: dict[str, str] = await ctx.call(AgentId.parse(first), CallOn(rest), headers={"hop": str(self.id)})
        return answer


@dataclass(frozen=True, slots=True)
class Pay:
    """Takes in an amount once the seconds have passed; note: as of `Nap`."""

    amount: int
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class PayAt:
    """Asks a payer to pay a till and to note the answer."""

    till: str
    pay: Pay


@dataclass(frozen=True, slots=True)
class Order:
    """Goes to the model and then to the mail server, whose files are in `folder`; the first time it ends the process.

    dies_after: "step" or "mail".
    """

    folder: str
    dies_after: str


@dataclass
class Money:
    """total: taken in, or as it was answered last; turns: that took effect."""

    total: int = 0
    turns: int = 0


class Till(Agent[Money], type="till"):
    @rpc
    async def pay(self, message: Pay) -> int:
        noted(Nap(0, message.note))
        await asyncio.sleep(message.seconds)
        self.state.total += message.amount
        self.state.turns += 1
        return self.state.total

    @rpc
    async def tell(self, message: Tell) -> Money:
        return self.state


class Payer(Agent[Money], type="payer"):
    @event
    async def pay_at(self, message: PayAt, ctx: Context) -> None:
        self.state.total = await ctx.call(AgentId("till", message.till), message.pay)
        self.state.turns += 1

    @event
    async def order(self, message: Order, ctx: Context) -> None:
        self.state.total = await ctx.step(ask_model, message.folder)
        ends_process(message, "step")
        line_to(Path(message.folder) / "mails", ctx.idempotency_key)
        ends_process(message, "mail")
        self.state.turns += 1

    @rpc
    async def tell(self, message: Tell) -> Money:
        return self.state


@dataclass(frozen=True, slots=True)
class Rouse:
    """Be woken every 1.5 s from now on, or not any more. note: a file that gets a line whenever the agent leaves."""

    note: str
    on: bool = True


@dataclass(frozen=True, slots=True)
class Woken:
    pass


@dataclass
class Wakes:
    """times: when each turn of the timer was due, milliseconds since 1970."""

    note: str = ""
    times: list[int] = field(default_factory=list)


class Dormouse(Agent[Wakes], type="dormouse", idle=0.2):
    """Sleeps between two turns of its timer."""

    @event
    async def rouse(self, message: Rouse, ctx: Context) -> None:
        self.state.note = message.note
        if message.on:
            ctx.set_timer("wake", Woken(), every=1.5)  # out of step with the look for idle agents
        else:
            ctx.cancel_timer("wake")

    @event
    async def woken(self, message: Woken, ctx: Context) -> None:
        self.state.times.append(int(ctx.message_id.rpartition("@")[2]))

    @rpc
    async def tell(self, message: Tell) -> Wakes:
        return self.state

    async def on_passivate(self) -> None:
        line_to(Path(self.state.note), "asleep")


async def ask_model(folder: str) -> int:
    """Answer, and count that it was asked."""
    line_to(Path(folder) / "asked", "asked")
    return 42


def line_to(file: Path, line: str) -> None:
    with file.open("a") as opened:
        opened.write(f"{line}\n")


def ends_process(message: Order, where: str) -> None:
    """End the process here, the first time."""
    mark = Path(message.folder) / "died"
    if message.dies_after == where and not mark.exists():
        mark.touch()
        os._exit(7)
