"""Pods over the store in memory, in a time that passes when the test says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
from starling.adapters.memory import MemoryServer, MemoryStore
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.membership import ShardMap
from starling.core.names import MeshNames
from starling.core.record import Record
from starling.core.routes import Routes
from starling.engine.journal import last_record
from starling.engine.shard_info import PoolSettings
from starling.node.worker import Identity, Worker
from starling.provision import PoolStreams, provision_mesh, provision_pool, read_map, write_map, write_routes

MESH = "m"
POOL = PoolName("p")


class Pod:
    """A process of a pod, as a task."""

    def __init__(self, world: World, name: str, start: str) -> None:
        self.store: MemoryStore = world.server.connect(f"{name}/{start}")
        settings = PoolSettings(
            mesh=MESH,
            pool=POOL,
            shards=world.shards,
            incarnation=world.incarnation,
            agents={},
            wall=asyncio.get_running_loop().time,
            timer=asyncio.get_running_loop().time,
            chance=random.Random(1),
        )
        self.worker = Worker(self.store, settings, Identity(PodName(name), start, "v1"), drain_seconds=5.0)
        self.task = asyncio.get_running_loop().create_task(self.worker.run(), name=name)

    @property
    def owned(self) -> set[int]:
        """The shards that it serves."""
        return {int(shard) for shard, running in self.worker.ownership.owned.items() if running.serving.is_set()}

    async def crash(self) -> None:
        """End without a goodbye: whatever it would still say, nobody hears."""
        self.store.cut()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.store.close()


class World:
    """A server, a pool, its map and its pods."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._offset = 0.0
        loop.time = lambda: self._time() + self._offset  # type: ignore[method-assign]
        self.server = MemoryServer()
        self.store = self.server.connect("test")
        self.names = MeshNames(MESH).pool(POOL)
        self.shards = 0
        self.incarnation = ""
        self.pods: list[Pod] = []

    async def pool(self, shards: int) -> None:
        await provision_mesh(self.store, MESH)
        self.shards = shards
        spec = PoolStreams(POOL, shards=shards)
        self.incarnation = await provision_pool(self.store, MESH, spec, known=None, chance=random.Random(1))
        assert await write_routes(self.store, MESH, Routes(), over=0)

    async def map(self, *pods: str | None, draining: tuple[str, ...] = (), rev: int | None = None) -> None:
        """Write the next map, a pod a shard."""
        over, before = await read_map(self.store, MESH, POOL)
        number = rev if rev is not None else before.rev + 1 if before else 1
        shards = {ShardId(n): PodName(pod) for n, pod in enumerate(pods) if pod is not None}
        new = ShardMap(number, shards, tuple(map(PodName, draining)))
        assert await write_map(self.store, MESH, POOL, new, over=over) is not None

    def start(self, name: str, start: str = "s1") -> Pod:
        pod = Pod(self, name, start)
        self.pods.append(pod)
        return pod

    async def last(self, shard: int = 0) -> Record:
        return (await last_record(self.store, self.names, ShardId(shard)))[1]

    async def pass_by(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Let time pass, or until it is a fact; return how much did."""
        for step in range(int(seconds * 20)):
            if until():
                return step / 20
            self._offset += 0.05
            for _ in range(8):
                await asyncio.sleep(0)
        return seconds

    async def until(self, fact: Callable[[], bool], bound: float = 120.0) -> float:
        """Let time pass until it is a fact; return how much did."""
        passed = await self.pass_by(bound, fact)
        assert fact(), f"not so after {bound} s"
        return passed


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    try:
        yield made
    finally:
        for pod in made.pods:
            pod.task.cancel()
        await asyncio.gather(*(pod.task for pod in made.pods), return_exceptions=True)
        await made.store.close()
