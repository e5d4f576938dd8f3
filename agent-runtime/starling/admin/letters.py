"""The dead letters of a pool: listed, shown, put back, dropped. They are read a page at a time; pods are not asked."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from starling.core.envelope import Envelope, open_frame
from starling.core.ids import PoolName
from starling.core.names import MeshNames
from starling.core.severity import Severity
from starling.engine.dead import DeadLetter, Fill, fill_of
from starling.errors import DecodeError, SpecError, UnknownPool
from starling.ports.store import Message, Store

PAGE: Final = 50
_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter of a pool. number: sequence in its stream; replaying: since when it is being put back, or None."""

    pool: PoolName
    number: int
    letter: DeadLetter
    size_bytes: int
    replaying: float | None = None

    @property
    def envelopes(self) -> list[Envelope]:
        """The messages in it: one, or those of a frame that found no mailbox; none when nothing could be read."""
        if self.letter.envelope is not None:
            return [self.letter.envelope]
        try:
            return [Envelope.from_map(value) for value in open_frame(self.letter.raw)]
        except DecodeError:
            return []


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list says of a letter; without body and stack, so that a page of them is small."""

    pool: PoolName
    number: int
    severity: Severity
    time: float
    reason: str
    text: str
    agent: str
    type: str
    message_id: str
    attempts: int
    messages: int
    replaying: float | None = None

    @property
    def name(self) -> str:
        """How commands call the letter."""
        return f"{self.pool}/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters are meant: all that fit everything given. since, until: seconds since 1970.

    agent: "type" or "type/key"; type: of the message; reason: class name of the error; severity: this one exactly.
    """

    severity: Severity | None = None
    agent: str | None = None
    type: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether the letter is meant."""
        told = letter.letter
        return (
            self.severity in (None, told.severity)
            and self.reason in (None, told.reason)
            and (self.since is None or told.time >= self.since)
            and (self.until is None or told.time <= self.until)
            and (
                (self.agent is None and self.type is None)
                or any(self._takes_message(envelope) for envelope in letter.envelopes)
            )
        )

    def _takes_message(self, envelope: Envelope) -> bool:
        return self.type in (None, envelope.type) and self.agent in (None, envelope.target.type, str(envelope.target))


@dataclass(frozen=True, slots=True)
class LetterPage:
    """One page of a list. total: letters that fit the filter; pages: how many pages there are."""

    letters: tuple[Summary, ...]
    number: int
    pages: int
    total: int


async def list_letters(
    pools: Iterable[DeadLetters], wanted: Filter | None = None, *, number: int = 1, size: int = PAGE
) -> LetterPage:
    """Return one page of the pools' letters, worst first and then newest first; beyond the last page it is empty.

    number: from 1. Memory is that of `number` pages of summaries, however many letters there are.
    Raises SpecError, Unreachable, UnknownPool.
    """
    if number < 1 or size < 1:
        raise SpecError("page", f"page {number} of {size} letters: both start at 1")
    best: list[tuple[tuple[int, float, int, str], Summary]] = []
    total = 0
    for pool in pools:
        async for letter in pool.each(wanted):
            total += 1
            summary = _summary(letter)
            rank = (-summary.severity.rank, summary.time, summary.number, summary.pool)
            if len(best) < number * size:
                heapq.heappush(best, (rank, summary))
            else:
                heapq.heappushpop(best, (rank, summary))
    ordered = [summary for _, summary in sorted(best, key=lambda item: item[0], reverse=True)]
    return LetterPage(tuple(ordered[(number - 1) * size :]), number, -(-total // size), total)


class DeadLetters:
    """The dead letters of one pool. Every method raises Unreachable, and UnknownPool when there is no such pool."""

    def __init__(self, store: Store, mesh: str, pool: PoolName) -> None:
        self._store = store
        self._names = MeshNames(mesh).pool(pool)
        self.pool = pool

    async def each(self, wanted: Filter | None = None) -> AsyncIterator[Letter]:
        """Yield the letters that fit, oldest first; what comes meanwhile as well."""
        replaying = await self.under_way()
        first = 1
        while page := await self._store.page(self._names.dead_letters, self._names.dead_subject, first):
            for message in page:
                letter = self._letter(message, replaying)
                if wanted is None or wanted.takes(letter):
                    yield letter
            first = page[-1].sequence + 1

    async def get(self, number: int) -> Letter:
        """Return one letter. Raises SpecError when there is none of this number."""
        page = await self._store.page(self._names.dead_letters, self._names.dead_subject, number)
        if number < 1 or not page or page[0].sequence != number:
            raise SpecError("letter", f"pool {self.pool} has no dead letter {number}; `starling dead list` shows them")
        return self._letter(page[0], await self.under_way())

    async def last(self) -> int:
        """Return the number of the newest letter, 0 when there is none."""
        message = await self._store.last(self._names.dead_letters, self._names.dead_subject)
        return message.sequence if message else 0

    async def of_message(self, message_id: str) -> list[Letter]:
        """Return the letters of a message, by the id that it got when it was made; oldest first."""
        return [
            letter async for letter in self.each() if any(envelope.id == message_id for envelope in letter.envelopes)
        ]

    async def drop(self, number: int) -> bool:
        """Remove a letter for good; False when it was gone already."""
        dropped = await self._store.remove(self._names.dead_letters, number)
        await self.forget_replay(number)
        return dropped

    async def forget_replay(self, number: int) -> None:
        """Remove the note that a letter is being put back."""
        subject = self._names.replay_subject(number)
        note = await self._store.last(self._names.dead_letters, subject)
        if note is not None:
            await self._store.purge(self._names.dead_letters, subject, note.sequence + 1)

    async def fill(self) -> Fill:
        """Return how full the stream is."""
        info = await self._store.stream_info(self._names.dead_letters)
        if info is None:
            raise UnknownPool(f"there is no stream {self._names.dead_letters}")
        return fill_of(info)

    async def under_way(self) -> Mapping[int, float]:
        """Letters that are being put back: number to the time at which that began."""
        found: dict[int, float] = {}
        first = 1
        while notes := await self._store.page(self._names.dead_letters, self._names.replay_subjects, first):
            for note in notes:
                found[int(note.subject.rpartition(".")[2])] = note_time(note)
            first = notes[-1].sequence + 1
        return found

    def _letter(self, message: Message, replaying: Mapping[int, float]) -> Letter:
        try:
            told = DeadLetter.unpack(message.data)
        except DecodeError as error:
            told = DeadLetter("DecodeError", str(error), "", 0, message.time, None, message.data, Severity.HIGH)
        return Letter(self.pool, message.sequence, told, len(message.data), replaying.get(message.sequence))


def note_time(note: Message) -> float:
    """Return when a letter was first put back, by the server's clock, as its note says."""
    return float(note.data) if note.data else note.time


def _summary(letter: Letter) -> Summary:
    told, envelopes = letter.letter, letter.envelopes
    first = envelopes[0] if envelopes else None
    return Summary(
        pool=letter.pool,
        number=letter.number,
        severity=told.severity,
        time=told.time,
        reason=told.reason,
        text=" ".join(told.text.split())[:_TEXT],
        agent=str(first.target) if first else "",
        type=first.type if first else "",
        message_id=first.id if first else "",
        attempts=told.attempts,
        messages=len(envelopes),
        replaying=letter.replaying,
    )
