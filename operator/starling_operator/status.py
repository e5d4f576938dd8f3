"""What is written into the status of our objects: only what changed, by a field manager of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from starling.errors import MeshError

from starling_operator.adapters.kubeclient import KubeClient, NotFound
from starling_operator.api import API_VERSION, GROUP, VERSION
from starling_operator.api.names import STATUS_MANAGER
from starling_operator.control import PoolReport
from starling_operator.plan.values import ConditionWish

log = logging.getLogger(__name__)

Json = dict[str, Any]
PLURALS = {
    "AgentPool": "agentpools",
    "AgentSubscription": "agentsubscriptions",
    "AgentScalingTarget": "agentscalingtargets",
}


class StatusWriter:
    """Writes status and events; remembers what it wrote, so that nothing is written twice."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._written: dict[str, Json] = {}

    async def write(self, kind: str, namespace: str, name: str, status: Json) -> None:
        """Write the status if it differs from the last one; an object that is gone is let be. Raises MeshError."""
        key = f"{kind}/{namespace}/{name}"
        if self._written.get(key) == status:
            return
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURALS[kind]}/{name}"
        body = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        }
        try:
            await self._kube.apply(path, body, manager=STATUS_MANAGER, subresource="/status")
        except NotFound:
            return
        self._written[key] = status

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """The object is gone."""
        self._written.pop(f"{kind}/{namespace}/{name}", None)

    async def event(self, kind: str, namespace: str, name: str, uid: str, reason: str, message: str) -> None:
        """Post an event about an object; a failure is logged only."""
        now = datetime.now(UTC)
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": kind,
                "name": name,
                "namespace": namespace,
                "uid": uid,
            },
            "reason": reason,
            "message": message[:1024],
            "type": "Normal",
            "firstTimestamp": _stamp(now),
            "lastTimestamp": _stamp(now),
            "count": 1,
            "source": {"component": "starling-operator"},
            "reportingComponent": "starling-operator",
        }
        try:
            await self._kube.request("POST", f"/api/v1/namespaces/{namespace}/events", body=body)
        except MeshError as error:
            log.debug("event not posted", extra={"error": str(error)})


def conditions(wishes: Iterable[ConditionWish], before: Iterable[Mapping[str, Any]], generation: int) -> list[Json]:
    """Return conditions with the times at which their status last changed."""
    known = {str(condition["type"]): condition for condition in before}
    made: list[Json] = []
    for wish in wishes:
        status = "True" if wish.status else "False"
        old = known.get(wish.type)
        same = old is not None and old["status"] == status
        made.append(
            {
                "type": wish.type,
                "status": status,
                "reason": wish.reason,
                "message": wish.message,
                "lastTransitionTime": old["lastTransitionTime"]
                if old is not None and same
                else _stamp(datetime.now(UTC)),
                "observedGeneration": generation,
            }
        )
    return made


def pool_status(report: PoolReport, before: Mapping[str, Any], generation: int, selector: str) -> Json:
    """Return the status of an AgentPool."""
    status: Json = {
        "observedGeneration": generation,
        "replicas": report.replicas,
        "readyReplicas": report.ready,
        "selector": selector,
        "shardsOwned": report.shards_owned,
        "shardsTotal": report.shards,
        "moves": report.moves,
        "mapRevision": report.map_rev,
        "conditions": conditions(report.conditions, before.get("conditions") or (), generation),
    }
    if report.imbalance is not None:
        status["imbalance"] = round(report.imbalance, 1)
    if report.plan:
        status["plan"] = report.plan
    return status


def target_status(report: PoolReport, before: Mapping[str, Any], generation: int) -> Json:
    """Return the status of an AgentScalingTarget."""
    wanted = [condition for condition in report.conditions if condition.type == "MetricsAvailable"]
    ready = ConditionWish("Ready", True, "Following", f"pool {report.pool} follows this target")
    return {
        "observedGeneration": generation,
        "currentReplicas": report.replicas,
        "desiredReplicas": report.desired,
        "conditions": conditions([ready, *wanted], before.get("conditions") or (), generation),
    }


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
