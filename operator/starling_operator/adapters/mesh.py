"""The mesh as the control plane sees it: members and their signs of life, maps, routes, streams."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from starling.core import limits
from starling.core.ids import PodName, PoolName
from starling.core.membership import Member, ShardMap
from starling.core.names import MeshNames, bucket_key, bucket_stream, bucket_subject
from starling.core.routes import Routes
from starling.errors import DecodeError, UnknownPool, Unreachable
from starling.ports.store import Store, is_removal
from starling.provision import (
    Owing,
    PoolStreams,
    owing,
    provision_mesh,
    provision_pool,
    read_map,
    read_routes,
    remove_pool,
    waiting,
    write_map,
    write_routes,
)

log = logging.getLogger(__name__)

NEVER_SEEN: Final = 60.0
"""Seconds after which a pod that is expected and has never been a member counts as gone."""


class MeshState:
    """One mesh on the message store. `watch` must run; on_change is called when members come, go or say something."""

    def __init__(self, store: Store, mesh: str, *, chance: random.Random, on_change: Callable[[str], None]) -> None:
        self._store = store
        self.mesh = mesh
        self._names = MeshNames(mesh)
        self._chance = chance
        self._on_change = on_change
        self._members: dict[tuple[str, PodName], Member] = {}
        self._refusals: dict[tuple[str, PodName], int] = {}
        self._gone_since: dict[tuple[str, PodName], float] = {}
        self._expected_since: dict[tuple[str, PodName], float] = {}
        self._provisioned: dict[str, tuple[PoolStreams, str]] = {}

    # -- members

    def member(self, pool: str, pod: PodName) -> Member | None:
        """The pod as it describes itself; None when its entry has expired or never was."""
        return self._members.get((pool, pod))

    def gone_for(self, pool: str, pod: PodName, now: float) -> float | None:
        """Seconds since the pod is known to be gone; None while it is there or is only starting."""
        if self._store.connected_since is None or now - self._store.connected_since < limits.MEMBER_GRACE:
            return None
        key = (pool, pod)
        since = self._gone_since.get(key)
        if since is not None:
            return now - since
        if key not in self._members:
            waited = now - self._expected_since.setdefault(key, now)
            return waited - NEVER_SEEN if waited > NEVER_SEEN else None
        return None

    def ended(self, pool: str, pod: PodName, now: float) -> None:
        """Say that the pod's process has ended, as its parent or Kubernetes knows."""
        if (pool, pod) in self._members:
            self._gone_since.setdefault((pool, pod), now)

    async def watch(self) -> None:
        """Follow all members until cancelled."""
        bucket = self._names.members
        reader = await self._store.reader(bucket_stream(bucket), bucket_subject(bucket, ">"), after=None)
        loop = asyncio.get_running_loop()
        try:
            while True:
                changed: set[str] = set()
                for message in await reader.read(1024, limits.MIB):
                    pool, _, pod = bucket_key(bucket, message.subject).partition(".")
                    changed.add(pool)
                    key = (pool, PodName(pod))
                    if is_removal(message):
                        if self._members.pop(key, None) is not None:
                            self._gone_since.setdefault(key, loop.time())
                    else:
                        self._seen(key, message.data)
                for pool in sorted(changed):
                    self._on_change(pool)
        finally:
            await reader.close()

    def _seen(self, key: tuple[str, PodName], data: bytes) -> None:
        try:
            member = Member.decode(data)
        except DecodeError:
            log.exception("member entry cannot be read", extra={"pod": key[1]})
            return
        before = self._members.get(key)
        self._members[key] = member
        self._expected_since.pop(key, None)
        if before is None or before.start != member.start:
            self._refusals.pop(key, None)
            self._gone_since.pop(key, None)

    async def ask(self) -> None:
        """Ask every member for a sign of life twice a second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(limits.LIVENESS_INTERVAL)
            for key in sorted(self._members):
                pool, pod = key
                subject = self._names.pool(PoolName(pool)).alive(pod)
                try:
                    answer = await self._store.ask(subject, b"", timeout=limits.LIVENESS_INTERVAL)
                except Unreachable:
                    continue  # a network that is cut says nothing about the pod
                if answer is not None:
                    self._refusals[key] = 0
                    self._gone_since.pop(key, None)
                    continue
                self._refusals[key] = self._refusals.get(key, 0) + 1
                if self._refusals[key] == 2:
                    log.info("pod is silent", extra={"pool": pool, "pod": pod})
                    self._gone_since.setdefault(key, loop.time())
                    self._on_change(pool)

    # -- streams, maps, routes

    async def provision(self, spec: PoolStreams) -> str:
        """Make what the pool needs; return the incarnation of its data. Raises JournalLost, Unreachable, SpecError."""
        known = self._provisioned.get(spec.pool)
        if known is not None and known[0] == spec:
            return known[1]
        await provision_mesh(self._store, self.mesh, replicas=spec.replicas)
        _, routes = await read_routes(self._store, self.mesh)
        route = routes.pools.get(spec.pool)
        incarnation = await provision_pool(
            self._store, self.mesh, spec, known=route.incarnation if route else None, chance=self._chance
        )
        self._provisioned[spec.pool] = (spec, incarnation)
        return incarnation

    async def remove(self, pool: str, shards: int, *, data: bool) -> None:
        """Forget the pool; data: with its streams."""
        self._provisioned.pop(pool, None)
        if data:
            await remove_pool(self._store, self.mesh, PoolName(pool), shards)

    async def map(self, pool: str) -> tuple[int, ShardMap | None]:
        """The pool's map and its bucket revision; (0, None) before the mesh is made. Raises Unreachable."""
        try:
            return await read_map(self._store, self.mesh, PoolName(pool))
        except UnknownPool:
            return 0, None

    async def write_map(self, pool: str, new: ShardMap, *, over: int) -> bool:
        """Write a map over the revision that it was planned on; False when somebody else wrote meanwhile."""
        return await write_map(self._store, self.mesh, PoolName(pool), new, over=over) is not None

    async def waiting(self, pool: str, shards: int) -> int:
        """Messages in the pool's mailboxes, as the streams say. Raises Unreachable."""
        return await waiting(self._store, self.mesh, PoolName(pool), shards)

    async def owing(self, pool: str, shards: int) -> Owing:
        """Shards of a sleeping pool that have work to do without a message. Raises Unreachable, DecodeError."""
        return await owing(self._store, self.mesh, PoolName(pool), shards)

    async def routes(self) -> tuple[int, Routes]:
        """The route table and its revision; (0, empty) before the mesh is made. Raises Unreachable."""
        try:
            return await read_routes(self._store, self.mesh)
        except UnknownPool:
            return 0, Routes()

    async def is_made(self) -> bool:
        """Whether the mesh's buckets are there. Raises Unreachable."""
        return await self._store.stream_info(bucket_stream(self._names.members)) is not None

    async def write_routes(self, routes: Routes, *, over: int) -> bool:
        """Write the route table over the revision that was read; False when somebody else wrote meanwhile."""
        return await write_routes(self._store, self.mesh, routes, over=over)

    def pods_of(self, pool: str) -> Iterable[PodName]:
        """Pods of a pool that are members."""
        return sorted(pod for name, pod in self._members if name == pool)
