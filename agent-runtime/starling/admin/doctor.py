"""What is wrong with a mesh, each finding with what helps. Looking changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from starling.admin.letters import DeadLetters
from starling.admin.overview import PoolView, ShardView, pool_view
from starling.core.membership import Member
from starling.core.names import INCARNATION_METADATA, MeshNames, bucket_stream
from starling.errors import MeshError, UnknownPool, Unreachable
from starling.ports.store import Store, StreamInfo
from starling.provision import read_routes

OLDEST_SERVER: Final = (2, 11)
NEARLY_FULL: Final = 0.8
FULL: Final = 0.95
_ANSWER: Final = 1.0


class Level(StrEnum):
    """How good or bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. where: what it is about; text: what was seen; help: what to do, "" when ok."""

    level: Level
    where: str
    text: str
    help: str = ""


def server_findings(version: str, jetstream: bool, stored_bytes: int, limit_bytes: int) -> Iterator[Finding]:
    """Judge the NATS server. limit_bytes: 0 when it tells none."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_SERVER:
        yield Finding(Level.FAILED, "nats", f"server {version}", "Starling needs nats-server 2.11 or newer")
    else:
        yield Finding(Level.OK, "nats", f"server {version}")
    if not jetstream:
        yield Finding(Level.FAILED, "nats", "JetStream is off", "start nats-server with --jetstream and a store_dir")
    elif limit_bytes and stored_bytes > NEARLY_FULL * limit_bytes:
        text = f"JetStream stores {stored_bytes} of {limit_bytes} bytes"
        yield Finding(Level.WARNING, "nats", text, "give the account more storage, or drop dead letters")
    else:
        yield Finding(Level.OK, "nats", f"JetStream stores {stored_bytes} bytes")


async def examine(store: Store, mesh: str) -> list[Finding]:
    """Look at buckets, pools, members, shards and streams. Raises Unreachable."""
    findings = [await _buckets(store, mesh)]
    if findings[0].level is Level.FAILED:
        return findings
    try:
        _, routes = await read_routes(store, mesh)
    except MeshError as error:
        return [*findings, Finding(Level.FAILED, "routes", f"{error}", "let the control plane write them again")]
    if not routes.pools:
        return [*findings, Finding(Level.WARNING, "routes", "the mesh has no pool", "apply an AgentPool")]
    findings.append(Finding(Level.OK, "routes", f"{len(routes.pools)} pools, {len(routes.agent_types)} agent types"))
    for route in sorted(routes.pools.values(), key=lambda route: route.pool):
        view = await pool_view(store, mesh, routes, route)
        findings += pool_findings(view)
        findings += await _table_findings(store, mesh, view)
        findings += [await _alive(store, mesh, view, member) for member in view.members]
        findings += await _replay_findings(store, mesh, view)
    return findings


async def _buckets(store: Store, mesh: str) -> Finding:
    names = MeshNames(mesh)
    missing = [
        bucket
        for bucket in (names.maps, names.members, names.routes)
        if await store.stream_info(bucket_stream(bucket)) is None
    ]
    if missing:
        text = f"there is no bucket {', '.join(missing)}"
        return Finding(Level.FAILED, "buckets", text, "name the mesh by --mesh, or apply a pool: that makes them")
    return Finding(Level.OK, "buckets", "maps, members and routes are there")


def pool_findings(view: PoolView) -> Iterator[Finding]:
    """Judge one pool as it was seen."""
    pool = view.route.pool
    yield from _member_findings(view)
    for shard in view.shards:
        yield from _stream_findings(view, shard)
        yield from _owner_findings(view, shard)
    good = sum(shard.problem == "" and _owner_is_live(view, shard) for shard in view.shards)
    yield Finding(
        Level.OK if good == len(view.shards) else Level.WARNING,
        pool,
        f"{good} of {len(view.shards)} shards have a live owner, {view.waiting} frames wait",
        "" if good == len(view.shards) else "see the shards above",
    )
    if view.dead is None:
        yield Finding(Level.FAILED, pool, "there is no dead-letter stream", "let the control plane provision the pool")
    elif view.dead.ratio > NEARLY_FULL:
        text = f"{view.dead.letters} dead letters, {view.dead.ratio:.0%} of the bound: then the oldest go"
        yield Finding(Level.WARNING, pool, text, "starling dead list, then replay or drop them")
    elif view.dead.letters:
        yield Finding(Level.WARNING, pool, f"{view.dead.letters} dead letters", "starling dead list")


def _member_findings(view: PoolView) -> Iterator[Finding]:
    pool, route = view.route.pool, view.route
    for name in view.unreadable_members:
        yield Finding(Level.WARNING, f"{pool}/{name}", "its member entry cannot be read", "is its version a newer one?")
    if not view.members:
        asleep = view.map is not None and not view.map.shards
        text = "no pod is a member" + (", the pool sleeps" if asleep else "")
        yield Finding(Level.OK if asleep else Level.FAILED, pool, text, "" if asleep else "are its pods running?")
    for member in view.members:
        where = f"{pool}/{member.pod}"
        if member.incarnation != route.incarnation:
            text = f"works on incarnation {member.incarnation}, the routes say {route.incarnation}"
            yield Finding(Level.FAILED, where, text, "restart the pod")
        if member.draining:
            yield Finding(Level.WARNING, where, "is draining", "starling drain --undo, unless it is to go")
        elif not member.ready:
            yield Finding(Level.WARNING, where, "is not ready", "look at its log")
    versions = {member.version for member in view.members}
    if len(versions) > 1:
        yield Finding(Level.WARNING, pool, f"pods of {len(versions)} versions", "an update is on its way, or stuck")


def _stream_findings(view: PoolView, shard: ShardView) -> Iterator[Finding]:
    where = f"{view.route.pool}/{shard.shard}"
    for what, info in (("mailbox", shard.mailbox), ("journal", shard.journal)):
        if info is None:
            yield Finding(Level.FAILED, where, f"its {what} is gone", f"starling repair shard {where}")
            continue
        incarnation = info.metadata.get(INCARNATION_METADATA)
        if incarnation != view.route.incarnation:
            text = f"its {what} is of incarnation {incarnation}, the pool of {view.route.incarnation}"
            yield Finding(Level.FAILED, where, text, f"starling repair shard {where}")
    if shard.journal is not None and (
        shard.journal.max_messages or shard.journal.max_bytes or shard.journal.max_messages_per_subject
    ):
        yield Finding(Level.FAILED, where, "its journal has a limit", "remove it: a commit must never be refused")
    if shard.mailbox is not None:
        yield from _mailbox_findings(where, shard.mailbox)


def _mailbox_findings(where: str, mailbox: StreamInfo) -> Iterator[Finding]:
    most = mailbox.max_messages_per_subject
    if most is None or not mailbox.discard_new or not mailbox.duplicate_window:
        yield Finding(Level.FAILED, where, "its mailbox is not bounded as it was made", "who changed the stream?")
        return
    fullest = max(mailbox.subjects.values(), default=0) / most
    by_bytes = mailbox.size_bytes / mailbox.max_bytes if mailbox.max_bytes else 0.0
    ratio = max(fullest, by_bytes)
    if ratio > NEARLY_FULL:
        level = Level.FAILED if ratio > FULL else Level.WARNING
        yield Finding(level, where, f"its mailbox is {ratio:.0%} full", "more pods, fewer messages, or a larger limit")


def _owner_findings(view: PoolView, shard: ShardView) -> Iterator[Finding]:
    where = f"{view.route.pool}/{shard.shard}"
    if shard.problem:
        yield Finding(Level.FAILED, where, shard.problem, f"starling repair shard {where}")
        return
    if not view.members:
        return  # said once, of the pool
    claims = [member.pod for member in view.members if shard.shard in member.shards]
    if len(claims) > 1:
        text = f"{', '.join(claims)} say that they own it"
        yield Finding(Level.WARNING, where, text, "the journal decides; the other one notices within seconds")
    if shard.owner is None:
        if view.map is not None and view.map.shards:
            yield Finding(
                Level.WARNING, where, "nobody owns it", f"{shard.placed or 'nobody'} should take it by the map"
            )
        return
    if not _owner_is_live(view, shard):
        text = f"its owner {shard.owner} is no member any more"
        yield Finding(Level.WARNING, where, text, "another pod takes it within 30 s, if there is one")
    elif shard.placed is not None and shard.placed != shard.owner.pod:
        text = f"{shard.owner.pod} owns it, the map names {shard.placed}"
        yield Finding(Level.WARNING, where, text, "a move is on its way, or the shard was adopted")


def _owner_is_live(view: PoolView, shard: ShardView) -> bool:
    owner = shard.owner
    return owner is not None and any((m.pod, m.start) == (owner.pod, owner.start) for m in view.members)


async def _table_findings(store: Store, mesh: str, view: PoolView) -> list[Finding]:
    table = MeshNames(mesh).pool(view.route.pool).table
    if await store.stream_info(bucket_stream(table)) is None:
        return [
            Finding(Level.FAILED, view.route.pool, f"there is no table {table}", "its states are lost: import them")
        ]
    return []


async def _alive(store: Store, mesh: str, view: PoolView, member: Member) -> Finding:
    where = f"{view.route.pool}/{member.pod}"
    try:
        answer = await store.ask(MeshNames(mesh).pool(view.route.pool).alive(member.pod), b"", timeout=_ANSWER)
    except Unreachable:
        return Finding(
            Level.WARNING, where, "does not answer within a second", "is its event loop blocked? see its log"
        )
    if answer is None:
        return Finding(Level.WARNING, where, "is gone; its entry has not expired yet", "its shards move in seconds")
    return Finding(Level.OK, where, f"is alive and owns {len(member.shards)} shards")


async def _replay_findings(store: Store, mesh: str, view: PoolView) -> list[Finding]:
    try:
        waiting = await DeadLetters(store, mesh, view.route.pool).under_way()
    except UnknownPool:
        return []
    return [
        Finding(
            Level.WARNING,
            f"{view.route.pool}/{number}",
            "the replay of this dead letter was cut off",
            f"starling dead show {view.route.pool}/{number}, then replay or drop it",
        )
        for number in waiting
    ]
