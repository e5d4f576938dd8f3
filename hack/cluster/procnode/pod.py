"""One pod: its folder, its containers in order, and its status in the API."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.api import Json
from hack.cluster.errors import KitError
from hack.cluster.procnode.client import Client
from hack.cluster.procnode.container import Container, Launch, now
from hack.cluster.procnode.environment import Environment
from hack.cluster.procnode.texts import entrypoint_of, expand, rewrite
from hack.cluster.procnode.volumes import data_of, files_of, fill, folders_of, nest, sources_of

log = logging.getLogger(__name__)

REFRESH_SECONDS = 2.0
SHARED_SECONDS = 1.0  # pods of a node that look at the same ConfigMap in this time share one look
REPORT_AGAIN_SECONDS = 0.5
LAST_WORDS_SECONDS = 0.5
DEFAULT_GRACE = 30.0


@dataclass(frozen=True, slots=True)
class Host:
    """What all pods of a node share. entrypoints: images to commands, for containers that name none."""

    client: Client
    folder: Path
    ip: str
    backoff: float
    env: Mapping[str, str]
    entrypoints: Mapping[str, str]
    tasks: asyncio.TaskGroup


class Pod:
    """Runs the pod that `obj` describes, from its making on; `obj` follows the API."""

    def __init__(self, host: Host, obj: Json, ip: str) -> None:
        self.obj, self.ip, self.ending = obj, ip, "deletionTimestamp" in obj["metadata"]
        self._host = host
        meta, spec = obj["metadata"], obj["spec"]
        self.namespace, self.name, self.uid = meta["namespace"], meta["name"], meta["uid"]
        self._path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.folder = host.folder / f"{self.namespace}_{self.name}_{self.uid}"
        self.folder.mkdir(parents=True, exist_ok=True)
        before = {each["name"]: each["restartCount"] + 1 for each in obj["status"].get("containerStatuses", [])}
        self._inits = [Container(self, each, init=True) for each in spec.get("initContainers", [])]
        self._main = [Container(self, each, restarts=before.get(each["name"], 0)) for each in spec["containers"]]
        self._environment = Environment(host.client, obj, pod_ip=ip, host_ip=host.ip)
        self._volumes: dict[str, Json] = {each["name"]: each for each in spec.get("volumes", [])}
        self._files: dict[str, dict[str, bytes]] = {}
        self._phase, self._conditions, self._begun = "Pending", dict[str, Json](), now()
        self._dirty = asyncio.Event()
        self._running = self._own("run", self._run())
        self._tasks = [self._own("report", self._report()), self._own("refresh", self._refresh())]

    @property
    def policy(self) -> str:
        """Always, OnFailure or Never."""
        return str(self.obj["spec"].get("restartPolicy", "Always"))

    @property
    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return float(self.obj["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE))

    @property
    def backoff(self) -> float:
        """Seconds before the second restart in a row."""
        return self._host.backoff

    @property
    def containers(self) -> list[Container]:
        """All of them, init containers first."""
        return self._inits + self._main

    @property
    def is_over(self) -> bool:
        """Whether no container of it will ever run again."""
        return self._running.done()

    def changed(self) -> None:
        """Have the status sent again."""
        self._dirty.set()

    async def launch(self, container: Json) -> Launch:
        """Fill the volumes and return what to run. Raises BadPod, ApiError, Unreachable when that cannot be said."""
        mounts = await self._mount(container)
        raw = await self._environment.of(container, {})
        account = {} if self.obj["spec"].get("automountServiceAccountToken") is False else await self._account()
        env = {**self._host.env, **account, **{name: rewrite(value, mounts) for name, value in raw.items()}}
        command = container.get("command") or entrypoint_of(container["image"], self._host.entrypoints)
        argv = [rewrite(expand(text, raw), mounts) for text in [*command, *container.get("args", [])]]
        cwd = container.get("workingDir")
        return Launch(argv, env, Path(rewrite(cwd, mounts)) if cwd else self.folder)

    async def end(self, grace: float) -> None:
        """Stop the containers, send the last status, and remove the object from the API."""
        self.ending = True
        async with asyncio.TaskGroup() as stops:
            for container in self.containers:
                stops.create_task(container.stop(grace))
        await asyncio.wait([self._running], timeout=LAST_WORDS_SECONDS)
        for task in (self._running, *self._tasks):
            task.cancel()
        client = self._host.client
        await client.settle("PATCH", f"{self._path}/status", {"metadata": {"uid": self.uid}, "status": self._status()})
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        while True:
            if await client.settle("DELETE", self._path, {**options, "preconditions": {"uid": self.uid}}):
                return
            await asyncio.sleep(REPORT_AGAIN_SECONDS)

    def _own(self, what: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        name = f"{self.namespace}/{self.name} {what}"
        return self._host.tasks.create_task(_logged(work, name), name=name)

    async def _run(self) -> None:
        try:
            for container in self._inits:
                if await container.run():
                    self._phase = "Failed"
                    return
            self._phase = "Running"
            codes = await asyncio.gather(*(container.run() for container in self._main))
            self._phase = "Failed" if any(codes) else "Succeeded"
        finally:
            self.changed()

    async def _report(self) -> None:
        sent: Json | None = None
        self.changed()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            status = self._status()
            if status == sent:
                continue
            body = {"metadata": {"uid": self.uid}, "status": status}
            if await self._host.client.settle("PATCH", f"{self._path}/status", body):
                sent = status
            else:
                await asyncio.sleep(REPORT_AGAIN_SECONDS)
                self.changed()

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            for name in list(self._files):
                with suppress(KitError):  # not to be read now: the files stay as they are
                    await self._fill(name, max_age=SHARED_SECONDS)

    async def _mount(self, container: Json) -> dict[str, str]:
        mounts = {}
        for volume, path, folder in folders_of(container, self.folder / "volumes"):
            await self._fill(volume, max_age=0.0)
            mounts[path] = str(folder)
        nest(mounts)
        return mounts

    async def _fill(self, volume: str, *, max_age: float) -> None:
        files: dict[str, bytes] = {}
        for source in sources_of(self._volumes[volume]):
            obj = await self._host.client.read(
                self.namespace, source.kind, source.name, optional=source.optional, max_age=max_age
            )
            files |= files_of(source, data_of(obj, source.kind))
        fill(self.folder / "volumes" / volume, files, self._files.get(volume))
        self._files[volume] = files

    async def _account(self) -> dict[str, str]:
        """Return KUBECONFIG: in place of a mounted token, a kubeconfig with one of the pod's service account."""
        path = self.folder / "kubeconfig"
        if not path.exists():
            account = self.obj["spec"].get("serviceAccountName", "default")
            bound = {"kind": "Pod", "apiVersion": "v1", "name": self.name, "uid": self.uid}
            request = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 86400, "boundObjectRef": bound},
            }
            token = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
            granted = await self._host.client.call("POST", token, request)
            config = json.loads(self._host.client.kubeconfig.read_text())
            config["users"] = [{"name": "account", "user": {"token": granted["status"]["token"]}}]
            config["contexts"][0]["context"] |= {"user": "account", "namespace": self.namespace}
            path.touch(mode=0o600)
            path.write_text(json.dumps(config))
        return {"KUBECONFIG": str(path)}

    def _status(self) -> Json:
        ready = self._phase == "Running" and all(container.ready for container in self._main)
        self._condition("PodReadyToStartContainers", True)
        self._condition("Initialized", self._phase != "Pending")
        self._condition("ContainersReady", ready)
        self._condition("Ready", ready)
        status = {
            "phase": self._phase,
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "hostIP": self._host.ip,
            "startTime": self._begun,
            "conditions": list(self._conditions.values()),
            "containerStatuses": [container.status() for container in self._main],
        }
        return status | ({"initContainerStatuses": [each.status() for each in self._inits]} if self._inits else {})

    def _condition(self, kind: str, holds: bool) -> None:
        if self._conditions.get(kind, {}).get("status") != str(holds):
            reason = None if holds else "ContainersNotReady"
            self._conditions[kind] = {"type": kind, "status": str(holds), "lastTransitionTime": now(), "reason": reason}


async def _logged(work: Coroutine[object, object, None], name: str) -> None:
    """Keep one pod's failure from ending the node and all its other pods."""
    try:
        await work
    except Exception:
        log.exception("%s failed", name)
