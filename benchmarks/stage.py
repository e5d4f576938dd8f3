"""A whole mesh for a measurement: NATS servers, control loop and worker processes, as `starling dev` runs them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starling.adapters.nats import EmbeddedServer, NatsStore, connect
from starling.adapters.nats.server import cluster
from starling.client import Mesh
from starling.client import connect as connect_client
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.membership import Member, ShardMap
from starling.core.names import MeshNames
from starling.errors import MeshError
from starling.provision import provision_mesh
from starling_operator.adapters.local import LocalPods
from starling_operator.adapters.mesh import MeshState
from starling_operator.adapters.scrape import ScrapeLoads, fetch
from starling_operator.api import AgentPool, parse
from starling_operator.control import Control, PoolReport

from benchmarks.processes import ROOT, json_of

MESH: Final = "bench"
POOL: Final = "bench"
TOPICS: Final = {"bench.add": "counter", "bench.numbered": "checker"}
AGENTS: Final = {
    "counter": "Counter",
    "fleeting": "Fleeting",
    "relay": "Relay",
    "scale": "Scale",
    "checker": "Checker",
    "ledger": "Ledger",
    "trouble": "Trouble",
}
READY_TIMEOUT: Final = 60.0
LOOK: Final = 0.25


class StageFailed(MeshError):
    """The mesh did not become what the measurement needs; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class StageOptions:
    """servers: 1, or 3 for a cluster with three replicas of everything. spec: more of the AgentPool's spec.

    worker_url: address that a pod uses instead of the server's own, by pod. extra: further environment, by pod.
    port: of a single server, 0 for a free one. server_arguments: of a single server. cluster: its servers, in place
    of those that `servers` would make.
    """

    workers: int = 2
    shards: int = 16
    servers: int = 1
    port: int = 0
    spec: Mapping[str, Any] = field(default_factory=dict)
    worker_url: Callable[[str], str | None] = lambda pod: None
    extra: Callable[[str], Mapping[str, str]] = lambda pod: {}
    server_arguments: tuple[str, ...] = ()
    cluster: Sequence[EmbeddedServer] = ()


class Stage:
    """A running mesh with one pool. Made by `stage`."""

    def __init__(self, folder: Path, options: StageOptions) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.options = options
        self.workers = options.workers
        if options.cluster:
            self.servers = list(options.cluster)
        elif options.servers == 1:
            self.servers = [EmbeddedServer(folder / "nats", port=options.port, arguments=options.server_arguments)]
        else:
            self.servers = cluster(folder / "nats", options.servers)
        self.report: PoolReport | None = None
        self.broken_pods: set[str] = set()
        """Pods whose process ends at once when it is started: gone for good, as far as the mesh can see."""
        self.environment: dict[str, dict[str, str]] = {}
        """Further environment by pod, from its next start on."""
        self.problem = ""
        """What went wrong in the control loop last."""
        self.controlled = True
        """Whether the control loop works; without it the workers are on their own."""
        self._wake = asyncio.Event()
        self._code = {"bench_agents.py": (Path(__file__).parent / "agents.py").read_text()}

    @property
    def url(self) -> str:
        """Addresses of all servers."""
        return ",".join(server.url for server in self.servers)

    # -- the run of it

    async def start(self, ends: AsyncExitStack) -> None:
        """ends: ends what was started, workers first, servers last."""
        ends.push_async_callback(self._stop_servers)
        await asyncio.gather(*(server.start() for server in self.servers))
        self.store: NatsStore = await connect(self.url, name="bench stage")
        ends.push_async_callback(self.store.close)
        self.pods = LocalPods(self.folder, nats_url=self.url, mesh=MESH, extra=self._extra)
        ends.push_async_callback(self.pods.close)
        await self._provision()
        chance = random.Random(0)
        self.mesh = MeshState(self.store, MESH, chance=chance, on_change=lambda pool: self._wake.set())
        self._loads = ScrapeLoads(self._members)
        self._control = Control(self.mesh, self.pods, self._loads)

    async def _provision(self) -> None:
        """A cluster needs a moment to choose a leader: ask until it has."""
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_TIMEOUT
        while True:
            try:
                await provision_mesh(self.store, MESH, replicas=self.options.servers)
                return
            except MeshError:
                if loop.time() > end:
                    raise
                await asyncio.sleep(0.2)

    def _extra(self, pod: str) -> Mapping[str, str]:
        url = self.options.worker_url(pod)
        values = {"STARLING_LOG_LEVEL": "INFO", **self.options.extra(pod), **self.environment.get(pod, {})}
        if url is not None:
            values["STARLING_NATS_URL"] = url
        if pod in self.broken_pods:
            values["STARLING_CONFIG"] = str(self.folder / "there is no such file")
        return values

    def _members(self) -> list[tuple[str, Member]]:
        return [(POOL, m) for pod in self.mesh.pods_of(POOL) if (m := self.mesh.member(POOL, pod)) is not None]

    def _pool(self) -> AgentPool:
        spec = {
            "replicas": self.workers,
            "shards": self.options.shards,
            "code": {"configMap": "bench"},
            "agents": [{"type": kind, "entrypoint": f"bench_agents:{cls}"} for kind, cls in AGENTS.items()],
            "streams": {"replicas": self.options.servers},
            **self.options.spec,
        }
        made = parse(
            {"apiVersion": "starlingmesh.dev/v1alpha1", "kind": "AgentPool", "metadata": {"name": POOL}, "spec": spec}
        )
        assert isinstance(made, AgentPool)
        return made

    async def control(self) -> None:
        """The control loop, until cancelled."""
        routed = False
        while True:
            self._wake.clear()
            self.pods.changed.clear()
            if self.controlled:
                try:
                    if not routed:
                        await self._control.route([self._pool()], [_subscription(*row) for row in TOPICS.items()])
                        routed = True
                    self.report = await self._control.look(self._pool(), None, self._code)
                except (MeshError, OSError) as error:
                    self.problem = f"{type(error).__name__}: {error}"
                    await asyncio.sleep(LOOK)  # the servers are part of what is disturbed: look again
            await self._something()

    async def _something(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._wake, self.pods.changed)]
        try:
            await asyncio.wait(waits, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        await asyncio.sleep(0.02)  # what comes together is looked at together

    async def background(self) -> None:
        """All tasks of the control plane, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.mesh.watch(), name="members")
            tasks.create_task(self.mesh.ask(), name="signs of life")
            tasks.create_task(self.control(), name="control")

    async def _stop_servers(self) -> None:
        await asyncio.gather(*(server.stop() for server in self.servers))

    def resume(self) -> None:
        """Let every server go on that stands still."""
        for server in self.servers:
            server.resume()

    # -- what is seen

    def owners(self) -> dict[int, str]:
        """Shard to the pod that says it runs it, of two the one with the larger epoch."""
        claims = [
            (int(epoch), int(shard), str(member.pod))
            for _, member in self._members()
            for shard, epoch in member.shards.items()
        ]
        return {shard: pod for _, shard, pod in sorted(claims)}

    def epochs(self) -> dict[int, int]:
        """Shard to the largest epoch that any pod reports for it."""
        epochs: dict[int, int] = {}
        for _, member in self._members():
            for shard, epoch in member.shards.items():
                epochs[int(shard)] = max(int(epoch), epochs.get(int(shard), 0))
        return epochs

    def shards_of(self, pod: str) -> set[int]:
        """Shards that the pod says it runs."""
        return {shard for shard, owner in self.owners().items() if owner == pod}

    def names(self) -> list[str]:
        """Pods that should be there."""
        return [f"{POOL}-{ordinal}" for ordinal in range(self.workers)]

    def pid(self, pod: str) -> int:
        """Process id of a pod. Raises StageFailed when it does not run."""
        found = self.pods.process_of(pod)
        if found is None:
            raise StageFailed(f"pod {pod} has no process now")
        return found

    def pids(self) -> list[int]:
        """Process ids of servers and workers that run now."""
        found = [server.pid for server in self.servers] + [self.pods.process_of(pod) for pod in self.names()]
        return [pid for pid in found if pid is not None]

    def kill(self, pod: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a pod's process."""
        os.kill(self.pid(pod), number)

    async def ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until every wanted pod is a member and every shard runs where the map says. Raises StageFailed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while not await self._is_ready():
            if loop.time() > end:
                raise StageFailed(f"not ready after {timeout:.0f} s: owners {self.owners()}; {self.problem}")
            await asyncio.sleep(0.05)

    async def _is_ready(self) -> bool:
        try:
            _, current = await self.mesh.map(POOL)
        except MeshError:
            return False
        owners = self.owners()
        members = {str(member.pod) for _, member in self._members() if member.ready and not member.draining}
        return (
            current is not None
            and len(owners) == self.options.shards
            and all(owners.get(int(shard)) == pod for shard, pod in current.shards.items())
            and set(self.names()) <= members
        )

    # -- what is done to it

    async def scale(self, workers: int) -> None:
        """Change the number of pods; returns when each of them runs shards."""
        self.workers = workers
        self._wake.set()
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_TIMEOUT
        while len(set(self.owners().values())) != workers or not await self._is_ready():
            if loop.time() > end:
                raise StageFailed(f"not {workers} pods with shards: {self.owners()}")
            await asyncio.sleep(0.05)

    async def stop_workers(self) -> None:
        """End all workers in order; nobody serves until `start_workers`. Give the pool no drainSeconds."""
        self.controlled = False
        await self.pods.remove(POOL)

    async def start_workers(self) -> None:
        """Start workers again; returns at once."""
        self.controlled = True
        self._wake.set()

    async def move(self, shard: int, pod: str) -> None:
        """Order one shard to another pod; returns when the order is written, not when it is carried out."""
        while True:
            revision, current = await self.mesh.map(POOL)
            assert current is not None
            shards = {**current.shards, ShardId(shard): PodName(pod)}
            if await self.mesh.write_map(POOL, ShardMap(current.rev + 1, shards, current.draining), over=revision):
                return

    async def restart_workers(self) -> None:
        """Let every worker process end in order and start again: nothing is in memory any more."""
        before = self.epochs()
        for pod in self.names():
            self.kill(pod, signal.SIGINT)
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_TIMEOUT
        while not all(self.epochs().get(shard, 0) > epoch for shard, epoch in before.items()):
            if loop.time() > end:
                raise StageFailed(f"workers did not take their shards again: {self.owners()}")
            await asyncio.sleep(0.05)
        await self.ready()

    # -- load and figures

    @asynccontextmanager
    async def client(self, name: str | None = None) -> AsyncIterator[Mesh]:
        """A client of the mesh in this process."""
        async with connect_client(self.url, mesh=MESH, name=name) as mesh:
            yield mesh

    async def load(self, workload: str, **parameters: Any) -> dict[str, float]:
        """Run a load in a process of its own and return its figures."""
        given = {"url": self.url, "mesh": MESH, "workload": workload, "pids": self.pids(), **parameters}
        return await json_of("-m", "benchmarks.load", given, cwd=ROOT)

    async def metric(self, name: str) -> float:
        """Sum of a worker metric over all pods and labels."""
        total = 0.0
        for _, member in self._members():
            host, _, port = member.metrics.rpartition(":")
            for line in (await fetch(host, int(port), "/metrics")).splitlines():
                if line.startswith((name + "{", name + " ")):
                    total += float(line.rpartition(" ")[2])
        return total

    async def waiting(self) -> int:
        """Messages in all mailboxes, handled ones that are not purged yet included."""
        names = MeshNames(MESH).pool(PoolName(POOL))
        infos = [await self.store.stream_info(names.mailbox(ShardId(s))) for s in range(self.options.shards)]
        return sum(info.messages for info in infos if info is not None)


def _subscription(topic: str, kind: str) -> Any:
    return parse(
        {
            "apiVersion": "starlingmesh.dev/v1alpha1",
            "kind": "AgentSubscription",
            "metadata": {"name": topic.replace(".", "-")},
            "spec": {"topic": topic, "poolRef": {"name": POOL}, "agentType": kind},
        }
    )


@asynccontextmanager
async def stage(folder: Path, options: StageOptions | None = None) -> AsyncIterator[Stage]:
    """Run a mesh; it is ready when this returns, and gone afterwards. folder: for data and logs, new or empty."""
    made = Stage(folder, options or StageOptions())
    async with AsyncExitStack() as ends:
        await made.start(ends)
        background = asyncio.get_running_loop().create_task(made.background(), name="control plane")
        try:
            ready = asyncio.get_running_loop().create_task(made.ready())
            await asyncio.wait({background, ready}, return_when=asyncio.FIRST_COMPLETED)
            if background.done():
                ready.cancel()
                background.result()
            await ready
            yield made
        finally:
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)
            made.resume()
