"""The demo on a real Kubernetes control plane: StatefulSet pods on process nodes, the operator a process of its own.

The API server, etcd, controllers, scheduler and Prometheus are the real programs; `hack/cluster` starts them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from starling.adapters.nats import EmbeddedServer

from examples.flights.stage import DemoFailed, Killed
from hack.boards.verify import Window, problems
from hack.cluster import prometheus
from hack.cluster.api import wait_until
from hack.cluster.apiserver import Shape, is_ready, node_arguments
from hack.cluster.errors import KitError
from hack.cluster.kit import Cluster, pid_of, running
from hack.cluster.processes import Processes, free_port
from hack.tools.programs import CLUSTER, missing

P = ParamSpec("P")
T = TypeVar("T")

ROOT: Final = Path(__file__).parents[2]
MANIFESTS: Final = Path(__file__).parent
RULES: Final = ROOT / "charts" / "starling" / "files" / "rules" / "starling.yaml"
BOARDS: Final = ROOT / "charts" / "starling" / "files" / "dashboards"
NAMESPACE: Final = "flights"
POOLS: Final = f"/apis/starlingmesh.dev/v1alpha1/namespaces/{NAMESPACE}/agentpools"
EVENTS: Final = f"/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.kind=AgentPool,reason="
POOL_LABEL: Final = "starlingmesh.dev/pool"
NODES: Final = 2
SCRAPE_SECONDS: Final = 1.0
START_SECONDS: Final = 60.0
OPERATOR: Final = "operator"


class ClusterStage:
    """folder: for data and logs, made anew at each start."""

    name = "cluster"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nats = EmbeddedServer(folder / "nats")
        self._operator = Processes(folder / OPERATOR, tied=True)
        self._running = ExitStack()
        # One thread for all that blocks: children are tied to the thread that started them.
        self._thread = ThreadPoolExecutor(1, "cluster")
        self._cluster: Cluster | None = None
        self._prometheus: prometheus.Prometheus | None = None

    @property
    def nats_url(self) -> str:
        return self._nats.url

    @property
    def mesh(self) -> str:
        return NAMESPACE

    async def start(self) -> None:
        if why := missing(CLUSTER) or prometheus.missing():
            raise DemoFailed(why)
        for part in ("nats", "cluster", "prometheus", OPERATOR):
            await asyncio.to_thread(shutil.rmtree, self._folder / part, ignore_errors=True)
        await self._nats.start()
        await self._do(self._start)

    async def stop(self) -> None:
        try:
            await self._do(self._running.close)
        finally:
            await self._nats.stop()

    async def pods(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for pod in await self._do(self._pods):
            pool = pod["metadata"]["labels"][POOL_LABEL]
            found[pool] = found.get(pool, 0) + is_ready(pod)
        return found

    async def moves(self) -> Sequence[str]:
        return [line for line in await self._events("ShardMoved") if "(load)" in line]

    async def scale_ups(self) -> Sequence[str]:
        return await self._events("ScaledUp")

    async def kill_worker(self, pool: str) -> Killed:
        pod, process = await self._do(self._owner, pool)
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            raise DemoFailed(f"worker {pod} had ended before it was killed") from None
        return Killed(pod, asyncio.get_running_loop().time())

    async def kill_operator(self) -> None:
        await self._do(self._operator.kill, OPERATOR)

    async def start_operator(self) -> None:
        await self._do(self._operator.start, OPERATOR)

    async def checks(self) -> Mapping[str, tuple[bool, str]]:
        return {"boards": await self._do(self._boards)}

    async def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in the stage's thread. Raises DemoFailed."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))
        except KitError as error:
            raise DemoFailed(str(error)) from error

    # -- in the thread

    def _start(self) -> None:
        shape = Shape(nodes=NODES, node_arguments=node_arguments())
        cluster = self._cluster = self._running.enter_context(running(self._folder / "cluster", shape))
        port = free_port()
        scrape = prometheus.Scrape(
            kubeconfig=cluster.kubeconfig,
            targets={OPERATOR: [f"127.0.0.1:{port}"]},
            rules=(RULES,),
            interval=SCRAPE_SECONDS,
        )
        measured = self._prometheus = self._running.enter_context(
            prometheus.running(self._folder / "prometheus", scrape)
        )
        cluster.kubectl("apply", "--filename", str(ROOT / "crds"))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all")
        cluster.kubectl("create", "namespace", NAMESPACE)
        self._start_operator(cluster, measured.url, port)
        cluster.kubectl("apply", "--kustomize", str(MANIFESTS), "--namespace", NAMESPACE)
        wait_until("every shard is served", self._is_served, seconds=START_SECONDS)
        measured.wait_for(f'starling_shards_owned{{namespace="{NAMESPACE}"}}', lambda found: len(found) >= 4)

    def _start_operator(self, cluster: Cluster, prometheus_url: str, port: int) -> None:
        self._operator.folder.mkdir(parents=True, exist_ok=True)
        self._running.callback(self._operator.stop)
        environment = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "POD_NAMESPACE": "default",
            "STARLING_NATS_URL": self._nats.url,
            "STARLING_PROMETHEUS_URL": prometheus_url,
            "STARLING_WORKER_IMAGE": "starling",
            "STARLING_HTTP_HOST": "127.0.0.1",
            "STARLING_HTTP_PORT": str(port),
        }
        self._operator.spawn(OPERATOR, [sys.executable, "-m", "starling_operator"], env=environment)

    def _is_served(self) -> bool:
        self._operator.require(OPERATOR)
        pools = self._api("GET", POOLS)["items"]
        states = [pool.get("status", {}) for pool in pools]
        return bool(states) and all(
            is_ready(pool) and state.get("shardsOwned") == state.get("shardsTotal")
            for pool, state in zip(pools, states, strict=True)
        )

    def _owner(self, pool: str) -> tuple[str, int]:
        """The ready pod with the most shards, as Prometheus last saw it, and its process."""
        ready = {pod["metadata"]["name"]: pod for pod in self._pods(pool) if is_ready(pod)}
        query = f'starling_shards_owned{{namespace="{NAMESPACE}",pool="{pool}"}}'
        assert self._prometheus is not None
        found = [each for each in self._prometheus.query(query) if each.labels["pod"] in ready and each.value]
        if not found:
            raise DemoFailed(f"no worker of pool {pool} owns a shard")
        name = max(found, key=lambda each: (each.value, each.labels["pod"])).labels["pod"]
        return name, pid_of(ready[name])

    def _pods(self, pool: str = "") -> list[Any]:
        assert self._cluster is not None
        return self._cluster.pods(NAMESPACE, f"{POOL_LABEL}={pool}" if pool else POOL_LABEL)

    def _api(self, method: str, path: str) -> Any:
        assert self._cluster is not None
        return self._cluster.api(method, path)

    async def _events(self, reason: str) -> list[str]:
        """Lines of the pools' events, in the order in which the API server stored them."""
        items = (await self._do(self._api, "GET", EVENTS + reason))["items"]
        items.sort(key=lambda each: int(each["metadata"]["resourceVersion"]))
        return [f"{each['involvedObject']['name']}: {each['message']}" for each in items]

    def _boards(self) -> tuple[bool, str]:
        """Whether every query of every board has data."""
        assert self._prometheus is not None
        files = sorted(BOARDS.glob("*.json"))
        url = self._prometheus.url
        found = [line for file in files for line in problems(json.loads(file.read_text()), url, Window())]
        return not found, "; ".join(found) or f"every query of {len(files)} board(s) returned data"
