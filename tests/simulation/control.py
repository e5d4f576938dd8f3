"""A world of real workers under the operator's own control loop, which is killed, cut off and started again.

What it must do beside the promises of the data plane: P6, no pod is told to go while it serves a shard of its own; and
once the weather is calm, every shard runs where the map says, on as many pods of the newest version as are wanted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from starling.adapters.memory import MemoryStore
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.membership import ShardMap
from starling.core.names import MeshNames, bucket_stream, bucket_subject
from starling.core.record import Kind, Record
from starling.engine.shard import OwnedShard
from starling.errors import MeshError, RetryLater
from starling_operator.adapters.mesh import MeshState
from starling_operator.api import AgentPool, AgentScalingTarget, parse
from starling_operator.control import Control
from starling_operator.plan.values import ShardLoads
from starling_operator.ports import PodSeen, PoolPods, PoolPodsSpec

from .loop import PROCESS, VirtualLoop
from .pods import ACTS, Pod, PodWorld
from .process import EPOCH, MESH, Pool, Where
from .world import STORM_SECONDS

API = "starlingmesh.dev/v1alpha1"
LOOK = 1.0
"""Seconds between two looks of the operator at most."""
AWAY = 0.1
"""How likely a write of pods fails, as with an API server that is away."""


@dataclass(slots=True)
class Wish:
    """What people want of a pool now. drain: stands for all that makes another version."""

    replicas: int
    drain: int = 3


class Operator:
    """One process of the operator."""

    owned: Mapping[Where, OwnedShard] = {}
    is_idle = True

    def __init__(self, world: ControlWorld, name: str) -> None:
        self.name = name
        self.is_alive = True
        self._world = world
        self._loop = VirtualLoop.running()
        self._changed = asyncio.Event()
        token = PROCESS.set(name)
        try:
            self.store: MemoryStore = world.server.connect(name)
            chance = random.Random(f"{name} {world.seed}")
            self.mesh = MeshState(self.store, MESH, chance=chance, on_change=lambda pool: self._changed.set())
            pods, loads = SimPods(world, self, chance), SimLoads(world, chance)
            self._control = Control(self.mesh, pods, loads, wall=self._wall)
            self._task = self._loop.create_task(self._run())
        finally:
            PROCESS.reset(token)

    def _wall(self) -> float:
        return EPOCH + self._loop.time()

    def jump(self, seconds: float) -> None:
        """It uses no wall clock to decide."""

    def kill(self) -> None:
        if self.is_alive:
            self.is_alive = False
            self._loop.thaw(self.name)
            self.store.cut()
            self._task.cancel()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self.mesh.ask())
                tasks.create_task(self._look())
        except* Exception as group:
            self._world.fail(f"{self.name} failed", group)
        finally:
            self.is_alive = False
            await self.store.close()

    async def _watch(self) -> None:
        while True:
            try:
                await self.mesh.watch()
            except MeshError:
                await asyncio.sleep(0.2)

    async def _look(self) -> None:
        while True:
            self._changed.clear()
            for pool in self._world.pools.values():
                try:
                    await self._control.look(*self._world.manifests(pool), {})
                except MeshError as error:
                    self._world.say(f"{self.name} could not look at {pool.name}: {error!r}")
            try:
                async with asyncio.timeout(LOOK):
                    await self._changed.wait()
            except TimeoutError:
                continue


class SimLoads:
    """Loads at random, now and then none."""

    def __init__(self, world: ControlWorld, chance: random.Random) -> None:
        self._world = world
        self._chance = chance

    async def loads(self, namespace: str, pool: str, window: float) -> ShardLoads | None:
        if self._world.storm.calm or self._chance.random() < 0.3:
            return None
        shards = [ShardId(n) for n in range(self._world.pools[PoolName(pool)].shards)]
        return ShardLoads({shard: self._chance.random() for shard in shards}, {}, self._chance.random() * 90.0)


class SimPods:
    """Pods as a StatefulSet keeps them: a write over an older snapshot is refused."""

    def __init__(self, world: ControlWorld, operator: Operator, chance: random.Random) -> None:
        self._world = world
        self._operator = operator
        self._chance = chance

    async def observe(self, pool: str) -> PoolPods | None:
        world = self._world
        spec = world.specs.get(pool)
        if spec is None:
            return None
        seen = [
            PodSeen(name, ordinal_of(name), world.phase(pod), world.versions[name])
            for name, pod in sorted(world.pods_of(pool).items(), key=lambda item: ordinal_of(item[0]))
        ]
        return PoolPods(tuple(seen), spec.replicas, spec.version, str(world.writes[pool]))

    async def apply(self, spec: PoolPodsSpec) -> None:
        world = self._world
        if not world.storm.calm and self._chance.random() < AWAY:
            raise RetryLater("the API server is away")
        if spec.resource_version and spec.resource_version != str(world.writes[spec.pool]):
            raise RetryLater("the object has changed")
        before = world.specs.get(spec.pool)
        if before is None or (before.replicas, before.version) != (spec.replicas, spec.version):
            world.writes[spec.pool] = world.writes.get(spec.pool, 0) + 1
            world.say(f"{spec.pool} is to have {spec.replicas} pods of {spec.version}")
        world.specs[spec.pool] = replace(spec, resource_version="")
        world.keep_pods(spec, self._check_empty)

    async def replace(self, pool: str, ordinal: int) -> None:
        name = PodName(f"{pool}-{ordinal}")
        pod = self._world.pods_of(pool)[name]
        spec = self._world.specs[pool]
        if spec.replicas > 1:
            self._check_empty(pod)
        self._world.say(f"{pod.name} is replaced")
        self._world.versions[name] = spec.version
        pod.stop()

    async def remove(self, pool: str) -> None:
        raise NotImplementedError("pools are not removed here")

    def _check_empty(self, pod: Pod) -> None:
        """P6: a pod that nobody takes for lost owns nothing when it is told to go."""
        if (
            pod.is_alive
            and not pod.is_told
            and self._operator.mesh.gone_for(pod.pool.name, pod.pod, VirtualLoop.running().time()) is None
        ):
            held = [shard for (_, shard), owned in pod.owned.items() if owned.serving.is_set()]
            mine = [shard for shard in held if self._world.owner(pod.pool, shard) == owner_text(pod)]
            if mine:
                self._world.fail(f"P6: {pod.name} is told to go, and owns {mine}")


class ControlWorld(PodWorld):
    """People change their wishes; the operator follows them."""

    mailbox_limits = ()

    async def begin(self) -> None:
        self._pods = {}
        self._removed = set()
        self.specs: dict[str, PoolPodsSpec] = {}
        self.writes: dict[str, int] = {}
        self.versions: dict[PodName, str] = {}
        self._leaving: set[PodName] = set()
        self._wishes = {pool.name: Wish(self.chance.choice((1, 2, 3))) for pool in self.pools.values()}
        self._operator_now = self._start_operator()
        self.storm.calm = True
        while len(self.specs) < len(self.pools):
            await asyncio.sleep(0.1)
        self.storm.calm = False

    def _start_operator(self) -> Operator:
        operator = Operator(self, self.new_name("operator-"))
        self.processes.append(operator)
        self.say(f"{operator.name} starts")
        return operator

    def manifests(self, pool: Pool) -> tuple[AgentPool, AgentScalingTarget]:
        """What people want now."""
        wish = self._wishes[pool.name]
        agents = [{"type": pool.agent_type, "entrypoint": "agents:Any"}]
        spec = {"shards": pool.shards, "agents": agents, "image": "sim:1", "drainSeconds": wish.drain}
        made = parse({"apiVersion": API, "kind": "AgentPool", "metadata": {"name": pool.name}, "spec": spec})
        target = {
            "poolRef": {"name": pool.name},
            "minReplicas": wish.replicas,
            "maxReplicas": wish.replicas,
            "rebalance": {"intervalSeconds": 1, "settleSeconds": 1, "windowSeconds": 5},
        }
        scaling = parse(
            {"apiVersion": API, "kind": "AgentScalingTarget", "metadata": {"name": pool.name}, "spec": target}
        )
        assert isinstance(made, AgentPool)
        assert isinstance(scaling, AgentScalingTarget)
        return made, scaling

    # -- pods

    def pods_of(self, pool: str) -> dict[PodName, Pod]:
        """The pods of a pool that are there, their processes alive or not."""
        self._reap()
        return {name: pod for name, pod in self._pods.items() if pod.pool.name == pool}

    def phase(self, pod: Pod) -> str:
        if pod.pod in self._leaving:
            return "terminating"
        return "running" if pod.is_alive else "starting"

    def keep_pods(self, spec: PoolPodsSpec, leaves: Callable[[Pod], None]) -> None:
        """Start what is missing, let go what is too much. leaves: told of each pod that is to go."""
        present = self.pods_of(spec.pool)
        for ordinal in range(spec.replicas):
            name = PodName(f"{spec.pool}-{ordinal}")
            if name not in present:
                self.versions[name] = spec.version
                self.start_pod(name, self.pools[PoolName(spec.pool)])
        for name, pod in present.items():
            if ordinal_of(name) >= spec.replicas and name not in self._leaving:
                leaves(pod)
                self._leaving.add(name)
                pod.stop()

    def _reap(self) -> None:
        for name in [name for name in self._leaving if not self._pods[name].is_alive]:
            self._leaving.discard(name)
            del self._pods[name]

    def start_pod(self, name: PodName, pool: Pool) -> None:
        self.version = self.versions[name]
        super().start_pod(name, pool)

    def _start_again(self) -> None:
        self._reap()
        super()._start_again()
        if not self._operator_now.is_alive:
            self._operator_now = self._start_operator()

    def owner(self, pool: Pool, shard: int) -> str:
        """Who owns a shard by its journal, "" for nobody."""
        stream = self.server.streams[MeshNames(MESH).pool(pool.name).journal(ShardId(shard))]
        last = stream.contents.last(MeshNames(MESH).pool(pool.name).journal_subject(ShardId(shard)))
        record = Record.decode(last.data) if last is not None else None
        return record.owner if record is not None and record.kind is not Kind.FREE else ""

    # -- trouble and rest

    async def trouble(self) -> None:
        wildness = self.chance.choice((0.5, 1.5, 4.0))
        while self.loop.time() < STORM_SECONDS * 2:
            await asyncio.sleep(min(2.0, self.chance.expovariate(1.0 / wildness)))
            act = self.chance.choice(CONTROL_ACTS)
            await act(self, self.chance.random())
            if self.chance.random() < 0.5:
                self._start_again()

    def wish_anew(self, drawn: float) -> None:
        """Another number of pods, or another version."""
        wish = self.chance.choice(list(self._wishes.values()))
        if drawn < 0.6:
            wish.replicas = self.chance.choice((1, 2, 3))
        else:
            wish.drain += 1

    @property
    def operator(self) -> Operator:
        return self._operator_now

    def _is_at_rest(self) -> bool:
        return super()._is_at_rest() and not any(self._unsettled())

    def _unrest(self) -> str:
        return "; ".join([*self._unsettled(), super()._unrest()])

    def _unsettled(self) -> list[str]:
        """What is not yet as it is wished."""
        found = []
        for pool in self.pools.values():
            wish, pods, current = self._wishes[pool.name], self.pods_of(pool.name), self._map(pool)
            if len(pods) != wish.replicas:
                found.append(f"{pool.name} has {sorted(pods)}, wanted are {wish.replicas}")
            versions = {self.versions[name] for name in pods}
            if pool.name not in self.specs or versions != {self.specs[pool.name].version}:
                found.append(f"{pool.name} has versions {versions}")
            if current is None or current.draining or set(current.shards.values()) - set(pods):
                found.append(f"map of {pool.name}: {current}")
            elif any(self.owner(pool, shard) != owner_text(pods[pod]) for shard, pod in current.shards.items()):
                found.append(f"{pool.name}: not every shard is where {current} says")
        return found

    def _map(self, pool: Pool) -> ShardMap | None:
        bucket = MeshNames(MESH).maps
        found = self.server.streams[bucket_stream(bucket)].contents.last(bucket_subject(bucket, pool.name))
        return ShardMap.decode(found.data) if found is not None else None


def ordinal_of(name: PodName) -> int:
    """The number of a pod in its pool."""
    return int(name.rpartition("-")[2])


def owner_text(pod: Pod) -> str:
    """A pod's process as journals name it."""
    return f"{pod.pod}/{pod.name}"


async def _wish(world: PodWorld, drawn: float) -> None:
    assert isinstance(world, ControlWorld)
    world.wish_anew(drawn)


async def _trouble_operator(world: PodWorld, drawn: float) -> None:
    assert isinstance(world, ControlWorld)
    operator = world.operator
    if not operator.is_alive:
        return
    if drawn < 0.4:
        world.kill(operator)
    elif drawn < 0.7:
        world.cut(operator, drawn * 20.0)
    else:
        world.freeze(operator, drawn * 10.0)


CONTROL_ACTS = (*ACTS[3:], _wish, _wish, _wish, _trouble_operator)
"""As for pods, but who runs what is the operator's to say."""
