"""The agents that benchmarks and faults run: small handlers, so that what is measured is the mesh."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field

from starling import Agent, Context, Topic, event, query, rpc

ADD = Topic("bench.add")
"""Its source is the key of a counter."""
NUMBERED = Topic("bench.numbered")
"""Its source is the key of a checker."""


@dataclass(frozen=True, slots=True)
class Add:
    """Counts one."""

    amount: int = 1


@dataclass(frozen=True, slots=True)
class AddNow:
    """Counts one and wants the sum."""

    amount: int = 1


@dataclass(frozen=True, slots=True)
class Read:
    """Asks for the sum."""


@dataclass(frozen=True, slots=True)
class Peek:
    """Asks for the sum without the log."""


@dataclass(frozen=True, slots=True)
class Count:
    """What an agent has counted."""

    handled: int


@dataclass
class CounterState:
    handled: int = 0


class Counter(Agent[CounterState]):
    """One number, stored with each message."""

    @event
    async def add(self, message: Add) -> None:
        self.state.handled += message.amount

    @rpc
    async def add_now(self, message: AddNow) -> Count:
        self.state.handled += message.amount
        return Count(self.state.handled)

    @rpc
    async def read(self, message: Read) -> Count:
        return Count(self.state.handled)

    @query
    async def peek(self, message: Peek) -> Count:
        return Count(self.state.handled)


class Fleeting(Agent[CounterState], durability="none"):
    """As Counter, and nothing of it is recorded."""

    @rpc
    async def add_now(self, message: AddNow) -> Count:
        self.state.handled += message.amount
        return Count(self.state.handled)


@dataclass(frozen=True, slots=True)
class Hop:
    """To be passed on to the counter of this key."""

    key: str


@dataclass(frozen=True, slots=True)
class HopNow:
    """As Hop, with the counter's answer for the caller."""

    key: str


@dataclass(frozen=True, slots=True)
class Spread:
    """To be passed on to so many counters."""

    prefix: str
    targets: int


class Relay(Agent[CounterState]):
    """Passes on what it gets, and counts it."""

    @event
    async def hop(self, message: Hop, ctx: Context) -> None:
        self.state.handled += 1
        ctx.agent(Counter, message.key).add(Add())

    @event
    async def spread(self, message: Spread, ctx: Context) -> None:
        self.state.handled += 1
        for number in range(message.targets):
            ctx.agent(Counter, f"{message.prefix}{number}").add(Add())

    @rpc
    async def hop_now(self, message: HopNow, ctx: Context) -> Count:
        self.state.handled += 1
        return await ctx.agent(Counter, message.key).add_now(AddNow())


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message with a large body."""

    body: str


class Scale(Agent[CounterState]):
    """Weighs parcels: the state stays small, only the body is large."""

    @rpc
    async def weigh(self, message: Parcel) -> Count:
        self.state.handled += 1
        return Count(len(message.body))


@dataclass(frozen=True, slots=True)
class Hoard:
    """Makes the state so large."""

    size_bytes: int


@dataclass
class HoardState:
    text: str = ""


class Hoarder(Agent[HoardState], idle=0.2):
    """A large state in one cell, which leaves memory soon. left: set once it has."""

    left = asyncio.Event()

    @rpc
    async def hoard(self, message: Hoard) -> Count:
        self.state.text = "x" * message.size_bytes
        return Count(message.size_bytes)

    @rpc
    async def read(self, message: Read) -> Count:
        return Count(len(self.state.text))

    async def on_passivate(self) -> None:
        Hoarder.left.set()


@dataclass(frozen=True, slots=True)
class Sequenced:
    """One of a source's messages to one agent. number: from 1; seconds: that its turn takes, 0 does not wait."""

    source: str
    number: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Wants an answer after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class HandedOn:
    """What a checker passes on of each message: its own running number."""

    number: int


@dataclass
class CheckedState:
    """last: number of each source's last message. doubled: numbers not above the last; gaps: numbers left out."""

    handled: int = 0
    doubled: int = 0
    gaps: int = 0
    last: dict[str, int] = field(default_factory=dict)

    def note(self, source: str, number: int) -> None:
        """Count a message and compare its number with the one before."""
        last = self.last.get(source, 0)
        self.handled += 1
        self.doubled += number <= last
        self.gaps += max(0, number - last - 1)
        self.last[source] = max(last, number)


class Checker(Agent[CheckedState]):
    """Checks the numbers of what comes in, and passes each message on to the ledger of its own key."""

    @event
    async def numbered(self, message: Sequenced, ctx: Context) -> None:
        self._note(message, ctx)
        if message.seconds:
            await asyncio.sleep(message.seconds)

    def _note(self, message: Sequenced, ctx: Context) -> None:
        self.state.note(message.source, message.number)
        ctx.agent(Ledger, self.id.key).passed(HandedOn(self.state.handled))

    @rpc
    async def wait(self, message: Wait) -> Count:
        await asyncio.sleep(message.seconds)
        return Count(self.state.handled)

    @rpc
    async def read(self, message: Read) -> CheckedState:
        return self.state


class Ledger(Agent[CheckedState]):
    """The second hop of a checked message."""

    @event
    async def passed(self, message: HandedOn) -> None:
        self.state.note("checker", message.number)

    @rpc
    async def read(self, message: Read) -> CheckedState:
        return self.state


@dataclass(frozen=True, slots=True)
class Bad:
    """A message that no attempt handles."""


@dataclass(frozen=True, slots=True)
class Lethal:
    """A message that kills the process."""


class Trouble(Agent[CounterState]):
    """Fails, or takes the whole process along."""

    @event
    async def bad(self, message: Bad) -> None:
        self.state.handled += 1
        raise ValueError("this message cannot be handled")

    @event
    async def deadly(self, message: Lethal) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
