"""Makes and removes what a mesh and its pools need on the message store: buckets, streams, record 0, routes.

Existing streams are never made again: a stream that was deleted and came back empty would be a silent fresh start.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from starling.core import limits
from starling.core.ids import PoolName, ShardId
from starling.core.membership import ShardMap
from starling.core.names import (
    INCARNATION_METADATA,
    MeshNames,
    PoolNames,
    agents_key,
    bucket_stream,
    bucket_subject,
    object_chunks,
    object_descriptions,
    object_mark,
    object_stream,
)
from starling.core.record import Kind, Record, born
from starling.core.routes import ROUTES_KEY, Routes
from starling.errors import JournalLost, OutcomeUnknown
from starling.ports.store import (
    BucketSpec,
    Compression,
    Expect,
    Refused,
    Storage,
    Store,
    Stored,
    StreamInfo,
    StreamSpec,
    is_removal,
)

MARKER_TTL = 60.0
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class PoolStreams:
    """What a pool's streams look like. Sizes in bytes, times in seconds."""

    pool: PoolName
    shards: int = limits.DEFAULT_SHARDS
    replicas: int = 1
    mailbox_limit: int = limits.MAILBOX_LIMIT
    mailbox_bytes: int = limits.MAILBOX_MAX_BYTES
    dedupe_window: float = limits.DEDUPE_WINDOW
    compression: Compression = "none"
    storage: Storage = "file"


async def provision_mesh(store: Store, mesh: str, *, replicas: int = 1) -> None:
    """Make the buckets of a mesh; nothing happens to those that are there."""
    names = MeshNames(mesh)
    await store.ensure_bucket(BucketSpec(names.maps, replicas=replicas))
    await store.ensure_bucket(
        BucketSpec(names.members, ttl=limits.MEMBER_TTL, marker_ttl=MARKER_TTL, replicas=replicas)
    )
    await store.ensure_bucket(BucketSpec(names.routes, replicas=replicas))


async def provision_pool(
    store: Store, mesh: str, spec: PoolStreams, *, known: str | None, chance: random.Random
) -> str:
    """Make the pool's streams and record 0 of each shard; return the incarnation of its data.

    known: the incarnation that the routes already name: then everything must be there. Raises JournalLost when
    a stream of a known pool is gone, or is of another incarnation; Unreachable, SpecError.
    """
    names = MeshNames(mesh).pool(spec.pool)
    infos = await _infos(store, names, spec.shards)
    incarnation = known or _found_incarnation(infos) or "".join(chance.choices(ALPHABET, k=8))
    for name, info in infos.items():
        _check(name, info, incarnation, known)
    metadata = ((INCARNATION_METADATA, incarnation),)
    await store.ensure_bucket(
        BucketSpec(
            names.table,
            marker_ttl=MARKER_TTL,
            replicas=spec.replicas,
            compression=spec.compression,
            storage=spec.storage,
        )
    )
    await store.ensure_stream(dead_letter_stream(names, spec))
    await store.ensure_stream(large_objects(names, spec))
    for shard in map(ShardId, range(spec.shards)):
        journal, mailbox = shard_streams(names, shard, spec, metadata)
        await store.ensure_stream(mailbox)
        await store.ensure_stream(journal)
        info = infos[journal.name]
        if info is None or info.last_sequence == 0:
            await _first_record(store, names, shard, incarnation)
    return incarnation


async def _infos(store: Store, names: PoolNames, shards: int) -> dict[str, StreamInfo | None]:
    wanted = [name for shard in map(ShardId, range(shards)) for name in (names.journal(shard), names.mailbox(shard))]
    return {name: await store.stream_info(name) for name in wanted}


def _found_incarnation(infos: Mapping[str, StreamInfo | None]) -> str | None:
    found = (info.metadata.get(INCARNATION_METADATA) for info in infos.values() if info is not None)
    return next((incarnation for incarnation in found if incarnation), None)


def _check(name: str, info: StreamInfo | None, incarnation: str, known: str | None) -> None:
    if info is None:
        if known:
            raise JournalLost(f"stream {name} of a pool that was complete is gone; it is not made again by itself")
        return
    if info.metadata.get(INCARNATION_METADATA, incarnation) != incarnation:
        raise JournalLost(f"stream {name} is of incarnation {info.metadata[INCARNATION_METADATA]}, not {incarnation}")


async def _first_record(store: Store, names: PoolNames, shard: ShardId, incarnation: str) -> None:
    record = born(incarnation).encode()
    answer = await (await store.publish(names.journal_subject(shard), record, expect=Expect(0)))
    if isinstance(answer, Stored) or (isinstance(answer, Refused) and answer.why == "conflict"):
        return
    raise OutcomeUnknown(f"record 0 of {names.journal(shard)}: {answer.text}")


def shard_streams(
    names: PoolNames, shard: ShardId, spec: PoolStreams, metadata: tuple[tuple[str, str], ...]
) -> tuple[StreamSpec, StreamSpec]:
    """Return journal and mailbox of a shard."""
    journal = StreamSpec(
        name=names.journal(shard),
        subjects=(names.journal_subject(shard),),
        replicas=spec.replicas,
        compression=spec.compression,
        storage=spec.storage,
        metadata=metadata,
    )
    mailbox = StreamSpec(
        name=names.mailbox(shard),
        subjects=(names.mailbox_subjects(shard),),
        max_messages_per_subject=spec.mailbox_limit,
        max_bytes=spec.mailbox_bytes,
        discard_new=True,
        discard_new_per_subject=True,
        duplicate_window=spec.dedupe_window,
        replicas=spec.replicas,
        compression=spec.compression,
        storage=spec.storage,
        metadata=metadata,
    )
    return journal, mailbox


def dead_letter_stream(names: PoolNames, spec: PoolStreams) -> StreamSpec:
    """Return the pool's dead-letter stream: bounded, the oldest go first."""
    return StreamSpec(
        name=names.dead_letters,
        subjects=(names.dead_subject, names.replay_subjects),
        max_messages=limits.DEAD_LETTER_LIMIT,
        max_bytes=limits.DEAD_LETTER_MAX_BYTES,
        duplicate_window=120.0,
        replicas=spec.replicas,
        compression=spec.compression,
        storage=spec.storage,
    )


def large_objects(names: PoolNames, spec: PoolStreams) -> StreamSpec:
    """Return the stream behind the pool's object store, as JetStream lays it out (ADR-20)."""
    bucket = names.objects
    return StreamSpec(
        name=object_stream(bucket),
        subjects=(object_chunks(bucket, ">"), object_descriptions(bucket), object_mark(bucket, "*", "*")),
        discard_new=True,
        replicas=spec.replicas,
        compression=spec.compression,
        storage=spec.storage,
    )


async def remove_pool(store: Store, mesh: str, pool: PoolName, shards: int) -> None:
    """Delete the pool's streams with all its data, its map and its table. Nothing happens to what is gone already."""
    mesh_names = MeshNames(mesh)
    names = mesh_names.pool(pool)
    await (await store.publish(bucket_subject(mesh_names.maps, pool), b"", {"KV-Operation": "DEL"}))
    for shard in map(ShardId, range(shards)):
        await store.delete_stream(names.mailbox(shard))
        await store.delete_stream(names.journal(shard))
    await store.delete_stream(bucket_stream(names.table))
    await store.delete_stream(names.dead_letters)
    await store.delete_stream(object_stream(names.objects))
    await (await store.publish(bucket_subject(mesh_names.routes, agents_key(pool)), b"", {"KV-Operation": "DEL"}))


async def read_routes(store: Store, mesh: str) -> tuple[int, Routes]:
    """Return the route table and its revision; (0, empty) when there is none yet."""
    bucket = MeshNames(mesh).routes
    found = await store.last(bucket_stream(bucket), bucket_subject(bucket, ROUTES_KEY))
    if found is None:
        return 0, Routes()
    return found.sequence, Routes() if is_removal(found) else Routes.decode(found.data)


async def write_routes(store: Store, mesh: str, routes: Routes, *, over: int) -> bool:
    """Write the route table over the revision that was read; False when somebody else wrote meanwhile."""
    bucket = MeshNames(mesh).routes
    answer = await (await store.publish(bucket_subject(bucket, ROUTES_KEY), routes.encode(), expect=Expect(over)))
    return isinstance(answer, Stored)


async def read_map(store: Store, mesh: str, pool: PoolName) -> tuple[int, ShardMap | None]:
    """Return the pool's shard map and its bucket revision; (revision, None) when there is none."""
    bucket = MeshNames(mesh).maps
    found = await store.last(bucket_stream(bucket), bucket_subject(bucket, pool))
    if found is None:
        return 0, None
    return found.sequence, None if is_removal(found) else ShardMap.decode(found.data)


async def write_map(store: Store, mesh: str, pool: PoolName, shard_map: ShardMap, *, over: int) -> int | None:
    """Write the shard map over the bucket revision that was read; return the new one, None when somebody else wrote."""
    bucket = MeshNames(mesh).maps
    answer = await (await store.publish(bucket_subject(bucket, pool), shard_map.encode(), expect=Expect(over)))
    return answer.sequence if isinstance(answer, Stored) else None


async def waiting(store: Store, mesh: str, pool: PoolName, shards: int) -> int:
    """Return the number of messages in the pool's mailboxes, handled ones that are not purged yet included."""
    names = MeshNames(mesh).pool(pool)
    infos = await asyncio.gather(*(store.stream_info(names.mailbox(ShardId(shard))) for shard in range(shards)))
    return sum(info.messages for info in infos if info is not None)


class Owing(NamedTuple):
    """How many of a sleeping pool's shards have work to do although no message has come.

    due: a timer, a delayed message or a retry whose time has come, or a lost owner; undelivered: what was sent and no
    mailbox has taken.
    """

    due: int = 0
    undelivered: int = 0


NOTHING_OWED: Final = Owing()


async def owing(store: Store, mesh: str, pool: PoolName, shards: int) -> Owing:
    """Return what a sleeping pool's shards owe by now, as their last records say. Raises Unreachable, DecodeError."""
    names = MeshNames(mesh).pool(pool)
    info = await store.stream_info(names.journal(ShardId(0)))
    if info is None:
        return NOTHING_OWED
    lasts = await asyncio.gather(
        *(store.last(names.journal(shard), names.journal_subject(shard)) for shard in map(ShardId, range(shards)))
    )
    records = [Record.decode(last.data) for last in lasts if last is not None]
    return Owing(
        sum(_is_due(record, info.time) for record in records),
        sum(record.kind is Kind.FREE and record.owed and not record.wakes_at for record in records),
    )


def _is_due(record: Record, now: float) -> bool:
    """now: the store's time, seconds since 1970."""
    if record.kind is Kind.FREE:
        return record.owed and any(0 < at <= now * 1000 for at in (record.wakes_at, record.due_at))
    return record.kind is not Kind.BORN
