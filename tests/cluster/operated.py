"""The operator as a process of its own, and what tests want to know of its pools."""

from __future__ import annotations

import inspect
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import starling
from starling.adapters.nats import EmbeddedServer

from hack.cluster.api import Json, wait_until
from hack.cluster.apiserver import is_ready
from hack.cluster.kit import Cluster
from hack.cluster.processes import Processes, free_port
from tests.cluster import clicks

API = "starlingmesh.dev/v1alpha1"
PLURALS = {
    "AgentPool": "agentpools",
    "AgentSubscription": "agentsubscriptions",
    "AgentScalingTarget": "agentscalingtargets",
}
POOL_LABEL = "starlingmesh.dev/pool"
SECONDS = 60.0


def code(text: str = "") -> Json:
    """The ConfigMap with the agents; text: something that makes it another version."""
    source = inspect.getsource(clicks) + (f"\n# {text}\n" if text else "")
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"clicks.py": source}}


def made(kind: str, name: str, spec: Json, **metadata: Any) -> Json:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def pool(name: str = "clickers", *, annotations: Json | None = None, **changes: Any) -> Json:
    """A pool of two pods and four shards that leaves quickly."""
    spec = {
        "replicas": 2,
        "shards": 4,
        "drainSeconds": 1,
        "moveWaitSeconds": 1,
        "deletionPolicy": "Delete",
        "streams": {"maxBytes": "16Mi"},
        "code": {"configMap": "code"},
        "agents": [{"type": "clicker", "entrypoint": "clicks:Clicker"}],
    }
    return made("AgentPool", name, {**spec, **changes}, **({"annotations": annotations} if annotations else {}))


def subscription(name: str = "clicks", **changes: Any) -> Json:
    return made(
        "AgentSubscription",
        name,
        {"topic": "clicked", "poolRef": {"name": "clickers"}, "agentType": "clicker", **changes},
    )


def target(name: str = "clickers", **changes: Any) -> Json:
    spec = {"poolRef": {"name": "clickers"}, "minReplicas": 1, "maxReplicas": 3}
    return made("AgentScalingTarget", name, {**spec, **changes})


@dataclass
class Operated:
    """A namespace with its operators. start: another one, by a name of its own."""

    cluster: Cluster
    namespace: str
    nats: EmbeddedServer
    processes: Processes
    settings: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def start(self, name: str = "operator") -> None:
        """Start an operator, or start it again as it was."""
        if name in self.ports:
            self.processes.start(name)
            return
        self.ports[name] = free_port()
        environment = {
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "POD_NAMESPACE": self.namespace,
            "POD_NAME": name,
            "STARLING_WATCH_NAMESPACES": self.namespace,
            "STARLING_NATS_URL": self.nats.url,
            "STARLING_WORKER_IMAGE": "starling",
            "STARLING_HTTP_HOST": "127.0.0.1",
            "STARLING_HTTP_PORT": str(self.ports[name]),
            **self.settings,
        }
        self.processes.spawn(name, [sys.executable, "-m", "starling_operator"], env=environment)

    def metric(self, text: str, name: str = "operator") -> float | None:
        """A sample of an operator's metrics by its full text before the value; None without one."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return None
        found = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{text} ")]
        return float(found[0]) if found else None

    def apply(self, *objects: Json) -> None:
        self.cluster.apply(*objects, namespace=self.namespace)

    def path(self, kind: str, name: str = "clickers") -> str:
        return f"/apis/{API}/namespaces/{self.namespace}/{PLURALS[kind]}/{name}"

    def find(self, kind: str = "AgentPool", name: str = "clickers") -> Any:
        return self.cluster.api.find(self.path(kind, name))

    def owned(self, kind: str, name: str = "clickers") -> Any:
        """One of the objects that a pool owns, by plural."""
        group = {"statefulsets": "apis/apps/v1", "poddisruptionbudgets": "apis/policy/v1"}.get(kind, "api/v1")
        return self.cluster.api.find(f"/{group}/namespaces/{self.namespace}/{kind}/{name}")

    def status(self, kind: str = "AgentPool", name: str = "clickers") -> Json:
        found: Json = (self.find(kind, name) or {}).get("status") or {}
        return found

    def condition(self, type_: str, kind: str = "AgentPool", name: str = "clickers") -> tuple[str, str, str]:
        """Status, reason and message; empty texts before it is said."""
        for each in self.status(kind, name).get("conditions", ()):
            if each["type"] == type_:
                return each["status"], each["reason"], each["message"]
        return "", "", ""

    def until(self, what: str, look: Callable[[], object], *, seconds: float = SECONDS) -> None:
        """Wait for a fact; says the operator's last words when it does not come."""
        try:
            wait_until(what, lambda: look() or None, seconds=seconds, pause=0.1)
        except Exception as error:
            logs = "\n".join(self.processes.tail(name, 12) for name in self.ports)
            raise AssertionError(f"{error}\n{self.status()}\n{logs}") from error

    def until_ready(self, name: str = "clickers", *, pods: int = 2, shards: int = 4, seconds: float = SECONDS) -> None:
        """Wait until exactly so many pods serve all shards."""

        def look() -> bool:
            found = self.find("AgentPool", name)
            status = (found or {}).get("status") or {}
            return (
                is_ready(found or {})
                and status.get("observedGeneration") == found["metadata"]["generation"]
                and (status["replicas"], status["readyReplicas"], status["shardsOwned"]) == (pods, pods, shards)
            )

        self.until(f"{pods} pods of {name} serve {shards} shards", look, seconds=seconds)

    def pods(self, name: str = "clickers") -> list[Any]:
        return self.cluster.pods(self.namespace, f"{POOL_LABEL}={name}")

    def events(self, reason: str = "") -> list[str]:
        """`Type Reason: message` of the namespace's events about our kinds, as they were stored one after the other."""
        items = self.cluster.api("GET", f"/api/v1/namespaces/{self.namespace}/events")["items"]
        items.sort(key=lambda each: int(each["metadata"]["resourceVersion"]))
        ours = [each for each in items if each["involvedObject"].get("apiVersion") == API]
        lines = [f"{each['type']} {each['reason']}: {each['message']}" for each in ours]
        return [line for line in lines if reason in line]

    def mesh(self) -> Any:
        """A connection to the mesh, for `async with`."""
        return starling.connect(self.nats.url, mesh=self.namespace, name="test")


@contextmanager
def operated(cluster: Cluster, nats: EmbeddedServer, folder: Path, **settings: str) -> Iterator[Operated]:
    """A fresh namespace with one operator; both end with the `with`, and the pools with the operator's help."""
    namespace = cluster.new_namespace("mesh")
    folder.mkdir()
    processes = Processes(folder, tied=True)
    made_here = Operated(cluster, namespace, nats, processes, settings)
    made_here.start()
    try:
        yield made_here
    finally:
        cluster.kubectl("delete", "agentpools", "--all", "--wait=false", "--namespace", namespace)
        if "operator" in processes.alive():
            made_here.until("the pools are gone", lambda: not cluster.api("GET", _pools(namespace))["items"])
        processes.stop()
        cluster.drop_namespace(namespace)


def _pools(namespace: str) -> str:
    return f"/apis/{API}/namespaces/{namespace}/agentpools"
