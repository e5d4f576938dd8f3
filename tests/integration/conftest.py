"""Meshes over a real nats-server whose pods are real processes, with nobody in control but the test."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from starling import Mesh
from starling.adapters.nats import EmbeddedServer, NatsStore, connect
from starling.core.ids import PodName, PoolName, ShardId, shard_of
from starling.core.membership import Member, ShardMap
from starling.core.names import MeshNames, PoolNames, bucket_stream, bucket_subject, member_key
from starling.core.record import Record
from starling.core.routes import PoolRoute, Routes
from starling.core.subscriptions import SubscriptionRoute
from starling.engine.dead import DeadLetter
from starling.engine.journal import last_record
from starling.ports.store import is_removal
from starling.provision import (
    PoolStreams,
    provision_mesh,
    provision_pool,
    read_map,
    read_routes,
    remove_pool,
    write_map,
    write_routes,
)

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # at the end: nothing of ours may hide a library
    sys.path.append(str(ROOT))

BOUND = 60.0
"""Seconds after which a fact that should come is taken to be missing."""

PROBES = {kind.lower(): f"tests.integration.probes:{kind}" for kind in ("Recorder", "Relay", "Sleeper", "Caller")}


async def until(fact: Callable[[], Awaitable[bool]], bound: float = BOUND) -> None:
    """Wait until it is a fact. Raises TimeoutError after `bound` seconds."""
    async with asyncio.timeout(bound):
        while not await fact():
            await asyncio.sleep(0.02)


class Pod:
    """One worker process."""

    def __init__(self, name: PodName, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "starling.node"],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.terminate()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def ended(self, bound: float = BOUND) -> int:
        """Wait for the end of the process and return its exit code, -9 after SIGKILL."""
        await until(self._has_ended, bound)
        return int(self.process.returncode)

    async def _has_ended(self) -> bool:
        return self.process.poll() is not None


class Pool:
    """One pool of a cluster: its map, its pods, what its store holds."""

    def __init__(self, cluster: Cluster, name: PoolName, shards: int, incarnation: str, config: Path) -> None:
        self._cluster = cluster
        self._store = cluster.store
        self.name = name
        self.shards = shards
        self.incarnation = incarnation
        self._config = config

    @property
    def names(self) -> PoolNames:
        return MeshNames(self._cluster.mesh).pool(self.name)

    async def map(self, *pods: str, draining: Sequence[str] = ()) -> ShardMap:
        """Write the next map: one pod a shard, or one for all."""
        over, before = await read_map(self._store, self._cluster.mesh, self.name)
        named = pods * self.shards if len(pods) == 1 else pods
        new = ShardMap(
            before.rev + 1 if before else 1,
            {ShardId(shard): PodName(pod) for shard, pod in enumerate(named)},
            tuple(map(PodName, draining)),
        )
        assert await write_map(self._store, self._cluster.mesh, self.name, new, over=over) is not None
        return new

    def start(self, pod: str, *, fault: str = "") -> Pod:
        """Start a process for a pod."""
        environment = {
            "STARLING_MESH": self._cluster.mesh,
            "STARLING_NATS_URL": self._cluster.server.url,
            "STARLING_POOL": self.name,
            "STARLING_POD": pod,
            "STARLING_HTTP_PORT": "0",
            "STARLING_CONFIG": str(self._config),
            "STARLING_CODE": str(ROOT),
            "STARLING_FAULT": fault,
        }
        started = Pod(PodName(pod), environment, self._cluster.directory / f"{pod}.log")
        self._cluster.pods.append(started)
        return started

    async def member(self, pod: str) -> Member | None:
        """Return the pod's entry, None when it has none or it has expired."""
        bucket = MeshNames(self._cluster.mesh).members
        key = member_key(self.name, PodName(pod))
        found = await self._store.last(bucket_stream(bucket), bucket_subject(bucket, key))
        return None if found is None or is_removal(found) else Member.decode(found.data)

    async def owns(self, pod: str, *shards: int, bound: float = BOUND) -> Member:
        """Wait until a pod says that it owns these shards and no others."""
        member: Member | None = None

        async def said() -> bool:
            nonlocal member
            member = await self.member(pod)
            return member is not None and set(member.shards) == set(map(ShardId, shards))

        await until(said, bound)
        assert member is not None
        return member

    async def owner(self, shard: int = 0) -> Record:
        """Return the shard's last record."""
        return (await last_record(self._store, self.names, ShardId(shard)))[1]

    def key(self, agent_type: str, shard: int) -> str:
        """Return a key whose agent lies in this shard."""
        return next(f"k{n}" for n in range(10_000) if shard_of(agent_type, f"k{n}", self.shards) == shard)

    async def dead_letters(self) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        first = 1
        while page := await self._store.page(self.names.dead_letters, self.names.dead_subject, first):
            letters += [DeadLetter.unpack(message.data) for message in page]
            first = page[-1].sequence + 1
        return letters

    async def mailbox(self, shard: int = 0) -> list[dict[str, Any]]:
        """Return the envelopes that a mailbox holds."""
        found: list[dict[str, Any]] = []
        first = 1
        name = self.names.mailbox(ShardId(shard))
        while page := await self._store.page(name, self.names.mailbox_subjects(ShardId(shard)), first):
            for message in page:
                found += msgpack.unpackb(message.data)
            first = page[-1].sequence + 1
        return found


class Cluster:
    """One mesh on one server."""

    def __init__(self, server: EmbeddedServer, store: NatsStore, directory: Path) -> None:
        self.server = server
        self.store = store
        self.directory = directory
        self.mesh = f"t{uuid.uuid4().hex[:10]}"
        self.pods: list[Pod] = []
        self._pools: list[Pool] = []
        self._chance = random.Random(1)

    async def pool(
        self, name: str = "w", *, agents: Mapping[str, str] | None = None, shards: int = 1, **more: Any
    ) -> Pool:
        """Make a pool, its streams and its routes. more: of pool.json, and mailbox_limit."""
        agents = agents or PROBES
        spec = PoolStreams(PoolName(name), shards=shards)
        if "mailbox_limit" in more:
            spec = replace(spec, mailbox_limit=more.pop("mailbox_limit"))
        incarnation = await provision_pool(self.store, self.mesh, spec, known=None, chance=self._chance)
        over, routes = await read_routes(self.store, self.mesh)
        new = Routes(
            {**routes.pools, spec.pool: PoolRoute(spec.pool, shards, incarnation)},
            {**routes.agent_types, **dict.fromkeys(agents, spec.pool)},
            routes.subscriptions,
        )
        assert await write_routes(self.store, self.mesh, new, over=over)
        config = self.directory / f"{name}.json"
        listed = [{"type": kind, "entrypoint": entrypoint} for kind, entrypoint in agents.items()]
        value = {"pool": name, "shards": shards, "incarnation": incarnation, "agents": listed, "drainSeconds": 1.0}
        config.write_text(json.dumps({**value, **more}))
        made = Pool(self, spec.pool, shards, incarnation, config)
        self._pools.append(made)
        return made

    async def subscribe(self, topic: str, *agent_types: str) -> None:
        """Add subscriptions to the routes."""
        over, routes = await read_routes(self.store, self.mesh)
        rows = tuple(SubscriptionRoute(topic, kind) for kind in agent_types)
        new = Routes(routes.pools, routes.agent_types, (*routes.subscriptions, *rows))
        assert await write_routes(self.store, self.mesh, new, over=over)

    async def until(self, fact: Callable[[], Awaitable[bool]], bound: float = BOUND) -> None:
        """Wait until it is a fact. Raises TimeoutError after `bound` seconds."""
        await until(fact, bound)

    @asynccontextmanager
    async def client(self, name: str | None = None) -> AsyncIterator[Mesh]:
        """A client of the mesh, with a connection of its own."""
        store = await connect(self.server.url, name="client")
        try:
            mesh = Mesh(store, self.mesh, name=name, chance=random.Random())
            await mesh.open()
            try:
                yield mesh
            finally:
                await mesh.close()
        finally:
            await store.close()

    async def close(self) -> None:
        for pod in self.pods:
            if pod.process.poll() is None:
                pod.thaw()
                pod.kill()
            pod.process.wait(timeout=10)
        if self.server.pid is not None:
            for pool in self._pools:
                await remove_pool(self.store, self.mesh, pool.name, pool.shards)
            names = MeshNames(self.mesh)
            for bucket in (names.maps, names.members, names.routes):
                await self.store.delete_stream(bucket_stream(bucket))


@asynccontextmanager
async def mesh_on(server: EmbeddedServer, directory: Path) -> AsyncIterator[Cluster]:
    """A mesh on a server; its processes' files are in `directory`."""
    store = await connect(server.url, name="test")
    try:
        made = Cluster(server, store, directory)
        await provision_mesh(store, made.mesh)
        try:
            yield made
        finally:
            await made.close()
    finally:
        await store.close()


@pytest.fixture
async def cluster(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A mesh on the server that all tests share."""
    async with mesh_on(nats_server, tmp_path) as made:
        yield made


@pytest.fixture
async def private_cluster(private_nats: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A mesh on a server of this test alone, which may be killed."""
    async with mesh_on(private_nats, tmp_path) as made:
        yield made
