"""What goes into a turn and what comes out of it: work that waits, and outcomes for the next commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from starling.core.due import DueKind, Place
from starling.core.envelope import Envelope
from starling.core.ids import AgentId
from starling.core.names import Inlet, Lane
from starling.core.positions import Position
from starling.core.record import Cell, ReplyRecord, Target

if TYPE_CHECKING:
    from starling.engine.activation import Activation
    from starling.engine.room import Share
    from starling.tracing import TurnTrace


Send = tuple[Target, bytes]
"""One packed envelope, and the lane of a shard that it goes to."""


class Asked(NamedTuple):
    """What a handler asks of another agent, by call or query. timeout: seconds, None for the default of the two."""

    target: AgentId
    type_name: str
    body: bytes
    timeout: float | None
    headers: Mapping[str, str]


class SavedStep:
    """A step or call of a turn as it is saved: its cell, and what its end was, as far as this process knows."""

    __slots__ = ("data", "failed", "key")

    def __init__(self, key: str, data: bytes) -> None:
        self.key = key
        self.data = data
        self.failed = False
        """It ended in an error; a further attempt makes it anew."""


class Work:
    """One envelope that waits for its turn: a message of the mailbox, or a due record.

    envelope: None while it is only in the record's cell; position, index: in the mailbox, None for a due record;
    due: key of its record, "" while it stands in the mailbox only; not_before: by the loop's clock, after a failure;
    attempt: failed attempts; fresh: stored after our take, so that no earlier owner can have started it.
    """

    __slots__ = (
        "attempt",
        "cancelled",
        "counted",
        "cron",
        "due",
        "envelope",
        "every",
        "fresh",
        "index",
        "inlet",
        "lane",
        "not_before",
        "place",
        "position",
        "received",
        "saved",
        "share",
        "size_bytes",
        "started",
        "stored",
        "timer",
    )

    def __init__(
        self,
        envelope: Envelope | None,
        inlet: Inlet | None,
        position: Position | None,
        index: int,
        size_bytes: int,
        stored: float,
        *,
        lane: Lane = Lane.NORMAL,
        due: str = "",
        place: Place | None = None,
        attempt: int = 0,
        fresh: bool = False,
    ) -> None:
        self.envelope = envelope
        self.inlet = inlet
        self.position = position
        self.index = index
        self.size_bytes = size_bytes
        self.stored = stored
        self.lane = lane
        self.due = due
        self.place = place
        self.attempt = attempt
        self.fresh = fresh
        self.not_before = 0.0
        self.received = 0
        """When its owner had it, nanoseconds since 1970 by the machine; 0 without tracing."""
        self.started = False
        self.cancelled = False
        """Its caller has given up on it."""
        self.counted = False
        """In careful mode: this attempt is committed already."""
        self.saved: dict[str, SavedStep] | None = None
        self.share: Share | None = None
        """Of the room for large bodies, while its turn has one."""
        self.timer = ""
        self.every = 0.0
        self.cron = ""

    @property
    def where(self) -> Place:
        """Its place in the mailbox, which names its record."""
        if self.position is not None:
            return Place(self.position.sequence, self.index)
        return self.place or Place(0, 0)


class DueAdd(NamedTuple):
    """A due record that the next commit makes live. body: of its cell; None when that is stored already."""

    key: str
    at: int
    kind: DueKind
    body: bytes | None
    name: str = ""
    lane: Lane = Lane.NORMAL


class Outcome:
    """What the next commit is to make true. Most of them are the end of a turn."""

    __slots__ = (
        "activation",
        "after",
        "agent",
        "answered",
        "cells",
        "dead",
        "due",
        "ends",
        "future",
        "lazy",
        "moves_to",
        "reply",
        "sends",
        "size_bytes",
        "state",
        "trace",
        "undue",
        "unname",
        "work",
    )

    def __init__(self, work: Work | None = None, *, ends: bool = True) -> None:
        self.work = work
        self.ends = ends and work is not None
        """The work is done with: finished in the mailbox, or its due record removed."""
        self.activation: Activation | None = None
        """Whose state is not committed before this is."""
        self.moves_to: DueAdd | None = None
        """Where the work waits from now on, instead of its end."""
        self.agent: AgentId | None = None
        """Whose delayed messages `unname` speaks of."""
        self.cells: dict[str, Cell] | None = None
        self.state: bytes | None = None
        """The state that it commits, whole; None when it changes none."""
        self.sends: Sequence[Send] = ()
        self.reply: ReplyRecord | None = None
        self.dead: tuple[str, bytes] | None = None
        self.due: list[DueAdd] | None = None
        self.undue: list[str] | None = None
        """Keys of due records that end."""
        self.unname: list[str] | None = None
        """Ids of delayed messages of `agent` that are taken back."""
        self.future: asyncio.Future[None] | None = None
        """Ends when the commit is stored."""
        self.after: Callable[[], None] | None = None
        """Called when the commit is stored."""
        self.answered: Activation | None = None
        """Whose turn it was, when its caller has the answer before the commit."""
        self.trace: TurnTrace | None = None
        """Ends when the commit is stored; None without tracing."""
        self.lazy = False
        """Nobody waits for it: it wakes no commit by itself."""
        self.size_bytes = 64

    @property
    def is_empty(self) -> bool:
        """Whether it leaves nothing behind but that the work is done with, and its reply."""
        return not (self.cells or self.sends or self.due or self.undue or self.unname or self.moves_to)

    def cell(self, key: str, cell: Cell) -> None:
        """Add a changed cell."""
        if self.cells is None:
            self.cells = {}
        self.cells[key] = cell
        self.size_bytes += len(cell.data or b"") + len(key)
