"""A shard whose journal is gone, or is another one, made to work again: what it said is put together from elsewhere.

The states are in the table, but for what was not written behind yet (about the last second). The numbers of frames
come from the shards at the other ends: what they have accepted from this shard, and what they have sent to it. The
one thing that nobody else knows is which messages of its mailbox were handled; a person decides about those.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from starling.core import limits
from starling.core.due import bucket_key as due_bucket_key
from starling.core.envelope import FrameHeader
from starling.core.ids import PoolName, ShardId
from starling.core.names import (
    INCARNATION_METADATA,
    INLETS,
    Inlet,
    Lane,
    MeshNames,
    Origin,
    PoolNames,
    bucket_key,
    bucket_stream,
    bucket_subject,
    mark_key,
)
from starling.core.overlay import TableValue
from starling.core.record import Kind, Record, Source, Target
from starling.core.replay import Replay
from starling.core.routes import PoolRoute, Routes
from starling.engine.amend import amend
from starling.errors import DecodeError, JournalLost, OutcomeUnknown, SpecError, UnknownPool
from starling.ports.store import Expect, Message, Store, Stored, StreamInfo, is_removal
from starling.provision import PoolStreams, shard_streams

log = logging.getLogger(__name__)

_PATIENCE = 30.0


class Waiting(StrEnum):
    """What becomes of the messages that are in the mailbox: nobody knows which of them were handled."""

    HANDLE = "handle"
    """All are handled: those that were handled before, twice."""
    SKIP = "skip"
    """None is: those that were not handled yet, never."""


@dataclass(slots=True)
class Repair:
    """What a repair is going to write. problem: what is wrong; warnings: what it cannot put together."""

    pool: PoolName
    shard: ShardId
    problem: str
    first_sequence: int
    epoch: int
    waiting: Waiting
    mailbox_messages: int
    mailbox_is_new: bool = False
    journal_is_whole: bool = False
    """Only the mailbox is gone: the journal goes on."""
    floors: dict[Inlet, int] = field(default_factory=dict)
    seen: dict[Source, int] = field(default_factory=dict)
    counters: dict[Target, int] = field(default_factory=dict)
    due_buckets: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Frames:
    """What the mailbox's frames say of their senders: number before the first that is there, and the last one's."""

    before: dict[Source, int] = field(default_factory=dict)
    last: dict[Source, int] = field(default_factory=dict)


async def plan_repair(
    store: Store, mesh: str, routes: Routes, route: PoolRoute, shard: ShardId, *, waiting: Waiting
) -> Repair:
    """Put together what the shard's journal should say. Nothing is changed.

    Raises SpecError when there is nothing to repair, UnknownPool when the table is gone too, Unreachable.
    """
    names = MeshNames(mesh).pool(route.pool)
    fold, problem = await _fold(store, names, route, shard)
    mailbox = await store.stream_info(names.mailbox(shard))
    if not problem and mailbox is not None and mailbox.last_sequence >= max(fold.floors.values(), default=0):
        raise SpecError("shard", f"{route.pool}/{shard} is whole: there is nothing to repair")
    versions, mark, buckets = await _table(store, names, shard)
    repair = Repair(
        pool=route.pool,
        shard=shard,
        problem=problem or f"mailbox {names.mailbox(shard)} is gone, or another one",
        first_sequence=max(versions, fold.last) + 1,
        epoch=max(mark, fold.epoch),
        waiting=waiting,
        mailbox_messages=mailbox.messages if mailbox else 0,
        mailbox_is_new=mailbox is None or mailbox.last_sequence < max(fold.floors.values(), default=0),
        journal_is_whole=not problem,
        due_buckets=buckets,
    )
    frames = _Frames() if repair.mailbox_is_new else await _frames(store, names, shard)
    repair.floors = dict(fold.floors)
    if not repair.journal_is_whole:
        repair.floors = await _floors(store, names, shard, None if repair.mailbox_is_new else mailbox, waiting)
    await _senders(store, mesh, routes, route, repair, frames)
    return repair


async def _fold(store: Store, names: PoolNames, route: PoolRoute, shard: ShardId) -> tuple[Replay, str]:
    """Read the journal; what is wrong with it is told, "" when it is whole."""
    fold = Replay()
    try:
        while page := await store.page(names.journal(shard), names.journal_subject(shard), fold.last + 1):
            for message in page:
                fold.apply(message.sequence, Record.decode(message.data))
        if not fold.last:
            return fold, f"journal {names.journal(shard)} is empty"
        fold.check(route.incarnation)
        info = await store.stream_info(names.journal(shard))
        written = info.metadata.get(INCARNATION_METADATA) if info else None
        if written != route.incarnation:
            return fold, f"journal {names.journal(shard)} is marked as of incarnation {written}"
    except (JournalLost, UnknownPool, DecodeError) as error:
        return fold, str(error)
    return fold, ""


async def _table(store: Store, names: PoolNames, shard: ShardId) -> tuple[int, int, list[str]]:
    """Return the largest version of the shard's cells, the epoch of its mark, and its buckets of due records."""
    reader = await store.reader(bucket_stream(names.table), bucket_subject(names.table, f"{shard}.>"), after=None)
    versions = mark = 0
    buckets: list[str] = []
    prefix = due_bucket_key(shard, "")
    try:
        while not reader.caught_up:
            async with asyncio.timeout(_PATIENCE):
                messages = await reader.read(1024, 4 * limits.MIB)
            for message in messages:
                key = bucket_key(names.table, message.subject)
                if is_removal(message):
                    continue
                value = TableValue.decode(message.data)
                if key == mark_key(shard):
                    mark = value.journal
                    continue
                versions = max(versions, value.journal)
                if key.startswith(prefix) and value.data is not None:
                    buckets.append(key.removeprefix(prefix))
    finally:
        await reader.close()
    return versions, mark, buckets


async def _frames(store: Store, names: PoolNames, shard: ShardId) -> _Frames:
    found = _Frames()
    for inlet in INLETS:
        if inlet.origin is Origin.FRAMES:
            async for message in _messages(store, names.mailbox(shard), names.inlet_subject(shard, inlet)):
                try:
                    header = FrameHeader.decode(message.headers)
                except DecodeError:
                    continue
                source = Source(header.source, inlet.lane)
                found.before.setdefault(source, header.previous)
                found.last[source] = max(found.last.get(source, 0), header.number)
    return found


async def _messages(store: Store, stream: str, subject: str) -> AsyncIterator[Message]:
    first = 1
    while page := await store.page(stream, subject, first):
        for message in page:
            yield message
        first = page[-1].sequence + 1


async def _floors(
    store: Store, names: PoolNames, shard: ShardId, mailbox: StreamInfo | None, waiting: Waiting
) -> dict[Inlet, int]:
    if mailbox is None:
        return dict.fromkeys(INLETS, 0)
    floors = dict.fromkeys(INLETS, mailbox.last_sequence)
    if waiting is Waiting.HANDLE:
        for inlet in INLETS:
            page = await store.page(names.mailbox(shard), names.inlet_subject(shard, inlet), 1)
            if page:
                floors[inlet] = page[0].sequence - 1
    return floors


async def _senders(store: Store, mesh: str, routes: Routes, route: PoolRoute, repair: Repair, frames: _Frames) -> None:
    """Numbers of frames in both directions, from the shards at the other ends."""
    own = f"{route.incarnation}.{repair.shard}"
    for other in routes.pools.values():
        names = MeshNames(mesh).pool(other.pool)
        for shard in map(ShardId, range(other.shards)):
            is_self = other.pool == route.pool and shard == repair.shard
            fold, problem = (Replay(), "") if is_self else await _fold(store, names, other, shard)
            if problem:
                repair.warnings.append(
                    f"{other.pool}/{shard} cannot be asked ({problem}): what it sends to this shard, or gets from it, "
                    "may be lost"
                )
            sent_to_us = _sent(fold, route, repair.shard)
            for lane in Lane:
                source = Source(f"{other.incarnation}.{shard}", lane)
                accepted = sent_to_us.get(lane, 0)
                if repair.waiting is Waiting.HANDLE:
                    accepted = frames.before.get(source, max(accepted, frames.last.get(source, 0)))
                else:
                    accepted = max(accepted, frames.last.get(source, 0))
                if accepted:
                    repair.seen[source] = accepted
            theirs = frames if is_self else await _frames_of(store, names, shard)
            for lane in Lane:
                source = Source(own, lane)
                number = max(fold.seen.get(source, 0), theirs.last.get(source, 0))
                if number:
                    repair.counters[Target(other.pool, other.incarnation, shard, lane.value)] = number


async def _frames_of(store: Store, names: PoolNames, shard: ShardId) -> _Frames:
    try:
        return await _frames(store, names, shard)
    except UnknownPool:
        return _Frames()


def _sent(fold: Replay, route: PoolRoute, shard: ShardId) -> Mapping[Lane, int]:
    """Number of the last frame that another shard has sent here and that was stored, by lane."""
    found: dict[Lane, int] = {}
    for lane in Lane:
        target = Target(route.pool, route.incarnation, shard, lane.value)
        unconfirmed = [frame.previous for frame in fold.frames.values() if frame.target == target]
        found[lane] = min([fold.counters.get(target, 0), *unconfirmed])
    return found


async def carry_out(store: Store, mesh: str, route: PoolRoute, repair: Repair) -> None:
    """Make the journal anew as planned; the shard is free then, and its pod takes it.

    Raises OutcomeUnknown when somebody else wrote meanwhile, Unreachable: plan it again then.
    """
    names = MeshNames(mesh).pool(route.pool)
    streams = await _streams(store, names, route)
    metadata = ((INCARNATION_METADATA, route.incarnation),)
    journal, mailbox = shard_streams(names, repair.shard, streams, metadata)
    if repair.mailbox_is_new:
        await store.delete_stream(mailbox.name)
        await store.ensure_stream(replace(mailbox, first_sequence=max(repair.floors.values(), default=0) + 1))
    if repair.journal_is_whole:
        incarnation = route.incarnation
        await amend(store, names, repair.shard, [], incarnation=incarnation, who="repair/1", seen=repair.seen)
        return
    await store.delete_stream(journal.name)
    await store.ensure_stream(replace(journal, first_sequence=repair.first_sequence))
    record = Record(
        kind=Kind.SNAPSHOT,
        previous=0,
        epoch=repair.epoch,
        incarnation=route.incarnation,
        floors=repair.floors,
        seen=repair.seen,
        counters=repair.counters,
        due_buckets=repair.due_buckets,
    )
    answer = await (await store.publish(names.journal_subject(repair.shard), record.encode(), expect=Expect(0)))
    if not isinstance(answer, Stored):
        raise OutcomeUnknown(f"{journal.name}: {answer.text or answer}; look with `starling doctor`, then repair again")
    await store.signal(names.free(repair.shard), str(answer.sequence).encode())
    log.warning("journal made anew", extra={"shard": repair.shard, "first": answer.sequence})


async def _streams(store: Store, names: PoolNames, route: PoolRoute) -> PoolStreams:
    """What the pool's streams are to look like: as the table, and a mailbox that is there, say."""
    found = PoolStreams(route.pool, route.shards)
    table = await store.stream_info(bucket_stream(names.table))
    if table is not None:
        found = replace(found, replicas=table.replicas, compression=table.compression, storage=table.storage)
    for shard in map(ShardId, range(route.shards)):
        mailbox = await store.stream_info(names.mailbox(shard))
        if mailbox is not None and mailbox.max_messages_per_subject and mailbox.max_bytes:
            most, size_bytes = mailbox.max_messages_per_subject, mailbox.max_bytes
            return replace(found, mailbox_limit=most, mailbox_bytes=size_bytes)
    return found
