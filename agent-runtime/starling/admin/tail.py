"""What comes into mailboxes, journals and dead letters, as it is stored. Reading takes nothing away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from starling.core import limits
from starling.core.envelope import Envelope, FrameHeader, open_frame
from starling.core.ids import PoolName, ShardId
from starling.core.names import MeshNames
from starling.core.record import Record
from starling.engine.dead import DeadLetter
from starling.errors import DecodeError, UnknownPool
from starling.ports.store import Message, Store

_QUEUE: Final = 256


class Tailed(StrEnum):
    """What may be followed."""

    MAILBOX = "mailbox"
    JOURNAL = "journal"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Source:
    """One stream that is followed. shard: None for dead letters."""

    pool: PoolName
    shard: ShardId | None
    stream: str
    subject: str


def sources(mesh: str, what: Tailed, pool: PoolName, shards: Sequence[ShardId]) -> list[Source]:
    """Return the streams to follow."""
    names = MeshNames(mesh).pool(pool)
    if what is Tailed.DEAD:
        return [Source(pool, None, names.dead_letters, names.dead_subject)]
    if what is Tailed.JOURNAL:
        return [Source(pool, shard, names.journal(shard), names.journal_subject(shard)) for shard in shards]
    return [Source(pool, shard, names.mailbox(shard), names.mailbox_subjects(shard)) for shard in shards]


async def tail(
    store: Store, followed: Sequence[Source], *, last: int, follow: bool
) -> AsyncIterator[tuple[Source, Message]]:
    """Yield the last messages of each source, at most `last` of each, and with `follow` all that come after them.

    The last ones come in the order of their time; later ones as they are heard. Raises UnknownPool, Unreachable.
    """
    positions: dict[Source, int] = {}
    old: list[tuple[Source, Message]] = []
    for source in followed:
        info = await store.stream_info(source.stream)
        if info is None:
            raise UnknownPool(f"there is no stream {source.stream}")
        positions[source] = info.last_sequence
        old += [(source, message) for message in await _last(store, source, info.last_sequence, last)]
    for item in sorted(old, key=lambda item: item[1].time):
        yield item
    if follow:
        async for item in _follow(store, positions):
            yield item


async def _last(store: Store, source: Source, end: int, count: int) -> list[Message]:
    """The newest `count` messages up to `end`; holes of what was removed are stepped over."""
    found: list[Message] = []
    below = end + 1
    while count and below > 1 and len(found) < count:
        first = max(1, below - max(count, 64))
        part: list[Message] = []
        at = first
        while at < below and (page := await store.page(source.stream, source.subject, at)):
            part += [message for message in page if message.sequence < below]
            at = page[-1].sequence + 1
        found = part + found
        below = first
    return found[-count:] if count else []


async def _follow(store: Store, positions: dict[Source, int]) -> AsyncIterator[tuple[Source, Message]]:
    queue: asyncio.Queue[tuple[Source, Message]] = asyncio.Queue(_QUEUE)

    async def read(source: Source, after: int) -> None:
        reader = await store.reader(source.stream, source.subject, after=after)
        try:
            while True:
                for message in await reader.read(_QUEUE, limits.MIB):
                    await queue.put((source, message))
        finally:
            await reader.close()

    tasks = [asyncio.create_task(read(*item), name=f"tail {item[0].stream}") for item in positions.items()]
    try:
        while True:
            getting = asyncio.create_task(queue.get())
            done, _ = await asyncio.wait([getting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if getting in done:
                yield getting.result()
                continue
            getting.cancel()
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def explained(what: Tailed, message: Message, *, bodies: bool) -> list[dict[str, Any]]:
    """Return what a stored message says: of a frame one entry per envelope, else one entry. Garbage is told too."""
    try:
        if what is Tailed.JOURNAL:
            return [_record(Record.decode(message.data))]
        if what is Tailed.DEAD:
            letter = DeadLetter.unpack(message.data)
            told = {"severity": letter.severity, "reason": letter.reason, "text": letter.text}
            envelope = {} if letter.envelope is None else _envelope(letter.envelope, bodies=bodies)
            return [told | {"attempts": letter.attempts} | envelope]
        header = FrameHeader.decode(message.headers)
        lane = ".".join(message.subject.rsplit(".", 2)[1:])
        frame = {"inlet": lane} | ({"source": header.source, "number": header.number} if header.source else {})
        return [frame | _envelope(Envelope.from_map(value), bodies=bodies) for value in open_frame(message.data)]
    except DecodeError as error:
        return [{"unreadable": str(error), "bytes": len(message.data)}]


def _envelope(envelope: Envelope, *, bodies: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"id": envelope.id, "type": envelope.type, "target": str(envelope.target)}
    if envelope.sender is not None:
        told["sender"] = str(envelope.sender)
    if envelope.topic is not None:
        told["topic"] = str(envelope.topic)
    if envelope.reply:
        told["call"] = True
    if envelope.headers:
        told["headers"] = dict(envelope.headers)
    if bodies:
        told["body"] = envelope.body.decode(errors="backslashreplace")
    return told


def _record(record: Record) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": record.kind, "epoch": record.epoch, "owner": record.owner or None}
    told["floors"] = {str(inlet): floor for inlet, floor in record.floors.items()}
    counts = {
        "cells": len(record.cells),
        "frames": len(record.frames),
        "replies": len(record.replies),
        "confirmed": len(record.confirmed),
    }
    return told | {name: count for name, count in counts.items() if count}
