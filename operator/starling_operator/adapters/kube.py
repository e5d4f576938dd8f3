"""Pods as a StatefulSet, with what belongs to it; all of it owned by the AgentPool and applied by one manager."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

from starling.core.ids import PodName

from starling_operator.adapters.kubeclient import KubeClient
from starling_operator.api import API_VERSION, GROUP
from starling_operator.api.names import FIELD_MANAGER, MESH_LABEL, POOL_LABEL
from starling_operator.ports import PodSeen, PoolPods, PoolPodsSpec

log = logging.getLogger(__name__)

VERSION_ANNOTATION: Final = f"{GROUP}/version"
HTTP_PORT: Final = 8080
GRACE_BESIDE_DRAIN: Final = 15

Json = dict[str, Any]


class KubePods:
    """The pods of the pools of one namespace. image: of workers whose code comes from a ConfigMap."""

    def __init__(self, kube: KubeClient, namespace: str, *, mesh: str, nats_url: str, image: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._mesh = mesh
        self._nats_url = nats_url
        self._image = image
        self._applied: dict[str, str] = {}
        self._partition: dict[str, int] = {}

    async def observe(self, pool: str) -> PoolPods | None:
        """Return the StatefulSet's pods as they are; None before the first apply."""
        stateful_set = await self._kube.get(self._sets(pool))
        if stateful_set is None:
            self._applied.pop(pool, None)
            return None
        pods = await self._kube.list(
            f"/api/v1/namespaces/{self._namespace}/pods", labels=f"{POOL_LABEL}={pool},{MESH_LABEL}={self._mesh}"
        )
        spec = stateful_set["spec"]
        version = _version(spec["template"])
        if pool not in self._partition:
            rolling = (spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
            self._partition[pool] = int(rolling.get("partition") or 0)
        seen = sorted((_pod_seen(pod) for pod in pods), key=lambda pod: pod.ordinal)
        return PoolPods(tuple(seen), int(spec.get("replicas", 1)), version, stateful_set["metadata"]["resourceVersion"])

    async def apply(self, spec: PoolPodsSpec) -> None:
        """Apply everything that changed since it was last applied. Raises Conflict when the snapshot is old."""
        before = self._applied.get(spec.pool)
        if before is None or _part(before, "version") != spec.version:
            await self._remember_partition(spec)
        parts = self.objects(spec)
        digest = json.dumps({"version": spec.version, "hash": _digest(parts)})
        if before == digest:
            return
        for path, body in parts:
            if body["kind"] == "StatefulSet" and spec.resource_version:
                body = {**body, "metadata": {**body["metadata"], "resourceVersion": spec.resource_version}}
            await self._kube.apply(path, body, manager=FIELD_MANAGER)
        self._applied[spec.pool] = digest

    async def _remember_partition(self, spec: PoolPodsSpec) -> None:
        """A new version reaches no pod by itself: the partition starts above the highest ordinal."""
        current = await self._kube.get(self._sets(spec.pool))
        if current is None:
            self._partition[spec.pool] = 0
        elif _version(current["spec"]["template"]) != spec.version:
            self._partition[spec.pool] = max(spec.replicas, int(current["spec"].get("replicas", 1)))

    async def replace(self, pool: str, ordinal: int) -> None:
        """Lower the partition to this ordinal: the StatefulSet makes that pod anew."""
        self._partition[pool] = ordinal
        body = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": ordinal}}},
        }
        await self._kube.request(
            "PATCH",
            self._sets(pool),
            body=body,
            content_type="application/merge-patch+json",
            query=[("fieldManager", FIELD_MANAGER)],
        )
        self._applied.pop(pool, None)

    async def remove(self, pool: str) -> None:
        """Forget the pool; its objects go with the AgentPool that owns them."""
        self._applied.pop(pool, None)
        self._partition.pop(pool, None)

    async def force_delete(self, pod: PodName) -> None:
        """Remove a pod of a node that is gone; fenced shards make that safe."""
        await self._kube.delete(f"/api/v1/namespaces/{self._namespace}/pods/{pod}", grace=0)

    # -- objects

    def _sets(self, pool: str) -> str:
        return f"/apis/apps/v1/namespaces/{self._namespace}/statefulsets/{pool}"

    def objects(self, spec: PoolPodsSpec) -> list[tuple[str, Json]]:
        """Return path and full intent of everything that the pool owns, in the order of application."""
        core = f"/api/v1/namespaces/{self._namespace}"
        name = spec.pool
        labels = {POOL_LABEL: name, MESH_LABEL: self._mesh}

        def made(api: str, kind: str, named: str, **rest: Any) -> Json:
            metadata: Json = {"name": named, "namespace": self._namespace, "labels": labels}
            if spec.uid:
                metadata["ownerReferences"] = [
                    {
                        "apiVersion": API_VERSION,
                        "kind": "AgentPool",
                        "name": name,
                        "uid": spec.uid,
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ]
            return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}

        config = {"pool.json": json.dumps(spec.config, indent=1, sort_keys=True)}
        ports = [{"name": "http", "port": HTTP_PORT, "targetPort": "http"}]
        return [
            (f"{core}/serviceaccounts/{name}", made("v1", "ServiceAccount", name)),
            (f"{core}/configmaps/{name}-pool", made("v1", "ConfigMap", f"{name}-pool", data=config)),
            (
                f"{core}/services/{name}",
                made("v1", "Service", name, spec={"clusterIP": "None", "selector": labels, "ports": ports}),
            ),
            (
                f"/apis/policy/v1/namespaces/{self._namespace}/poddisruptionbudgets/{name}",
                made(
                    "policy/v1",
                    "PodDisruptionBudget",
                    name,
                    spec={"maxUnavailable": 1, "selector": {"matchLabels": labels}},
                ),
            ),
            (self._sets(name), made("apps/v1", "StatefulSet", name, spec=self._stateful_set(spec, labels))),
        ]

    def _stateful_set(self, spec: PoolPodsSpec, labels: Mapping[str, str]) -> Json:
        annotations = {
            VERSION_ANNOTATION: spec.version,
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(HTTP_PORT),
        }
        template = {
            "metadata": {"labels": dict(labels), "annotations": annotations},
            "spec": {
                "serviceAccountName": spec.pool,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": math.ceil(spec.drain_seconds) + GRACE_BESIDE_DRAIN,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [self._container(spec)],
                "volumes": self._volumes(spec),
            },
        }
        return {
            "replicas": spec.replicas,
            "serviceName": spec.pool,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": dict(labels)},
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"partition": self._partition.get(spec.pool, 0)},
            },
            "template": merged(template, spec.template),
        }

    def _container(self, spec: PoolPodsSpec) -> Json:
        def field(path: str) -> Json:
            return {"fieldRef": {"fieldPath": path}}

        mounts = [{"name": "pool", "mountPath": "/etc/starling"}]
        if spec.code_config_map:
            mounts.append({"name": "code", "mountPath": "/etc/starling-code"})
        probe = {"periodSeconds": 2, "timeoutSeconds": 2}
        return {
            "name": "worker",
            "image": spec.image or self._image,
            "command": ["python", "-m", "starling.node"],
            "env": [
                {"name": "STARLING_MESH", "value": self._mesh},
                {"name": "STARLING_NATS_URL", "value": self._nats_url},
                {"name": "STARLING_POOL", "value": spec.pool},
                {"name": "STARLING_POD", "valueFrom": field("metadata.name")},
                {"name": "STARLING_POD_IP", "valueFrom": field("status.podIP")},
                {"name": "STARLING_HTTP_PORT", "value": str(HTTP_PORT)},
                {"name": "STARLING_CONFIG", "value": "/etc/starling/pool.json"},
                {"name": "STARLING_CODE", "value": "/etc/starling-code"},
            ],
            "ports": [{"name": "http", "containerPort": HTTP_PORT}],
            "volumeMounts": mounts,
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, **probe},
            "livenessProbe": {
                "httpGet": {"path": "/livez", "port": "http"},
                "initialDelaySeconds": 10,
                "periodSeconds": 5,
                "timeoutSeconds": 5,
                "failureThreshold": 6,
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }

    def _volumes(self, spec: PoolPodsSpec) -> list[Json]:
        volumes: list[Json] = [{"name": "pool", "configMap": {"name": f"{spec.pool}-pool"}}]
        if spec.code_config_map:
            volumes.append({"name": "code", "configMap": {"name": spec.code_config_map}})
        return volumes


def merged(ours: Any, theirs: Any) -> Any:
    """Merge overrides into a template: objects by key, lists of named things by name, the rest is replaced."""
    if isinstance(ours, dict) and isinstance(theirs, Mapping):
        result = dict(ours)
        for key, value in theirs.items():
            result[key] = merged(ours[key], value) if key in ours else value
        return result
    if isinstance(ours, list) and isinstance(theirs, list) and _named(ours) and _named(theirs):
        by_name = {item["name"]: item for item in ours}
        for item in theirs:
            by_name[item["name"]] = merged(by_name[item["name"]], item) if item["name"] in by_name else item
        return list(by_name.values())
    return theirs


def _named(items: list[Any]) -> bool:
    return all(isinstance(item, Mapping) and "name" in item for item in items)


def _digest(parts: list[tuple[str, Json]]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _part(digest: str, name: str) -> str:
    return str(json.loads(digest)[name])


def _version(template: Mapping[str, Any]) -> str:
    return str((template["metadata"].get("annotations") or {}).get(VERSION_ANNOTATION, ""))


def _pod_seen(pod: Mapping[str, Any]) -> PodSeen:
    metadata, status = pod["metadata"], pod.get("status") or {}
    name = str(metadata["name"])
    containers = status.get("containerStatuses") or []
    running = status.get("phase") == "Running" and all((c.get("state") or {}).get("running") for c in containers)
    phase = "running" if running and containers else "failed" if status.get("phase") == "Failed" else "starting"
    return PodSeen(
        name=name,
        ordinal=int(name.rpartition("-")[2]),
        phase="terminating" if metadata.get("deletionTimestamp") else phase,
        version=str((metadata.get("annotations") or {}).get(VERSION_ANNOTATION, "")),
        restarts=sum(int(c.get("restartCount", 0)) for c in containers),
    )
