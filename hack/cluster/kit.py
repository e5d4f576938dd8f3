"""What a test gets: a running cluster with the ways in."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hack.cluster.api import Api, Json, wait_until
from hack.cluster.apiserver import ControlPlane, Shape
from hack.cluster.errors import KitError, MissingProgram
from hack.tools.programs import find, missing


class CommandFailed(KitError):
    """kubectl or helm ended with an exit code other than 0; the text is what it wrote to standard error."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that runs; everything in it is gone when the test session ends.

    folder: logs (NAME.log) and the kubeconfig; plane: kill and start single processes; nodes: their names.
    """

    plane: ControlPlane
    nodes: tuple[str, ...]
    kubectl_path: Path
    helm_path: Path | None
    api: Api
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def folder(self) -> Path:
        """Where logs and kubeconfigs lie."""
        return self.plane.folder

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.plane.kubeconfig

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with KUBECONFIG set to this cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *arguments: str, stdin: str | Json | None = None, timeout: float = 60.0) -> str:
        """Run kubectl and return what it printed. Raises CommandFailed with its error text.

        stdin: what ``-f -`` reads; a dict is sent as JSON.
        """
        return self._run(self.kubectl_path, arguments, stdin, timeout)

    def helm(self, *arguments: str, stdin: str | None = None, timeout: float = 120.0) -> str:
        """Run Helm and return what it printed. Raises CommandFailed, or MissingProgram without a Helm."""
        if self.helm_path is None:
            raise MissingProgram(missing(["helm"]))
        return self._run(self.helm_path, arguments, stdin, timeout)

    def apply(self, *objects: Json, namespace: str | None = None) -> str:
        """`kubectl apply` these objects; return what it printed."""
        place = ("--namespace", namespace) if namespace else ()
        return self.kubectl(
            "apply", *place, "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": list(objects)}
        )

    def new_namespace(self, prefix: str = "test") -> str:
        """Make a namespace with a name that was never used before; return it once pods can be made in it."""
        name = f"{prefix}-{next(self._numbers)}-{secrets.token_hex(3)}"
        self.api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        if "kube-controller-manager" in self.plane.processes.alive():
            account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
            wait_until(f"namespace {name} has its ServiceAccount", lambda: self.api.find(account))
        return name

    def drop_namespace(self, name: str) -> None:
        """Ask for the namespace's end and go on: the controllers need seconds for it."""
        self.api("DELETE", f"/api/v1/namespaces/{name}")

    def pods(self, namespace: str, labels: str = "") -> list[Any]:
        """Return the namespace's pods, by name; `labels` is a label selector such as ``app=web``."""
        query = f"?labelSelector={labels}" if labels else ""
        found: list[Any] = self.api("GET", f"/api/v1/namespaces/{namespace}/pods{query}")["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def pod_folder(self, pod: Json) -> Path:
        """Return where a pod's logs (CONTAINER.log) and volumes lie; they stay when the pod is gone."""
        meta, node = pod["metadata"], str(pod["spec"]["nodeName"])
        return self.folder / node / f"{meta['namespace']}_{meta['name']}_{meta['uid']}"

    def _run(self, program: Path, arguments: tuple[str, ...], stdin: str | Json | None, timeout: float) -> str:
        text = json.dumps(stdin) if isinstance(stdin, dict) else stdin
        command = [str(program), *arguments]
        done = subprocess.run(
            command,
            input=text or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self.folder,
            env=self.environment,
        )
        if done.returncode:
            raise CommandFailed(f"{program.name} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


def pid_of(pod: Json, container: int = 0) -> int:
    """Return the process id of a pod's container on a process node."""
    return int(pod["status"]["containerStatuses"][container]["containerID"].removeprefix("process://"))


@contextmanager
def running(folder: Path, shape: Shape) -> Iterator[Cluster]:
    """Start a cluster for the length of a `with`; its processes end with it, and with this process."""
    plane = ControlPlane(folder, tied=True)
    plane.up(shape)
    try:
        kubectl = find("kubectl")
        assert kubectl is not None  # `up` has looked for it
        nodes = tuple(f"node{number}" for number in range(1, shape.nodes + 1))
        yield Cluster(plane, nodes, kubectl, find("helm"), Api(plane.kubeconfig))
    finally:
        plane.down()
