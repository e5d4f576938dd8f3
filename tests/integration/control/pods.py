"""The port of pods with real workers in this process, each on a connection of its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starling import Agent, Context, event
from starling.adapters.nats import NatsStore, connect
from starling.agent import definition
from starling.core import limits
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.names import MeshNames
from starling.engine.shard_info import PoolSettings
from starling.node.worker import Identity, Worker
from starling_operator.adapters.mesh import MeshState
from starling_operator.api import AgentPool, AgentScalingTarget, parse
from starling_operator.api.names import PAUSE_ANNOTATION
from starling_operator.control import Control, PoolReport
from starling_operator.plan.values import ShardLoads
from starling_operator.ports import PodSeen, PoolPods, PoolPodsSpec

SHARDS = 4
BOUND = 30.0


@dataclass
class Ticked:
    pass


@dataclass
class Ticks:
    count: int = 0


class Ticker(Agent[Ticks]):
    @event
    async def ticked(self, message: Ticked, ctx: Context) -> None:
        self.state.count += 1


@dataclass
class _Pod:
    version: str
    store: NatsStore
    worker: Worker
    task: asyncio.Task[None]


class WorkerPods:
    """Pods as tasks. owned_at_the_end: shards that a pod still owned when it was told to go, by pod.

    agents, dedupe_window: of the pods that start from now on.
    """

    def __init__(self, url: str, mesh: str) -> None:
        self._url, self._mesh = url, mesh
        self._pods: dict[int, _Pod] = {}
        self._starts = 0
        self.agents: tuple[type[Agent[Any]], ...] = (Ticker,)
        self.dedupe_window = limits.DEDUPE_WINDOW
        self.spec: PoolPodsSpec | None = None
        self.owned_at_the_end: dict[str, int] = {}

    async def observe(self, pool: str) -> PoolPods | None:
        if self.spec is None:
            return None
        seen = [
            PodSeen(f"{pool}-{ordinal}", ordinal, "starting" if pod.task.done() else "running", pod.version)
            for ordinal, pod in sorted(self._pods.items())
        ]
        return PoolPods(tuple(seen), self.spec.replicas, self.spec.version, "")

    async def apply(self, spec: PoolPodsSpec) -> None:
        self.spec = spec
        for ordinal in range(spec.replicas):
            if ordinal not in self._pods:
                await self._start(ordinal, spec)
        for ordinal in [each for each in self._pods if each >= spec.replicas]:
            await self._end(ordinal)

    async def replace(self, pool: str, ordinal: int) -> None:
        assert self.spec is not None
        await self._end(ordinal)
        await self._start(ordinal, self.spec)

    async def remove(self, pool: str) -> None:
        for ordinal in list(self._pods):
            await self._end(ordinal)
        self.spec = None

    async def crash(self, ordinal: int) -> None:
        """End a pod without a word to anybody; nobody starts it again."""
        pod = self._pods[ordinal]
        await pod.store.close()
        pod.task.cancel()
        await asyncio.wait([pod.task], timeout=BOUND)

    def shards(self, ordinal: int) -> set[ShardId]:
        """What a pod owns."""
        return set(self._pods[ordinal].worker.ownership.owned)

    async def _start(self, ordinal: int, spec: PoolPodsSpec) -> None:
        self._starts += 1
        store = await connect(self._url, name=f"pod {ordinal}")
        settings = PoolSettings(
            mesh=self._mesh,
            pool=PoolName(spec.pool),
            shards=SHARDS,
            incarnation=spec.config["incarnation"],
            agents={agent.type: definition(agent) for agent in self.agents},
            wall=time.time,
            timer=time.perf_counter,
            chance=random.Random(self._starts),
            dedupe_window=self.dedupe_window,
        )
        identity = Identity(PodName(f"{spec.pool}-{ordinal}"), f"start-{self._starts}", spec.version)
        worker = Worker(store, settings, identity, drain_seconds=1.0)
        task = asyncio.get_running_loop().create_task(worker.run(), name=f"pod {ordinal}")
        self._pods[ordinal] = _Pod(spec.version, store, worker, task)

    async def _end(self, ordinal: int) -> None:
        pod = self._pods.pop(ordinal)
        self.owned_at_the_end[f"{self.spec.pool if self.spec else ''}-{ordinal}"] = len(pod.worker.ownership.owned)
        pod.worker.stop()
        await asyncio.wait([pod.task], timeout=BOUND)
        await pod.store.close()


@dataclass
class SetLoads:
    """Loads as the test sets them."""

    now: ShardLoads | None = None

    async def loads(self, namespace: str, pool: str, window: float) -> ShardLoads | None:
        return self.now

    def set(self, *busy: float, lag: float = 0.0) -> None:
        self.now = ShardLoads({ShardId(n): value for n, value in enumerate(busy)}, {ShardId(0): lag}, 0.0)


@dataclass
class World:
    """One pool under control."""

    url: str
    mesh: MeshState
    pods: WorkerPods
    loads: SetLoads
    control: Control
    reports: list[PoolReport] = field(default_factory=list)

    async def until(
        self,
        pool: AgentPool,
        fact: Callable[[PoolReport], object],
        target: AgentScalingTarget | None = None,
        *,
        control: Control | None = None,
    ) -> PoolReport:
        """Look again and again until a report says it. Raises TimeoutError with the last one."""
        report: PoolReport | None = None
        try:
            async with asyncio.timeout(BOUND):
                while True:
                    report = await (control or self.control).look(pool, target, {})
                    self.reports.append(report)
                    if fact(report):
                        return report
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"last report: {report}") from None

    def another(self, **how: Any) -> Control:
        """A control loop beside the first, as after a restart."""
        return Control(self.mesh, self.pods, self.loads, **how)

    def told(self) -> list[str]:
        """Everything that the reports told people so far."""
        return [f"{each.reason}: {each}" for report in self.reports for each in report.events]


@asynccontextmanager
async def world(url: str, mesh: str) -> AsyncIterator[World]:
    """A mesh of its own on a running server; what it made is gone after it."""
    store = await connect(url, name="control")
    state = MeshState(store, mesh, chance=random.Random(1), on_change=lambda pool: None)
    pods, loads = WorkerPods(url, mesh), SetLoads()
    made = World(url, state, pods, loads, Control(state, pods, loads))
    watching: list[asyncio.Task[None]] = []
    try:
        await made.control.route([pool()], [])  # no shard runs before there are routes
        loop = asyncio.get_running_loop()
        watching = [loop.create_task(state.watch()), loop.create_task(state.ask())]
        yield made
    finally:
        await pods.remove("tickers")
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await state.remove("tickers", SHARDS, data=True)
        names = MeshNames(mesh)
        for bucket in (names.maps, names.members, names.routes):
            await store.delete_stream(f"KV_{bucket}")
        await store.close()


def pool(name: str = "tickers", *, pause: str = "", **changes: Any) -> AgentPool:
    spec: Mapping[str, Any] = {
        "replicas": 2,
        "shards": SHARDS,
        "streams": {"maxBytes": "16Mi"},
        "code": {"configMap": "code"},
        "agents": [{"type": "ticker", "entrypoint": "pods:Ticker"}],
    }
    annotations = {PAUSE_ANNOTATION: pause} if pause else {}
    made = parse(
        {
            "apiVersion": "starlingmesh.dev/v1alpha1",
            "kind": "AgentPool",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {**spec, **changes},
        }
    )
    assert isinstance(made, AgentPool)
    return made


def target(**changes: Any) -> AgentScalingTarget:
    spec = {
        "poolRef": {"name": "tickers"},
        "minReplicas": 2,
        "maxReplicas": 3,
        "rebalance": {"intervalSeconds": 1, "settleSeconds": 1, "windowSeconds": 5},
    }
    made = parse(
        {
            "apiVersion": "starlingmesh.dev/v1alpha1",
            "kind": "AgentScalingTarget",
            "metadata": {"name": "tickers"},
            "spec": {**spec, **changes},
        }
    )
    assert isinstance(made, AgentScalingTarget)
    return made


def is_whole(pods: int) -> Callable[[PoolReport], bool]:
    """Whether so many pods serve every shard."""
    return lambda report: (report.replicas, report.ready, report.shards_owned) == (pods, pods, SHARDS)
