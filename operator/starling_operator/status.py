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
from starling_operator.plan.values import ConditionWish, EventWish

log = logging.getLogger(__name__)

Json = dict[str, Any]
PLURALS = {
    "AgentPool": "agentpools",
    "AgentSubscription": "agentsubscriptions",
    "AgentScalingTarget": "agentscalingtargets",
}


LONGEST_PLAN = 32_768
ORDINARY = ("ShardsServed", "ShardsWaiting")
"""Reasons of Ready that come and go with every move of a shard."""


class StatusWriter:
    """Writes status and events; remembers what it wrote, so that nothing is written twice."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._written: dict[str, Json] = {}

    def before(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the object's status as we wrote it last, else as it was seen: a watch lags behind our own writes."""
        written = self._written.get(_key(body))
        seen: Mapping[str, Any] = body.get("status") or {}
        return seen if written is None else written

    async def write(self, body: Mapping[str, Any], status: Json) -> None:
        """Write the object's whole status if it changed, and tell people of conditions that did.

        An object that is gone is let be. Raises MeshError.
        """
        before = self.before(body)
        if before == status:
            return
        metadata, kind = body["metadata"], body["kind"]
        name, namespace = metadata["name"], metadata["namespace"]
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURALS[kind]}/{name}"
        whole = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        }
        try:
            await self._kube.apply(path, whole, manager=STATUS_MANAGER, subresource="/status")
        except NotFound:
            return
        self._written[_key(body)] = status
        for event in transitions(before.get("conditions") or (), status.get("conditions") or ()):
            await self.event(body, event)

    async def say(self, body: Mapping[str, Any], *wishes: ConditionWish) -> None:
        """Write these conditions and leave the rest of the status as it is. Raises MeshError."""
        before = self.before(body)
        known = before.get("conditions") or ()
        generation = generation_of(body)
        named = {wish.type for wish in wishes}
        others = [condition for condition in known if condition["type"] not in named]
        made = [*conditions(wishes, known, generation), *others]
        await self.write(body, {**before, "observedGeneration": generation, "conditions": made})

    def forget(self, body: Mapping[str, Any]) -> None:
        """The object is gone."""
        self._written.pop(_key(body), None)

    async def event(self, body: Mapping[str, Any], wish: EventWish) -> None:
        """Post an event about an object; a failure is logged only."""
        now = _stamp(datetime.now(UTC))
        metadata = body["metadata"]
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": body["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": str(metadata.get("uid", "")),
            },
            "reason": wish.reason,
            "message": wish.message[:1024],
            "type": "Warning" if wish.warning else "Normal",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": "starling-operator"},
            "reportingComponent": "starling-operator",
        }
        try:
            await self._kube.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", body=event)
        except MeshError as error:
            log.debug("event not posted", extra={"error": str(error)})


def transitions(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> list[EventWish]:
    """Return the events of conditions that changed: what people should hear of, not every hand-off of a shard."""
    known = {str(condition["type"]): condition for condition in before}
    found: list[EventWish] = []
    for condition in after:
        kind, old = condition["type"], known.get(condition["type"])
        if kind == "Ready":
            told = condition["reason"] not in ORDINARY and (old is None or old["reason"] != condition["reason"])
            bad = condition["status"] != "True"
        elif kind in ("Degraded", "MetricsAvailable"):
            bad = condition["status"] == ("True" if kind == "Degraded" else "False")
            told = old["status"] != condition["status"] if old is not None else kind == "Degraded" and bad
        elif kind in ("AgentsParked", "Undelivered"):
            told = bad = old is None
        else:
            continue
        if told:
            found.append(EventWish(condition["reason"], condition["message"] or f"{kind}: {condition['status']}", bad))
    return found


def generation_of(body: Mapping[str, Any]) -> int:
    """The generation of an object as it was seen."""
    return int(body["metadata"].get("generation", 0))


def _key(body: Mapping[str, Any]) -> str:
    metadata = body["metadata"]
    return f"{body['kind']}/{metadata['namespace']}/{metadata['name']}/{metadata.get('uid', '')}"


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
    if report.load is not None:
        status["load"] = round(report.load, 1)
    if (move := report.last_move) is not None:
        made = {"shard": move.shard, "to": move.target, "time": _stamp(_moment(report.last_move_at))}
        status["lastMove"] = {**made, "from": move.source} if move.source else made
    elif "lastMove" in before:  # of an earlier process
        status["lastMove"] = before["lastMove"]
    if report.plan:
        status["plan"] = report.plan[:LONGEST_PLAN]
    return status


def target_status(report: PoolReport, before: Mapping[str, Any], generation: int) -> Json:
    """Return the status of an AgentScalingTarget."""
    wanted = [condition for condition in report.conditions if condition.type == "MetricsAvailable"]
    ready = ConditionWish("Ready", True, "Following", f"pool {report.pool} follows this target")
    status: Json = {
        "observedGeneration": generation,
        "currentReplicas": report.replicas,
        "desiredReplicas": report.desired,
        "conditions": conditions([ready, *wanted], before.get("conditions") or (), generation),
    }
    if report.lag is not None and report.lag_target:
        status["signals"] = [{"type": "LagPerPod", "value": round(report.lag / max(1, report.replicas), 1)}]
    if report.last_scaled_at is not None:
        status["lastScaleTime"] = _stamp(_moment(report.last_scaled_at))
    elif "lastScaleTime" in before:
        status["lastScaleTime"] = before["lastScaleTime"]
    return status


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
