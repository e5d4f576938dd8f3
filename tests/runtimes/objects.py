"""The objects that run the suite's agents: for `starling dev` and for a cluster."""

from __future__ import annotations

import inspect
from typing import Any

from starling.core.subscriptions import SubscriptionRoute

from tests.runtimes import members
from tests.runtimes.suite import AGENTS, SUBSCRIPTIONS

API = "starlingmesh.dev/v1alpha1"
POOL = "members"
PODS, SHARDS = 2, 4

Json = dict[str, Any]


def objects() -> list[Json]:
    """Code, pool and subscriptions."""
    code = {"members.py": inspect.getsource(members)}
    agents = [{"type": cls.type, "entrypoint": f"members:{cls.__name__}"} for cls in AGENTS]
    pool = {
        "replicas": PODS,
        "shards": SHARDS,
        "drainSeconds": 1,
        "deletionPolicy": "Delete",
        "streams": {"maxBytes": "16Mi"},
        "code": {"configMap": "members-code"},
        "agents": agents,
    }
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "members-code"}, "data": code},
        {"apiVersion": API, "kind": "AgentPool", "metadata": {"name": POOL}, "spec": pool},
        *(_subscription(name, row) for name, row in SUBSCRIPTIONS.items()),
    ]


def _subscription(name: str, row: SubscriptionRoute) -> Json:
    spec: Json = {"topic": row.topic, "match": str(row.match), "poolRef": {"name": POOL}, "agentType": row.agent_type}
    if row.key is not None:
        spec["key"] = {"from": "fixed", "value": row.key}
    return {"apiVersion": API, "kind": "AgentSubscription", "metadata": {"name": name}, "spec": spec}
