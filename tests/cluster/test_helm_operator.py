"""The operator of the chart at work: what it may do is enough for its work, from a pool to pods and back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starling.adapters.nats import EmbeddedServer

from hack.cluster.api import Json, wait_until
from hack.cluster.apiserver import Shape
from hack.cluster.kit import Cluster, running
from hack.tools.builder import wait_for
from hack.tools.programs import missing

CHART = Path(__file__).parents[2] / "charts" / "starling"
AGENT = """
from dataclasses import dataclass
from starling import Agent, Context, event

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
"""
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


def objects() -> tuple[Json, Json]:
    code = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"greeter.py": AGENT}}
    spec = {
        "replicas": 2,
        "shards": 4,
        "drainSeconds": 1,
        "code": {"configMap": "code"},
        "agents": [{"type": "greeter", "entrypoint": "greeter:Greeter"}],
    }
    pool = {"apiVersion": "starlingmesh.dev/v1alpha1", "kind": "AgentPool", "metadata": {"name": "greeters"}}
    return code, {**pool, "spec": spec}


def install(cluster: Cluster, folder: Path, namespace: str, values: Json) -> None:
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    arguments = ("--namespace", namespace, "--values", str(file), "--wait", "--timeout", "60s")
    cluster.helm("install", "mesh", str(CHART), *arguments)


def log_of(cluster: Cluster, namespace: str) -> str:
    return "\n".join((cluster.pod_folder(pod) / "operator.log").read_text() for pod in cluster.pods(namespace))


def is_ready(found: Any) -> bool:
    conditions = (found or {}).get("status", {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@pytest.mark.parametrize("everywhere", [True, False], ids=["all namespaces", "one namespace"])
def test_a_pool_becomes_pods_and_goes_again(
    cluster: Cluster, nats_server: EmbeddedServer, tmp_path: Path, everywhere: bool
) -> None:
    system, mesh = cluster.new_namespace("system"), cluster.new_namespace("mesh")
    pool = f"/apis/starlingmesh.dev/v1alpha1/namespaces/{mesh}/agentpools/greeters"
    values: Json = {"nats": {"url": nats_server.url}, "extraEnv": [HOST], "crds": {"keep": False}}
    try:
        install(cluster, tmp_path, system, values if everywhere else {**values, "watchNamespaces": [mesh]})
        lease = cluster.api("GET", f"/apis/coordination.k8s.io/v1/namespaces/{system}/leases/starling-operator")
        (operator,) = cluster.pods(system)
        assert lease["spec"]["holderIdentity"].startswith(operator["metadata"]["name"])

        cluster.apply(*objects(), namespace=mesh)
        wait_until("the pool is ready", lambda: is_ready(cluster.api("GET", pool)), seconds=SECONDS)
        assert [each["metadata"]["name"] for each in cluster.pods(mesh)] == ["greeters-0", "greeters-1"]
        budget = f"/apis/policy/v1/namespaces/{mesh}/poddisruptionbudgets/greeters"
        assert cluster.api("GET", budget)["spec"]["maxUnavailable"] == 1

        cluster.api("DELETE", pool)
        wait_until("the pool is gone", lambda: cluster.api.find(pool) is None, seconds=SECONDS)
        wait_until("its pods are gone", lambda: not cluster.pods(mesh), seconds=COLLECTED_SECONDS)
        assert "forbidden" not in log_of(cluster, system)
    finally:
        cluster.helm("uninstall", "mesh", "--namespace", system, "--wait", "--timeout", "60s")
