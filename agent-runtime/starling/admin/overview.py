"""What is going on in a mesh, as its buckets, journals and mailboxes say: one value, gathered at one time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from starling.admin.letters import DeadLetters
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.membership import Member, ShardMap
from starling.core.names import INLETS, MeshNames, PoolNames, bucket_stream, bucket_subject
from starling.core.record import Kind, Record
from starling.core.routes import PoolRoute, Routes
from starling.engine.dead import Fill
from starling.engine.journal import last_record
from starling.engine.shard_info import Owner
from starling.errors import DecodeError, JournalLost, UnknownPool
from starling.ports.store import Store, StreamInfo, is_removal
from starling.provision import read_map

_LOOK_BACK = 64


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard. owner: by its journal, None when it is free; placed: the pod that the map names; waiting: frames of
    the mailbox above the floor, None when the journal does not say where that is; problem: why it cannot be read."""

    shard: ShardId
    owner: Owner | None = None
    epoch: int = 0
    placed: PodName | None = None
    last: int = 0
    kind: str = ""
    waiting: int | None = None
    mailbox: StreamInfo | None = None
    journal: StreamInfo | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool. members: by pod, those whose entry has not expired."""

    route: PoolRoute
    agent_types: tuple[str, ...]
    members: tuple[Member, ...]
    map: ShardMap | None
    shards: tuple[ShardView, ...]
    dead: Fill | None
    unreadable_members: tuple[str, ...] = field(default=())

    @property
    def waiting(self) -> int:
        """Frames that are not finished, of shards that say so."""
        return sum(view.waiting or 0 for view in self.shards)

    @property
    def owned(self) -> int:
        """Shards that a live member owns, by their journal."""
        starts = {(member.pod, member.start) for member in self.members}
        return sum(view.owner is not None and (view.owner.pod, view.owner.start) in starts for view in self.shards)


async def pool_view(store: Store, mesh: str, routes: Routes, route: PoolRoute) -> PoolView:
    """Look at one pool. Raises Unreachable; what is missing or cannot be read is told in the view."""
    _, shard_map = await read_map(store, mesh, route.pool)
    members, unreadable = await members_of(store, mesh, route.pool)
    shards = await asyncio.gather(
        *(_shard_view(store, mesh, route, ShardId(number), shard_map) for number in range(route.shards))
    )
    try:
        dead = await DeadLetters(store, mesh, route.pool).fill()
    except UnknownPool:
        dead = None
    types = tuple(sorted(kind for kind, pool in routes.agent_types.items() if pool == route.pool))
    return PoolView(route, types, members, shard_map, tuple(shards), dead, unreadable)


async def members_of(store: Store, mesh: str, pool: PoolName) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """Return the pool's members by pod, and the keys of entries that cannot be read. Raises Unreachable."""
    bucket = MeshNames(mesh).members
    found: dict[str, Member] = {}
    unreadable: list[str] = []
    first = 1
    while page := await store.page(bucket_stream(bucket), bucket_subject(bucket, f"{pool}.*"), first):
        for message in page:
            found.pop(message.subject, None)
            if is_removal(message):
                continue
            try:
                found[message.subject] = Member.decode(message.data)
            except DecodeError:
                unreadable.append(message.subject.rpartition(".")[2])
        first = page[-1].sequence + 1
    return tuple(sorted(found.values(), key=lambda member: member.pod)), tuple(unreadable)


async def _shard_view(
    store: Store, mesh: str, route: PoolRoute, shard: ShardId, shard_map: ShardMap | None
) -> ShardView:
    names = MeshNames(mesh).pool(route.pool)
    placed = shard_map.shards.get(shard) if shard_map else None
    mailbox, journal = await asyncio.gather(
        store.stream_info(names.mailbox(shard)), store.stream_info(names.journal(shard))
    )
    try:
        sequence, record = await last_record(store, names, shard)
    except (JournalLost, UnknownPool, DecodeError) as error:
        return ShardView(shard, placed=placed, mailbox=mailbox, journal=journal, problem=f"{error}")
    return ShardView(
        shard,
        owner=Owner.parse(record.owner),
        epoch=record.epoch,
        placed=placed,
        last=sequence,
        kind=record.kind.value,
        waiting=await _waiting(store, names, shard, await _floors(store, names, shard, sequence, record), mailbox),
        mailbox=mailbox,
        journal=journal,
        problem="" if mailbox is not None else f"there is no stream {names.mailbox(shard)}",
    )


async def _floors(
    store: Store, names: PoolNames, shard: ShardId, sequence: int, record: Record
) -> dict[str, int] | None:
    """The floors as the newest record that tells them has them; None when none of the last records does."""
    if record.kind is Kind.TAKE:
        first = max(1, sequence - _LOOK_BACK)
        page: Sequence[Record] = [
            Record.decode(message.data)
            for message in await store.page(names.journal(shard), names.journal_subject(shard), first)
        ]
        told = [one for one in page if one.kind is not Kind.TAKE]
        if not told:
            return None
        record = told[-1]
    return {str(inlet): floor for inlet, floor in record.floors.items()}


async def _waiting(
    store: Store, names: PoolNames, shard: ShardId, floors: dict[str, int] | None, mailbox: StreamInfo | None
) -> int | None:
    if floors is None or mailbox is None:
        return None
    total = 0
    for inlet in INLETS:
        subject, floor = names.inlet_subject(shard, inlet), floors.get(str(inlet), 0)
        if not mailbox.subjects.get(subject) or mailbox.last_sequence <= floor:
            continue
        reader = await store.reader(names.mailbox(shard), subject, after=floor)
        try:
            total += reader.pending
        finally:
            await reader.close()
    return total
