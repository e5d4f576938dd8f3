"""The node: its address, its heartbeat, and the pods that the scheduler binds to it."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hack.cluster.api import STRATEGIC, Json
from hack.cluster.errors import KitError, NotReady
from hack.cluster.procnode.client import Client
from hack.cluster.procnode.container import now
from hack.cluster.procnode.logs import log_server
from hack.cluster.procnode.pod import DEFAULT_GRACE, Host, Pod

log = logging.getLogger(__name__)

PORT = 10250
NETWORKS = range(64, 128)  # 127.N.0.0/16 is one node's
ADDRESSES = 60_000
RENEW_SECONDS = 5.0
RENEWALS_A_STATUS = 12
AGAIN_SECONDS = 0.5
STOP_SECONDS = 5.0
SOCKETS = Path("/proc/net/tcp")
LISTENING = "0A"
OVER = ("Succeeded", "Failed")
HANDED_ON = ("HOME", "LANG", "TERM", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")
ROOM = {"cpu": "64", "memory": "256Gi", "pods": "500", "ephemeral-storage": "100Gi"}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Stopped(Exception):
    """The node was told to stop."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line. certs: with api.crt and api.key, None for a node without logs."""

    kubeconfig: Path
    name: str
    folder: Path
    certs: Path | None
    backoff: float
    entrypoints: Mapping[str, str]


def take_network() -> socket.socket:
    """Return a socket that listens as the kubelet's on 127.N.0.1: who has it owns 127.N.0.0/16 on this machine."""
    for number in NETWORKS:
        try:
            return socket.create_server((f"127.{number}.0.1", PORT))
        except OSError:
            continue
    raise NotReady(f"no free network among 127.{NETWORKS.start} to 127.{NETWORKS.stop - 1}: too many nodes here")


def address(network: str, number: int) -> str:
    """Return the pod address with this number, 0 to 59,999, in the network of ``127.N.0.1``."""
    first, second, _, _ = network.split(".")
    return f"{first}.{second}.{number // 250}.{number % 250 + 2}"


def listening(table: str) -> set[str]:
    """Return the addresses that something listens on, by the kernel's table of TCP sockets (``/proc/net/tcp``).

    What a pod of an earlier node left running would else answer the probes of a new pod at its address.
    """
    found = set()
    for row in table.splitlines()[1:]:
        _, local, _, state = row.split()[:4]
        if state == LISTENING:
            number = int(local.partition(":")[0], 16)
            found.add(socket.inet_ntoa(number.to_bytes(4, sys.byteorder)))
    return found


class Node:
    """One node from start to stop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._sock = take_network()
        self._ip: str = self._sock.getsockname()[0]
        self._pods: dict[str, Pod] = {}
        self._next = 0
        options.folder.mkdir(parents=True, exist_ok=True)

    async def run(self) -> None:
        """Be a node until SIGTERM or SIGINT; then end the pods' processes and leave their objects as they are."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with AsyncExitStack() as stack:
            client = Client(self._options.kubeconfig)
            stack.push_async_callback(client.close)
            if self._options.certs:
                await stack.enter_async_context(log_server(self._sock, self._options.certs, self._find))
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._serve(client, tasks, stop)
            except* Stopped:
                log.info("stopped")

    async def _serve(self, client: Client, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        options = self._options
        host = Host(
            client, options.folder, self._ip, options.backoff, pod_environment(os.environ), options.entrypoints, tasks
        )
        tasks.create_task(self._beat(client), name="heartbeat")
        tasks.create_task(self._watch(host), name="watch")
        await stop.wait()
        pods = list(self._pods.values())
        for pod in pods:
            pod.ending = True
        stops = [tasks.create_task(each.stop(STOP_SECONDS)) for pod in pods for each in pod.containers]
        if stops:
            await asyncio.wait(stops, timeout=STOP_SECONDS + 1)
        raise Stopped

    async def _beat(self, client: Client) -> None:
        name = self._options.name
        lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
        while True:
            try:
                await client.apply(f"/api/v1/nodes/{name}", node_object(name))
                status = {"status": node_status(name, self._ip)}
                await client.call("PATCH", f"/api/v1/nodes/{name}/status", status, content_type=STRATEGIC)
                for _ in range(RENEWALS_A_STATUS):
                    await client.apply(lease, lease_object(name))
                    await asyncio.sleep(RENEW_SECONDS)
            except KitError as error:
                log.warning("heartbeat: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _watch(self, host: Host) -> None:
        path = f"/api/v1/pods?fieldSelector=spec.nodeName={self._options.name}"
        while True:
            try:
                listed = await host.client.call("GET", path)
                for obj in listed["items"]:
                    self._see(host, obj)
                for uid in set(self._pods) - {obj["metadata"]["uid"] for obj in listed["items"]}:
                    self._forget(host, uid)
                async for kind, obj in host.client.watch(path, listed["metadata"]["resourceVersion"]):
                    if kind == "DELETED":
                        self._forget(host, obj["metadata"]["uid"])
                    else:
                        self._see(host, obj)
            except KitError as error:
                log.warning("watch: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)

    def _see(self, host: Host, obj: Json) -> None:
        meta, status = obj["metadata"], obj["status"]
        leaving = "deletionTimestamp" in meta
        pod = self._pods.get(meta["uid"])
        if pod is None:
            if status.get("phase") in OVER and not leaving:
                return
            pod = self._pods[meta["uid"]] = Pod(host, obj, status.get("podIP") or self._new_address())
        elif pod.ending:
            leaving = False  # its end is under way
        pod.obj = obj
        if leaving:
            self._end(host, pod, float(meta.get("deletionGracePeriodSeconds", DEFAULT_GRACE)))

    def _forget(self, host: Host, uid: str) -> None:
        pod = self._pods.pop(uid, None)
        if pod is not None and not pod.ending:  # forced away: there is nobody to report to
            self._end(host, pod, 0.0)

    def _end(self, host: Host, pod: Pod, grace: float) -> None:
        pod.ending = True
        host.tasks.create_task(pod.end(grace), name=f"{pod.namespace}/{pod.name} end")

    def _new_address(self) -> str:
        used = {pod.ip for pod in self._pods.values()} | listening(SOCKETS.read_text())
        while True:
            self._next = (self._next + 1) % ADDRESSES
            if (found := address(self._ip, self._next)) not in used:
                return found

    def _find(self, namespace: str, name: str) -> Pod | None:
        return next((pod for pod in self._pods.values() if (pod.namespace, pod.name) == (namespace, name)), None)


def pod_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that every pod gets: this Python first in PATH, little else of ours."""
    path = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", os.defpath)])
    return {"PATH": path, "PYTHONUNBUFFERED": "1"} | {name: own[name] for name in HANDED_ON if name in own}


def node_object(name: str) -> Json:
    """Return the Node as we apply it."""
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": _architecture()}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def node_status(name: str, ip: str) -> Json:
    """Return a Ready node with room for whatever a test wants."""
    return {
        "capacity": ROOM,
        "allocatable": ROOM,
        "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
        "nodeInfo": {
            "kubeletVersion": "v1.34.4-process",
            "osImage": "processes",
            "operatingSystem": "linux",
            "architecture": _architecture(),
            "containerRuntimeVersion": "process://1",
        },
        "conditions": [{"type": "Ready", "status": "True", "reason": "ProcessNode", "lastHeartbeatTime": now()}],
    }


def lease_object(name: str) -> Json:
    """Return the node's Lease, renewed now."""
    renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": name, "leaseDurationSeconds": 20, "renewTime": renewed}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}


def _architecture() -> str:
    return ARCHITECTURES.get(platform.machine(), platform.machine())
