"""The journal as one reads it who takes the shard, or who soon will: record by record into one fold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from starling.core import limits
from starling.core.ids import ShardId
from starling.core.names import PoolNames
from starling.core.record import Record
from starling.core.replay import Replay
from starling.errors import Fenced, Unreachable
from starling.ports.store import Message, Store

AT_ONCE: Final = 64
"""Records between two rounds of the loop (20 us each): the shards that this process runs go on meanwhile."""


class Reading:
    """What is read of one shard's journal. It may begin before the take: records do not change, the journal only grows
    at one end and is purged at the other, where the fold sees the gap."""

    def __init__(self, store: Store, names: PoolNames, shard: ShardId) -> None:
        self._store = store
        self._stream = names.journal(shard)
        self._subject = names.journal_subject(shard)
        self._fold = Replay()
        self._last: Message | None = None
        self._is_checked = True
        """Whether the last record that we read is still what the journal has there."""

    async def ahead(self) -> None:
        """Read on to the end of what is there. Raises Unreachable, JournalLost, DecodeError: then it is worth nothing.

        A cancellation leaves it as far as it has come.
        """
        self._is_checked = False
        while page := await self._next():
            for number, message in enumerate(page, start=1):
                self._add(message)
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def up_to(self, own: int, *, incarnation: str) -> Replay:
        """Read on up to our own take record and return what the journal says; once, as the fold is the caller's then.

        Raises Fenced when our record is gone (a later owner purged it), JournalLost, Unreachable.
        """
        self._is_checked = False
        if self._fold.last >= own:  # another journal stands there now
            self._forget()
        stale = 0
        while self._fold.last < own:
            page = await self._next()
            if not page:
                stale += 1
                if stale > 50:
                    raise Unreachable(f"no replica shows record {own} of {self._stream}")
                await asyncio.sleep(min(0.02 * stale, limits.STORE_TIMEOUT / 10))
                continue
            for number, message in enumerate(page, start=1):
                if message.sequence > own:
                    raise Fenced(f"{self._stream}: our take at {own} is gone, {message.sequence} is there")
                self._add(message)
                if message.sequence == own:
                    break
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
        if not self._fold.known:
            # perhaps a later owner's snapshot, behind our take, made it possible to purge what we had still to read
            info = await self._store.stream_info(self._stream)
            if info is not None and info.last_sequence > own:
                raise Fenced(f"{self._stream}: somebody took it over after our take at {own}, and purged")
        self._fold.check(incarnation)
        return self._fold

    def _add(self, message: Message) -> None:
        self._fold.apply(message.sequence, Record.decode(message.data))
        self._fold.time = message.time
        self._last = message

    async def _next(self) -> Sequence[Message]:
        """Return the next page; empty at the end, and from a replica that lags.

        After a pause the last record is read once more. Where another one stands, or none, we begin anew: it was
        purged, or the journal was made again or restored meanwhile.
        """
        last = self._last
        if last is None or self._is_checked:
            return await self._page(self._fold.last + 1)
        page = await self._page(last.sequence)
        if not page:
            return page
        self._is_checked = True
        if page[0] == last:
            return page[1:]
        self._forget()
        return await self._page(1)

    async def _page(self, first: int) -> Sequence[Message]:
        return await self._store.page(self._stream, self._subject, first)

    def _forget(self) -> None:
        self._fold, self._last = Replay(), None
