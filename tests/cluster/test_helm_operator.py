"""The operator of the chart at work: what it may do is enough for its work, from a pool to pods and back."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import starling
import yaml
from starling import Agent, AgentId, Context, event
from starling.adapters.nats import EmbeddedServer

from hack.boards.verify import Window, problems
from hack.cluster import prometheus
from hack.cluster.api import Json, wait_until
from hack.cluster.apiserver import Shape
from hack.cluster.kit import Cluster, running
from hack.tools.builder import wait_for
from hack.tools.programs import missing

CHART = Path(__file__).parents[2] / "charts" / "starling"
BOARD = CHART / "files" / "dashboards" / "starling.json"
RULES = CHART / "files" / "rules" / "starling.yaml"


@dataclass
class Greeting:
    text: str


@dataclass
class Greeted:
    times: int = 0


class Greeter(Agent[Greeted]):
    @event
    async def greeted(self, message: Greeting, ctx: Context) -> None:
        self.state.times += 1


IMPORTS = "from dataclasses import dataclass\nfrom starling import Agent, Context, event\n"
AGENT = "\n\n".join([IMPORTS, *(inspect.getsource(each) for each in (Greeting, Greeted, Greeter))])
HOST = {"name": "STARLING_HTTP_HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
SECONDS = 60.0
# The garbage collector learns of new kinds every 30 seconds.
COLLECTED_SECONDS = 90.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for this file alone, as the chart's operator and definitions are for a whole cluster."""
    shape = Shape(nodes=1, node_arguments=("--backoff=1",))
    programs = (*shape.programs, "helm")
    wait_for(programs, float(os.environ.get("STARLING_TOOLS_WAIT") or 0))
    if why := missing(programs):
        pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch:
        # The commands of this Python stand in for those of the image.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        with running(tmp_path_factory.mktemp("operator") / "cluster", shape) as made:
            yield made


def objects() -> list[Json]:
    code = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"greeter.py": AGENT}}
    pool = {
        "replicas": 2,
        "shards": 4,
        "drainSeconds": 1,
        "code": {"configMap": "code"},
        "agents": [{"type": "greeter", "entrypoint": "greeter:Greeter"}],
    }
    target = {
        "poolRef": {"name": "greeters"},
        "minReplicas": 2,
        "maxReplicas": 2,
        "signals": [{"type": "LagPerPod", "target": "500"}],
        "rebalance": {"intervalSeconds": 1, "settleSeconds": 1, "windowSeconds": 5},
    }
    kinds = {"AgentPool": pool, "AgentScalingTarget": target}
    api = "starlingmesh.dev/v1alpha1"
    ours = [
        {"apiVersion": api, "kind": kind, "metadata": {"name": "greeters"}, "spec": spec}
        for kind, spec in kinds.items()
    ]
    return [code, *ours]


@contextmanager
def installed(cluster: Cluster, folder: Path, namespace: str, values: Json) -> Iterator[None]:
    """The chart with these values, until the end of a `with`."""
    file = folder / "values.json"
    file.write_text(json.dumps({"extraEnv": [HOST], "crds": {"keep": False}, **values}))
    place = ("--namespace", namespace, "--wait", "--timeout", "60s")
    try:
        cluster.helm("install", "mesh", str(CHART), *place, "--values", str(file))
        yield
    finally:
        cluster.helm("uninstall", "mesh", *place)


def log_of(cluster: Cluster, namespace: str) -> str:
    return "\n".join((cluster.pod_folder(pod) / "operator.log").read_text() for pod in cluster.pods(namespace))


def is_ready(found: Any) -> bool:
    conditions = (found or {}).get("status", {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def pool_path(namespace: str) -> str:
    return f"/apis/starlingmesh.dev/v1alpha1/namespaces/{namespace}/agentpools/greeters"


def apply(cluster: Cluster, namespace: str) -> None:
    """Apply the objects and wait until the pool is ready."""
    cluster.apply(*objects(), namespace=namespace)
    wait_until("the pool is ready", lambda: is_ready(cluster.api("GET", pool_path(namespace))), seconds=SECONDS)


def remove(cluster: Cluster, namespace: str) -> None:
    """Delete the pool and wait until it and its pods are gone."""
    cluster.api("DELETE", pool_path(namespace))
    wait_until("the pool is gone", lambda: cluster.api.find(pool_path(namespace)) is None, seconds=SECONDS)
    wait_until("its pods are gone", lambda: not cluster.pods(namespace), seconds=COLLECTED_SECONDS)


@pytest.mark.parametrize("everywhere", [True, False], ids=["all namespaces", "one namespace"])
def test_a_pool_becomes_pods_and_goes_again(
    cluster: Cluster, nats_server: EmbeddedServer, tmp_path: Path, everywhere: bool
) -> None:
    system, mesh = cluster.new_namespace("system"), cluster.new_namespace("mesh")
    values: Json = {"nats": {"url": nats_server.url}, "watchNamespaces": [] if everywhere else [mesh]}
    with installed(cluster, tmp_path, system, values):
        lease = cluster.api("GET", f"/apis/coordination.k8s.io/v1/namespaces/{system}/leases/starling-operator")
        (operator,) = cluster.pods(system)
        assert lease["spec"]["holderIdentity"].startswith(operator["metadata"]["name"])

        apply(cluster, mesh)
        assert [each["metadata"]["name"] for each in cluster.pods(mesh)] == ["greeters-0", "greeters-1"]
        budget = f"/apis/policy/v1/namespaces/{mesh}/poddisruptionbudgets/greeters"
        assert cluster.api("GET", budget)["spec"]["maxUnavailable"] == 1

        remove(cluster, mesh)
        assert "forbidden" not in log_of(cluster, system)


async def greet(mesh: starling.Mesh) -> None:
    """Greet a few agents without end."""
    number = 0
    while True:
        number += 1
        await mesh.send(AgentId("greeter", f"number-{number % 13}"), Greeting("hello"))


async def panels_without_data(url: str, namespace: str, prometheus_url: str) -> list[str]:
    """Greet until every query of the board has data, at most for a minute; return what is wrong then."""
    board, window = json.loads(BOARD.read_text()), Window(seconds=30.0, step=1.0, rate_interval="10s")
    end = asyncio.get_running_loop().time() + SECONDS
    async with starling.connect(url, mesh=namespace) as mesh:
        greeting = asyncio.create_task(greet(mesh), name="greet")
        try:
            while True:
                found = await asyncio.to_thread(problems, board, prometheus_url, window)
                if not found or greeting.done() or asyncio.get_running_loop().time() > end:
                    return found
                await asyncio.wait([greeting], timeout=1.0)
        finally:
            greeting.cancel()
            await asyncio.gather(greeting, return_exceptions=True)


@pytest.mark.row("CP-27", "CP-29", part="the first board")
def test_every_query_of_the_board_returns_data_under_load(
    cluster: Cluster, nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    if why := prometheus.missing():
        pytest.skip(why)
    system, mesh = cluster.new_namespace("system"), cluster.new_namespace("mesh")
    scrape = prometheus.Scrape(kubeconfig=cluster.kubeconfig, rules=(RULES,), interval=1.0)
    with prometheus.running(tmp_path / "prometheus", scrape) as measured:
        values: Json = {"nats": {"url": nats_server.url}, "prometheus": {"url": measured.url}}
        with installed(cluster, tmp_path, system, values):
            apply(cluster, mesh)

            assert asyncio.run(panels_without_data(nats_server.url, mesh, measured.url)) == []

            for record in yaml.safe_load(RULES.read_text())["groups"]:
                for rule in (rule for rule in record["rules"] if "record" in rule):  # alerts have data when they fire
                    assert measured.query(f'{rule["record"]}{{namespace="{mesh}"}}'), rule["record"]
            remove(cluster, mesh)
