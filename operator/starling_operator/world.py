"""What the operator knows of the cluster between events: the objects as last seen, and a control loop a namespace."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from starling.errors import MeshError, SpecError
from starling.ports.store import Store

from starling_operator.adapters.kube import KubePods
from starling_operator.adapters.kubeclient import KubeClient
from starling_operator.adapters.mesh import MeshState
from starling_operator.api import AgentPool, AgentScalingTarget, parse
from starling_operator.api.names import MESH_LABEL, POOL_LABEL
from starling_operator.control import Control, PoolReport
from starling_operator.metrics import OperatorMetrics
from starling_operator.plan.values import ConditionWish
from starling_operator.ports import LoadSource
from starling_operator.routing import Routing
from starling_operator.settings import OperatorSettings
from starling_operator.status import StatusWriter, generation_of, pool_status, target_status

log = logging.getLogger(__name__)

RESYNC: Final = 10.0
RESYNC_SCALED: Final = 1.0
ERROR_PAUSE: Final = 2.0
FAILURES: Final = 3
"""Looks that must fail in a row before people are told: one alone is a conflict or a blink of the network."""

Json = Mapping[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace, name."""


class Namespace:
    """The mesh of one namespace."""

    def __init__(self, mesh: MeshState, control: Control, routing: Routing) -> None:
        self.mesh = mesh
        self.control = control
        self.routing = routing
        self.tasks: list[asyncio.Task[None]] = []


class World:
    """Everything that handlers share."""

    def __init__(
        self,
        settings: OperatorSettings,
        kube: KubeClient,
        store: Store,
        loads: LoadSource,
        metrics: OperatorMetrics,
        allowed: Any,
    ) -> None:
        self._settings = settings
        self._kube = kube
        self._store = store
        self._loads = loads
        self._allowed = allowed
        self.metrics = metrics
        self.status = StatusWriter(kube)
        self.objects: dict[Key, Json] = {}
        self._wake: dict[tuple[str, str], asyncio.Event] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._counted: dict[tuple[str, str, str], int] = {}
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- objects

    def seen(self, kind: str, namespace: str, name: str, body: Json | None) -> None:
        """Note an object as it is now; None: it is gone. Wakes whoever has to look at it."""
        key = (kind, namespace, name)
        before = self.objects.get(key)
        if body is None:
            self.objects.pop(key, None)
            if before is not None:
                self.status.forget(before)
        else:
            self.objects[key] = body
        if before is not None and body is not None and _asks_the_same(before, body):
            return
        if kind == "AgentScalingTarget":
            for version in (before, body):
                if version is not None:
                    self.wake(namespace, version["spec"]["poolRef"]["name"])
        self.namespace(namespace).routing.wanted.set()
        if kind == "AgentPool":
            self.wake(namespace, name)

    def wake(self, namespace: str, pool: str) -> None:
        """Let the pool's loop look at it soon."""
        self.event(namespace, pool).set()

    def event(self, namespace: str, pool: str) -> asyncio.Event:
        return self._wake.setdefault((namespace, pool), asyncio.Event())

    def _all(self, kind: str, namespace: str) -> list[Json]:
        return [body for (k, ns, _), body in sorted(self.objects.items()) if (k, ns) == (kind, namespace)]

    # -- namespaces

    def namespace(self, name: str) -> Namespace:
        """The mesh of a namespace, its tasks running."""
        found = self._namespaces.get(name)
        if found is None:
            mesh = MeshState(
                self._store,
                name,
                chance=random.Random(),
                on_change=lambda pool: self.wake(name, pool),
            )
            pods = KubePods(
                self._kube,
                name,
                mesh=name,
                nats_url=self._settings.worker_nats_url or self._settings.nats_url,
                image=self._settings.worker_image,
            )
            control = Control(mesh, pods, self._loads, allowed=self._allowed)
            routing = Routing(
                control,
                self.status,
                objects=lambda kind: self._all(kind, name),
                on_taken=lambda pool: self.wake(name, pool),
            )
            found = self._namespaces[name] = Namespace(mesh, control, routing)
        return found

    async def _start(self, namespace: Namespace) -> None:
        """Members can be watched once the buckets are there."""
        if namespace.tasks or not await namespace.mesh.is_made() or namespace.tasks:
            return
        loop = asyncio.get_running_loop()
        for name, job in (
            ("members", namespace.mesh.watch()),
            ("signs of life", namespace.mesh.ask()),
            ("routes", namespace.routing.run()),
        ):
            task = loop.create_task(job, name=f"{name} of mesh {namespace.mesh.mesh}")
            task.add_done_callback(self._ended)
            namespace.tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self.failure.done():
            self.failure.set_exception(error)

    async def close(self) -> None:
        """End all tasks."""
        tasks = [task for namespace in self._namespaces.values() for task in namespace.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- one pool

    async def look(self, namespace: str, name: str) -> float:
        """Look at a pool once and say what was seen; return the seconds until the next look at the latest."""
        body = self.objects.get(("AgentPool", namespace, name))
        if body is None:
            return RESYNC
        started = asyncio.get_running_loop().time()
        result = "error"
        try:
            delay = await self._look(namespace, name, body)
            result = "ok"
            self._failures.pop((namespace, name), None)
            return delay
        except SpecError as error:
            await self._refused(namespace, name, body, error)
            return RESYNC
        except (MeshError, OSError, TimeoutError) as error:
            log.warning("pool not reconciled", extra={"namespace": namespace, "pool": name, "error": str(error)})
            await self._failed(namespace, name, body, error)
            return ERROR_PAUSE
        finally:
            self.metrics.reconcile.labels(result).observe(asyncio.get_running_loop().time() - started)

    async def _look(self, namespace: str, name: str, body: Json) -> float:
        pool = parse(body)
        assert isinstance(pool, AgentPool)
        place = self.namespace(namespace)
        target_body, target = self._target(namespace, name)
        code = await self._code(pool, namespace)
        before = self.status.before(body)
        known = int(before.get("moves") or 0)
        report = await place.control.look(pool, target, code, moves=known)
        await self._start(place)
        for event in report.events:
            await self.status.event(body, event)
        if (taken := place.routing.taken(name)) is not None:
            others = (condition for condition in report.conditions if condition.type != taken.type)
            report = replace(report, conditions=(*others, taken))
        selector = f"{POOL_LABEL}={name},{MESH_LABEL}={namespace}"
        await self.status.write(body, pool_status(report, before, generation_of(body), selector))
        if target_body is not None:
            before = self.status.before(target_body)
            await self.status.write(target_body, target_status(report, before, generation_of(target_body)))
        self._count(namespace, report, known)
        return RESYNC_SCALED if target is not None or report.shards_owned != report.shards else RESYNC

    def _count(self, namespace: str, report: PoolReport, known: int) -> None:
        """known: moves that an earlier process has counted."""
        metrics, labels = self.metrics, (namespace, report.pool)
        if report.imbalance is not None:
            metrics.imbalance.labels(*labels).set(report.imbalance)
        if report.metrics_age is not None:
            metrics.age.labels(*labels).set(report.metrics_age)
        for counter, name, now, before in (
            (metrics.moves, "moves", report.moves, known),
            (metrics.refused, "refused", report.refused, 0),
        ):
            key = (name, *labels)
            counter.labels(*labels).inc(max(0, now - self._counted.setdefault(key, before)))
            self._counted[key] = now

    def _target(self, namespace: str, pool: str) -> tuple[Json | None, AgentScalingTarget | None]:
        for body in self._all("AgentScalingTarget", namespace):
            if body["spec"].get("poolRef", {}).get("name") == pool:
                made = parse(body)
                assert isinstance(made, AgentScalingTarget)
                return body, made
        return None, None

    async def _code(self, pool: AgentPool, namespace: str) -> Mapping[str, str]:
        """The code's text is part of the pods' version. Raises SpecError when the ConfigMap is missing."""
        if pool.spec.code is None:
            return {}
        name = pool.spec.code.config_map
        found = await self._kube.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        if found is None:
            raise SpecError("spec.code.configMap", f"there is no ConfigMap {name!r} in namespace {namespace}")
        return found.get("data") or {}

    async def _failed(self, namespace: str, name: str, body: Json, error: Exception) -> None:
        """Say what keeps a pool from being looked at, once it has failed a few times in a row."""
        failures = self._failures[namespace, name] = self._failures.get((namespace, name), 0) + 1
        if failures >= FAILURES:
            await self._say(body, ConditionWish("Degraded", True, type(error).__name__, str(error)))

    async def _refused(self, namespace: str, name: str, body: Json, error: SpecError) -> None:
        log.warning("pool is wrong", extra={"namespace": namespace, "pool": name, "error": str(error)})
        await self._say(body, ConditionWish("Ready", False, "SpecWrong", str(error)))

    async def _say(self, body: Json, wish: ConditionWish) -> None:
        try:
            await self.status.say(body, wish)
        except (MeshError, OSError, TimeoutError) as problem:
            log.warning("status not written", extra={"object": body["metadata"]["name"], "error": str(problem)})

    async def remove(self, namespace: str, name: str, body: Json) -> None:
        """The pool is being deleted: remove what it has outside Kubernetes. Raises MeshError."""
        pool = parse(body)
        assert isinstance(pool, AgentPool)
        await self.namespace(namespace).control.remove(pool)
        self.namespace(namespace).routing.wanted.set()


def _asks_the_same(before: Json, after: Json) -> bool:
    """Whether only status or bookkeeping changed."""
    old, new = before["metadata"], after["metadata"]
    return all(old.get(part) == new.get(part) for part in ("generation", "annotations", "deletionTimestamp"))
