"""The owner's hold on its journal: to take it and to append to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from starling.core.ids import ShardId
from starling.core.names import PoolNames
from starling.core.record import Kind, Record
from starling.engine.at_once import started
from starling.engine.faults import Passed, Point, no_fault
from starling.errors import Fenced, JournalLost, OutcomeUnknown, RetryLater, TooLarge, UnknownPool, Unreachable
from starling.ports.store import Answer, Expect, Refused, Store, Stored

log = logging.getLogger(__name__)


class Journal:
    """One shard's journal in the hands of its owner: one record in flight, each on condition of the last."""

    def __init__(self, store: Store, names: PoolNames, shard: ShardId, last: int, passed: Passed = no_fault) -> None:
        self._store = store
        self._stream = names.journal(shard)
        self._subject = names.journal_subject(shard)
        self.last = last
        self.written_bytes = 0
        self.confirmed = 0.0
        """The loop's time at which we last asked, of those times that we were told to be the owner."""
        self._passed = passed
        self._sent_bytes = 0
        self._asked = 0.0
        self._is_over = False
        """A record was not stored, or nobody knows yet: what it said of turns and positions is in no other memory."""

    async def append(self, record: Record) -> int:
        """Store the next record and return its sequence. Raises as `send` and `ended`; cancelling ends the journal."""
        return self.ended(await self.send(record))

    def send(self, record: Record) -> Awaitable[Answer]:
        """Hand the next record to the store; `ended` is to be told what answers.

        Raises Unreachable when nothing was sent. As long as a record has not ended well it takes no further one:
        OutcomeUnknown.
        """
        if self._is_over:
            raise OutcomeUnknown(f"{self._stream}: the record before this one was not stored, as far as we know")
        self._is_over = True
        data = record.encode()
        self._sent_bytes = len(data)
        self._asked = asyncio.get_running_loop().time()
        answer = started(self._store.publish(self._subject, data, expect=Expect(self.last)))
        self._passed(Point.RECORD_SENT)
        return answer

    def ended(self, answer: Answer) -> int:
        """Return the sequence of the record that was sent last.

        Raises Fenced when somebody else appended, OutcomeUnknown when nobody can say (drop everything, take
        again), TooLarge, JournalLost.
        """
        match answer:
            case Stored(sequence):
                self.last = sequence
                self.written_bytes += self._sent_bytes
                self._is_over = False
                self.confirmed = self._asked
                self._passed(Point.RECORD_ACKED)
                return sequence
            case Refused("conflict", text):
                raise Fenced(f"{self._stream}: {text or 'somebody else appended'}")
            case Refused("no-stream", _):
                raise JournalLost(f"there is no stream {self._stream}")
            case Refused(why, text):
                raise TooLarge(f"{self._stream} refused a record: {why} {text}")
            case _:
                raise OutcomeUnknown(f"{self._stream}: {answer.text}")

    async def purge(self, below: int) -> None:
        """Remove the records below a sequence."""
        await self._store.purge(self._stream, self._subject, below)

    async def is_ours(self) -> bool:
        """Whether the last record is the last that we appended, as the stream's leader has it. Raises Unreachable."""
        info = await self._store.stream_info(self._stream)
        return info is not None and info.last_sequence <= self.last

    async def is_current(self) -> bool:
        """Whether nobody else has appended, as some replica has it. Raises Unreachable."""
        asked = asyncio.get_running_loop().time()
        message = await self._store.last(self._stream, self._subject)
        if message is not None and message.sequence > self.last:
            return self._is_over  # one of ours is under way: it may be that one, and what answers it will say so
        self.confirmed = max(self.confirmed, asked)
        return True


async def last_record(store: Store, names: PoolNames, shard: ShardId) -> tuple[int, Record]:
    """Return the last record and its sequence. Raises JournalLost when there is none, Unreachable."""
    try:
        message = await store.last(names.journal(shard), names.journal_subject(shard))
    except UnknownPool as error:
        raise JournalLost(str(error)) from error
    if message is None:
        # A replica that lags may not have any record yet; what the stream says of itself comes from its leader.
        info = await store.stream_info(names.journal(shard))
        if info is not None and info.messages:
            raise Unreachable(f"journal {names.journal(shard)}: the replica that answered has no record yet")
        raise JournalLost(f"journal {names.journal(shard)} is empty: it was made without its first record")
    return message.sequence, Record.decode(message.data)


async def take(
    store: Store,
    names: PoolNames,
    shard: ShardId,
    *,
    owner: str,
    map_rev: int,
    over: tuple[int, Record],
    passed: Passed = no_fault,
) -> tuple[Journal, Record]:
    """Become the owner by appending the next epoch over the last record as it was read.

    Raises RetryLater when something was appended since, or what was read came from a replica that lags;
    OutcomeUnknown when nobody can say: read again and decide again. It is never concluded from the owner or epoch
    found there that an unknown take was ours.
    """
    sequence, last = over
    journal = Journal(store, names, shard, sequence, passed)
    record = Record(
        kind=Kind.TAKE,
        previous=sequence,
        epoch=last.epoch + 1,
        owner=owner,
        map_rev=max(map_rev, last.map_rev),
        barren=last.barren + 1,
        snapshot=last.snapshot,
    )
    try:
        await journal.append(record)
    except JournalLost:
        raise
    except Fenced as error:
        # we owned nothing that somebody could have taken from us
        raise RetryLater(f"{names.journal(shard)} has moved on since record {sequence} was read") from error
    passed(Point.TAKEN)
    return journal, record
