"""A real Kubernetes control plane as plain local processes, below one folder."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.api import Api, wait_until
from hack.cluster.credentials import ADMIN, CONTROLLERS, SCHEDULER, write_certificates, write_users
from hack.cluster.errors import KitError, MissingProgram, NotReady
from hack.cluster.processes import Processes, free_port
from hack.tools.programs import CLUSTER, CONTROL_PLANE, ROOT, find, missing

POD_ADDRESSES = "10.244.0.0/16"
SERVICE_ADDRESSES = "10.96.0.0/16"
CONTROLLING = frozenset({"kube-controller-manager", "kube-scheduler"})
QUICK_CLIENT = (
    "--kube-api-qps=200",
    "--kube-api-burst=400",
    "--profiling=false",
    "--leader-elect=false",
    "--secure-port=0",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What to start.

    controllers: also the controller manager and the scheduler; nodes: how many process nodes (implies controllers);
    node_arguments: passed on to each of them, see the function of that name.
    """

    controllers: bool = False
    nodes: int = 0
    node_arguments: tuple[str, ...] = ()

    @property
    def programs(self) -> tuple[str, ...]:
        """What has to be on the machine."""
        return CLUSTER if self.controllers or self.nodes else CONTROL_PLANE


def node_arguments(*, backoff: float = 1.0, entrypoints: Iterable[str] = ()) -> tuple[str, ...]:
    """Return a process node's options; the image ``starling`` is a worker of this checkout.

    backoff: seconds before a container's second restart; entrypoints: further ``IMAGE=COMMAND``.
    """
    worker = f"starling={shlex.quote(sys.executable)} -m starling.node"
    return (f"--backoff={backoff:g}", *(f"--entrypoint={each}" for each in (worker, *entrypoints)))


class ControlPlane:
    """etcd and kube-apiserver, and what else its shape asks for.

    tied: everything ends with this process, whatever ends it (for tests); else it runs until `down`.
    """

    def __init__(self, folder: Path, *, tied: bool = False) -> None:
        self.folder = folder.absolute()
        self.kubeconfig = self.folder / "kubeconfig"
        self.processes = Processes(self.folder, tied=tied)

    def up(self, shape: Shape) -> dict[str, float]:
        """Start everything afresh and wait until it is usable; return stages to seconds since the start.

        Raises MissingProgram, or NotReady with the end of a log; nothing is left running then.
        """
        if why := missing(shape.programs):
            raise MissingProgram(why)
        if alive := self.processes.alive():
            raise NotReady(f"already up in {self.folder}: {', '.join(alive)}")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        try:
            return self._start(shape)
        except BaseException:
            self.processes.stop()
            raise

    def down(self) -> None:
        """End everything that was started here; the folder stays for its logs."""
        self.processes.stop()

    def kill(self, name: str) -> None:
        """SIGKILL one process, such as ``kube-apiserver`` or ``node1``."""
        self.processes.kill(name)

    def start(self, name: str, *, seconds: float = 60.0) -> None:
        """Start one that was killed, on the same data; wait until the API server answers.

        With the API server its controllers start anew: each lost watch of theirs waits up to a minute otherwise.
        """
        self.processes.start(name)
        self.wait_ready(seconds=seconds)
        if name == "kube-apiserver":
            for each in CONTROLLING & self.processes.alive().keys():
                self.processes.kill(each)
                self.processes.start(each)

    def wait_ready(self, *, seconds: float = 60.0) -> None:
        """Wait until /readyz says ok."""
        api = Api(self.kubeconfig)

        def look() -> bool:
            self.processes.require("etcd", "kube-apiserver")
            try:
                return bool(api("GET", "/readyz", timeout=2) == "ok")
            except KitError:
                return False

        try:
            wait_until("/readyz says ok", look, seconds=seconds)
        except NotReady as error:
            raise NotReady(f"{error}\n{self.processes.tail('kube-apiserver')}") from None

    def _start(self, shape: Shape) -> dict[str, float]:
        started, marks = time.monotonic(), {}
        write_certificates(self.folder / "certs")
        port = free_port()
        users = write_users(self.folder, f"https://127.0.0.1:{port}")
        etcd = self._start_etcd()
        self._start_server(port, etcd, controllers=bool(shape.controllers or shape.nodes))
        self.wait_ready()
        marks["readyz"] = time.monotonic() - started
        if shape.controllers or shape.nodes:
            self._start_controllers(users)
            marks["controllers"] = time.monotonic() - started
        if shape.nodes:
            self._start_nodes(shape.nodes, shape.node_arguments)
            marks["nodes"] = time.monotonic() - started
        return marks

    def _start_etcd(self) -> str:
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        options = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "log-level": "warn",
            "auto-compaction-retention": "5m",
        }
        self._spawn("etcd", [*_flags(options), "--unsafe-no-fsync"])
        return client

    def _start_server(self, port: int, etcd: str, *, controllers: bool) -> None:
        certs = self.folder / "certs"
        options = {
            "etcd-servers": etcd,
            "secure-port": port,
            "bind-address": "127.0.0.1",
            "external-hostname": "127.0.0.1",  # else it takes the network card's address for its own
            "tls-cert-file": certs / "api.crt",
            "tls-private-key-file": certs / "api.key",
            "token-auth-file": self.folder / "tokens.csv",
            "authorization-mode": "RBAC",
            "service-cluster-ip-range": SERVICE_ADDRESSES,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": certs / "sa.key",
            "service-account-signing-key-file": certs / "sa.key",
            "allow-privileged": "true",
            "profiling": "false",
            "shutdown-delay-duration": "0s",
            "kubelet-preferred-address-types": "InternalIP",  # a node's name is in no DNS
            "endpoint-reconciler-type": "none",
        }
        if not controllers:  # nothing makes the `default` account then
            options["disable-admission-plugins"] = "ServiceAccount"
        self._spawn("kube-apiserver", _flags(options))

    def _start_controllers(self, users: dict[str, Path]) -> None:
        options = {
            "kubeconfig": users[CONTROLLERS],
            "service-account-private-key-file": self.folder / "certs" / "sa.key",
            "root-ca-file": self.folder / "certs" / "ca.crt",
            "allocate-node-cidrs": "true",
            "cluster-cidr": POD_ADDRESSES,
            "service-cluster-ip-range": SERVICE_ADDRESSES,
            "node-monitor-grace-period": "20s",
            "node-monitor-period": "2s",
        }
        self._spawn("kube-controller-manager", [*_flags(options), *QUICK_CLIENT])
        account = users[SCHEDULER]
        names = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
        self._spawn("kube-scheduler", [*_flags(dict.fromkeys(names, account)), *QUICK_CLIENT])
        api = Api(users[ADMIN])

        def look() -> object:
            self.processes.require("kube-controller-manager", "kube-scheduler")
            return api.find("/api/v1/namespaces/default/serviceaccounts/default")

        wait_until("the controllers have made the default ServiceAccount", look)

    def _start_nodes(self, nodes: int, arguments: Sequence[str]) -> None:
        names = [f"node{number}" for number in range(1, nodes + 1)]
        for name in names:
            options = {
                "kubeconfig": self.kubeconfig,
                "name": name,
                "dir": self.folder / name,
                "certs": self.folder / "certs",
            }
            command = [sys.executable, "-m", "hack.cluster.procnode", *_flags(options), *arguments]
            self.processes.spawn(name, command, cwd=ROOT)
        api = Api(self.kubeconfig)

        def look() -> bool:
            self.processes.require(*names)
            return sum(map(is_ready, api("GET", "/api/v1/nodes")["items"])) == nodes

        wait_until(f"{nodes} nodes are Ready", look)

    def _spawn(self, name: str, arguments: Iterable[str]) -> None:
        program = find(name)
        if program is None:
            raise MissingProgram(missing([name]))
        self.processes.spawn(name, [str(program), *arguments])


def is_ready(obj: dict[str, object]) -> bool:
    """Return whether a node, pod or custom resource has the condition Ready with status True."""
    status = obj.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions or [])


def _flags(options: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]
