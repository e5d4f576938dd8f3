"""A world of real workers: members, map, ownership and adoption, with an operator that moves shards at random."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

from starling.adapters.memory import MemoryStore
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.membership import ShardMap
from starling.engine.shard import OwnedShard
from starling.errors import RetryLater
from starling.node.worker import Identity, Worker
from starling.provision import read_map, write_map

from .loop import PROCESS, VirtualLoop
from .process import EPOCH, MESH, Pool, Where, settings_of
from .storm import OPERATOR
from .world import STORM_SECONDS, World


class Pod:
    """One pod: a worker that is started again after it has ended, under the same name, until the pod is removed."""

    def __init__(self, world: PodWorld, name: PodName, pool: Pool, start: str) -> None:
        self.name = start
        self.pod = name
        self.pool = pool
        self.is_alive = True
        self.is_told = False
        """Whether it was asked to leave before."""
        self._world = world
        self._offset = world.chance.choice((0.0, 5.0, -3600.0, 3600.0))
        self._loop = VirtualLoop.running()
        settings = settings_of(pool, self._wall, self._loop.time, random.Random(f"{start} {world.seed}"))
        token = PROCESS.set(start)
        try:
            self.store: MemoryStore = world.server.connect(start)
            self.worker = Worker(
                self.store,
                settings,
                Identity(name, start, world.version),
                drain_seconds=world.drain_seconds,
                memory=lambda: None,  # this machine's memory is no part of the world
            )
            self._task = self._loop.create_task(self._run())
        finally:
            PROCESS.reset(token)

    def _wall(self) -> float:
        return EPOCH + self._loop.time() + self._offset

    def jump(self, seconds: float) -> None:
        self._offset += seconds

    @property
    def owned(self) -> Mapping[Where, OwnedShard]:
        return {(self.pool.name, shard): owned for shard, owned in self.worker.ownership.owned.items()}

    @property
    def is_idle(self) -> bool:
        return not self.worker.ownership.lost and all(shard.is_idle for shard in self.owned.values())

    async def _run(self) -> None:
        try:
            await self.worker.run()
            self._world.say(f"{self.name} has drained")
        except* RetryLater:
            self._world.say(f"{self.name} ends, as the store does not answer")
        except* Exception as group:
            self._world.fail(f"{self.name} failed", group)
        finally:
            self.is_alive = False
            await self.store.close()

    def stop(self) -> None:
        """Ask it to leave in good order."""
        self.is_told = True
        self.worker.stop()

    def kill(self) -> None:
        if self.is_alive:
            self.is_alive = False
            self._loop.thaw(self.name)
            self.store.cut()
            self._task.cancel()


class PodWorld(World):
    """Pods of two pools, an operator, and what befalls them."""

    drain_seconds = 3.0
    version = "v1"
    """Of the next pod that starts."""

    async def begin(self) -> None:
        self._revisions: dict[PoolName, int] = {}
        self._operator = self.server.connect(OPERATOR)
        self._pods: dict[PodName, Pod] = {}
        self._removed: set[PodName] = set()
        for pool in self.pools.values():
            names = [PodName(f"{pool.name}-{n}") for n in range(self.chance.choice((1, 2, 3)))]
            await self.move({ShardId(n): self.chance.choice(names) for n in range(pool.shards)}, pool)
            for name in names:
                self.start_pod(name, pool)

    def start_pod(self, name: PodName, pool: Pool) -> None:
        """Start a new process in a pod."""
        pod = self._pods[name] = Pod(self, name, pool, self.new_name(f"{name}#"))
        self.processes.append(pod)
        self.say(f"{pod.name} starts")

    @property
    def pods(self) -> list[Pod]:
        """Pods whose process is alive."""
        return [pod for pod in self._pods.values() if pod.is_alive]

    async def move(self, shards: Mapping[ShardId, PodName], pool: Pool) -> None:
        """Write another map; shards that it does not name stay where they are."""
        over, current = await read_map(self._operator, MESH, pool.name)
        revision = self._revisions[pool.name] = self._revisions.get(pool.name, 0) + 1
        named = {**(current.shards if current else {}), **shards}
        await write_map(self._operator, MESH, pool.name, ShardMap(revision, named), over=over)
        self.say(f"map {revision} of {pool.name}: {named}")

    async def trouble(self) -> None:
        wildness = self.chance.choice((0.5, 1.5, 4.0))
        while self.loop.time() < STORM_SECONDS:
            await asyncio.sleep(min(2.0, self.chance.expovariate(1.0 / wildness)))
            await self.chance.choice(ACTS)(self, self.chance.random())
            if self.chance.random() < 0.5:
                self._start_again()
        if self.chance.random() < 0.3:
            self._remove_one()

    def _start_again(self) -> None:
        """What a StatefulSet does: a pod whose process has ended gets another."""
        for name, pod in list(self._pods.items()):
            if not pod.is_alive and name not in self._removed:
                self.start_pod(name, pod.pool)

    def _remove_one(self) -> None:
        """A pod goes for good, without a goodbye, and no operator moves its shards: others must adopt them."""
        pod = self.chance.choice(list(self._pods.values()))
        if sum(other.pool is pod.pool for other in self._pods.values()) > 1:
            self.say(f"{pod.pod} is removed for good")
            self._removed.add(pod.pod)
            self.kill(pod)

    def keep_owned(self) -> None:
        self._start_again()
        for pod in self.pods:
            if pod.worker.ownership.lost:
                self.fail(f"{pod.name} asks for a person: {dict(pod.worker.ownership.lost)}")


Act = Callable[[PodWorld, float], "asyncio.Future[None]"]


def _any(world: PodWorld) -> Pod | None:
    return world.chance.choice(world.pods) if world.pods else None


async def _move(world: PodWorld, drawn: float) -> None:
    pool = world.chance.choice(list(world.pools.values()))
    names = [name for name, pod in world._pods.items() if pod.pool is pool]
    shard = ShardId(int(drawn * pool.shards))
    await world.move({shard: world.chance.choice(names)}, pool)


async def _kill(world: PodWorld, drawn: float) -> None:
    if pod := _any(world):
        world.kill(pod)


async def _stop(world: PodWorld, drawn: float) -> None:
    if pod := _any(world):
        world.say(f"{pod.name} is told to leave")
        pod.stop()


async def _cut(world: PodWorld, drawn: float) -> None:
    """Sometimes for longer than the time to live of a member's key."""
    if pod := _any(world):
        world.cut(pod, drawn * 25.0)


async def _cut_all(world: PodWorld, drawn: float) -> None:
    for pod in world.pods:
        world.cut(pod, 0.2 + drawn)


async def _freeze(world: PodWorld, drawn: float) -> None:
    if pod := _any(world):
        world.freeze(pod, drawn * 15.0)


async def _jump(world: PodWorld, drawn: float) -> None:
    if pod := _any(world):
        pod.jump((drawn - 0.5) * 20.0)


ACTS = (_move, _move, _move, _kill, _stop, _cut, _cut_all, _freeze, _jump)
"""What happens, one at a time; drawn: a number from 0 to 1 of its own."""
