"""What the control loop makes of the objects that people wrote: streams, pool.json, version, and the rules' input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from starling.core.ids import PoolName
from starling.core.subscriptions import SubscriptionRoute
from starling.provision import PoolStreams

from starling_operator.api import AgentPool, AgentScalingTarget, AgentSubscription, Pause, SignalType
from starling_operator.plan.values import PoolWish, RebalancePolicy, ScalingPolicy


def is_still(pool: AgentPool) -> bool:
    """Whether nothing at all may be changed for the pool. Raises SpecError for a pause that is none."""
    return pool.spec.dry_run or Pause.ALL in pool.metadata.pauses


def streams_of(pool: AgentPool) -> PoolStreams:
    """What the pool's streams should be."""
    spec = pool.spec
    return PoolStreams(
        PoolName(pool.metadata.name),
        shards=spec.shards,
        replicas=spec.streams.replicas,
        mailbox_limit=spec.streams.mailbox_limit,
        mailbox_bytes=spec.streams.mailbox_bytes,
        compression=spec.streams.compression.value,
        storage=spec.streams.storage.value,
    )


def config_of(pool: AgentPool, incarnation: str) -> dict[str, Any]:
    """Return pool.json, but for its version."""
    spec = pool.spec
    return {
        "pool": pool.metadata.name,
        "shards": spec.shards,
        "incarnation": incarnation,
        "agents": [
            agent.model_dump(
                mode="json",
                by_alias=True,
                include={"type", "entrypoint", "durability", "passivation"},
                exclude_none=True,
            )
            for agent in spec.agents
        ],
        "delivery": spec.delivery.model_dump(mode="json", by_alias=True),
        "drainSeconds": spec.drain_seconds,
        "moveWaitSeconds": spec.move_wait_seconds,
    }


def row_of(subscription: AgentSubscription, pool: AgentPool) -> SubscriptionRoute:
    """Return the subscription's row of the route table. Workers read its delivery there, so that no pod restarts."""
    spec = subscription.spec
    retry = spec.delivery.policy_over(pool.spec.delivery) if spec.delivery is not None else None
    return SubscriptionRoute(spec.topic, spec.agent_type, spec.match, spec.key.value, retry)


def version_of(config: Mapping[str, Any], code: Mapping[str, str], pool: AgentPool) -> str:
    """Return a short hash of all that a pod is made of."""
    parts = [config, dict(sorted(code.items())), pool.spec.image, pool.spec.template]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def wish_of(pool: AgentPool, target: AgentScalingTarget | None, version: str) -> PoolWish:
    """Return what the rules need of a pool and its scaling target."""
    scaling = rebalance = None
    if target is not None:
        spec = target.spec
        lag = next((signal.threshold for signal in spec.signals if signal.type is SignalType.LAG_PER_POD), None)
        scaling = ScalingPolicy(
            minimum=spec.min_replicas,
            maximum=spec.max_replicas,
            lag_per_pod=lag,
            stabilization=spec.behavior.stabilization_seconds,
            step_up=spec.behavior.scale_up_limit,
            step_down=spec.behavior.scale_down_limit,
            fallback=spec.fallback_replicas,
        )
        if spec.rebalance.enabled:
            rebalance = RebalancePolicy(
                interval=spec.rebalance.interval_seconds,
                tolerance=spec.rebalance.tolerance,
                max_moves=spec.rebalance.max_moves_per_round,
                settle=spec.rebalance.settle_seconds,
                window=spec.rebalance.window_seconds,
            )
    return PoolWish(
        pool=pool.metadata.name,
        shards=pool.spec.shards,
        replicas=pool.spec.replicas,
        version=version,
        member_grace=pool.spec.member_grace_seconds,
        scaling=scaling,
        rebalance=rebalance,
        paused=pool.metadata.pauses,
    )
