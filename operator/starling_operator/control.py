"""The control loop: gathers one frozen value a pool, asks the pure rules for a plan, and carries it out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starling.core.ids import PodName, PoolName, ShardId
from starling.core.routes import PoolRoute, Routes, SubscriptionRoute
from starling.errors import Fenced, JournalLost, MeshError, SpecError
from starling.provision import PoolStreams

from starling_operator.adapters.mesh import MeshState
from starling_operator.api import (
    AgentPool,
    AgentScalingTarget,
    AgentSubscription,
    DeletionPolicy,
    Pause,
    SignalType,
)
from starling_operator.plan import decide
from starling_operator.plan.values import (
    ConditionWish,
    EventWish,
    Memory,
    Move,
    Plan,
    PodView,
    PoolSeen,
    PoolWish,
    RebalancePolicy,
    ScalingPolicy,
)
from starling_operator.ports import LoadSource, Pods, PoolPods, PoolPodsSpec

log = logging.getLogger(__name__)

DEFAULT_WINDOW: Final = 60.0


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What is to be said of a pool after a look at it."""

    pool: str
    replicas: int
    ready: int
    shards_owned: int
    shards: int
    moves: int
    last_move: str
    map_rev: int
    incarnation: str
    imbalance: float | None
    plan: str
    desired: int
    lag: float | None
    conditions: tuple[ConditionWish, ...]
    metrics_age: float | None = None
    """Seconds since load was measured; None without measurements."""
    refused: int = 0
    """Map writes that somebody else had overtaken, since this process started."""
    events: tuple[EventWish, ...] = ()
    owners: Mapping[ShardId, PodName] = field(default_factory=dict)
    busy: Mapping[ShardId, float] = field(default_factory=dict)


@dataclass(slots=True)
class _PoolState:
    memory: Memory = field(default_factory=Memory)
    last_move: str = ""
    refused: int = 0


class Control:
    """Looks at pools one at a time. allowed: asked right before each write that moves, shrinks or deletes; the
    single writer's lease is behind it."""

    def __init__(
        self, mesh: MeshState, pods: Pods, loads: LoadSource, *, allowed: Callable[[], bool] = lambda: True
    ) -> None:
        self._mesh = mesh
        self._pods = pods
        self._loads = loads
        self._allowed = allowed
        self._pools: dict[str, _PoolState] = {}
        self.moves: list[tuple[float, str, Move]] = []
        """Moves by load: when (the loop's time), pool, move; the newest 1,000."""
        self.scale_ups: list[tuple[float, str, int]] = []

    async def look(
        self, pool: AgentPool, target: AgentScalingTarget | None, code: Mapping[str, str] | None, *, moves: int = 0
    ) -> PoolReport:
        """Bring a pool one step nearer to what it should be.

        code: file name to text, where pods do not read the ConfigMap themselves. moves: by load so far, as an
        earlier process of ours counted them; read at the first look. Raises MeshError.
        """
        name = pool.metadata.name
        state = self._pools.setdefault(name, _PoolState(Memory(moves=moves)))
        now = asyncio.get_running_loop().time()
        try:
            incarnation = await self._mesh.provision(streams_of(pool))
        except JournalLost as error:
            return self._lost(pool, str(error))
        config = config_of(pool, incarnation)
        version = version_of(config, code or {}, pool)
        config["version"] = version
        wish = wish_of(pool, target, version)
        seen, revision, pods = await self._gather(pool, wish, now)
        plan = decide(wish, seen, state.memory, now)
        if pool.spec.dry_run:
            return self._report(pool, wish, seen, plan, state, incarnation, text=plan.text or "nothing to do")
        state.memory = plan.memory
        events = await self._carry_out(pool, wish, seen, plan, pods, state, revision, config, code or {}, now)
        seen = replace(seen, map=plan.map or seen.map)
        return self._report(pool, wish, seen, plan, state, incarnation, events=events)

    # -- gather

    async def _gather(self, pool: AgentPool, wish: PoolWish, now: float) -> tuple[PoolSeen, int, PoolPods | None]:
        name = pool.metadata.name
        revision, current = await self._mesh.map(name)
        pods = await self._pods.observe(name)
        window = wish.rebalance.window if wish.rebalance else DEFAULT_WINDOW
        loads = await self._loads.loads(pool.metadata.namespace or "default", name, window)
        views = []
        for pod in pods.pods if pods else ():
            pod_name = PodName(pod.name)
            if pod.phase == "starting":
                self._mesh.ended(name, pod_name, now)
            gone = self._mesh.gone_for(name, pod_name, now)
            member = self._mesh.member(name, pod_name)
            views.append(
                PodView(
                    name=pod_name,
                    ordinal=pod.ordinal,
                    version=member.version if member else pod.version,
                    phase=pod.phase,
                    member=None if gone is not None else member,
                    gone_for=gone,
                )
            )
        return PoolSeen(tuple(views), pods.replicas if pods else None, current, loads), revision, pods

    # -- carry out

    async def _carry_out(
        self,
        pool: AgentPool,
        wish: PoolWish,
        seen: PoolSeen,
        plan: Plan,
        pods: PoolPods | None,
        state: _PoolState,
        revision: int,
        config: dict[str, Any],
        code: Mapping[str, str],
        now: float,
    ) -> tuple[EventWish, ...]:
        """Map first, pods after it; every write is conditional on what the plan was made of."""
        events: list[EventWish] = []
        if plan.map is not None and plan.map.shards:
            self._check_allowed()
            if not await self._mesh.write_map(wish.pool, plan.map, over=revision):
                state.refused += 1
                log.info("the map changed meanwhile; planned anew", extra={"pool": wish.pool})
                return ()
            events += self._note_moves(wish.pool, plan.moves, state, now)
        replicas = plan.replicas if plan.replicas is not None else seen.replicas
        assert replicas is not None
        if seen.replicas is not None and replicas != seen.replicas:
            self._check_allowed()
            word = "Up" if replicas > seen.replicas else "Down"
            events.append(EventWish(f"Scaled{word}", f"from {seen.replicas} to {replicas} pods"))
            if replicas > seen.replicas:
                self.scale_ups.append((now, wish.pool, replicas))
        await self._pods.apply(
            PoolPodsSpec(
                pool=wish.pool,
                namespace=pool.metadata.namespace or "default",
                replicas=replicas,
                version=wish.version,
                config=config,
                code=code,
                code_config_map=pool.spec.code.config_map if pool.spec.code else None,
                image=pool.spec.image or (pool.spec.code.image if pool.spec.code else None),
                drain_seconds=pool.spec.drain_seconds,
                template=pool.spec.template or {},
                uid=pool.metadata.uid or "",
                resource_version=pods.resource_version if pods else "",
            )
        )
        if plan.replace is not None:
            self._check_allowed()
            events.append(EventWish("PodReplaced", f"pod {plan.replace} comes back with version {wish.version}"))
            await self._pods.replace(wish.pool, plan.replace)
        return tuple(events)

    def _check_allowed(self) -> None:
        if not self._allowed():
            raise Fenced("this control plane is not the leader any more")

    def _note_moves(self, pool: str, moves: Sequence[Move], state: _PoolState, now: float) -> list[EventWish]:
        for move in moves:
            log.info("move", extra={"pool": pool, "move": str(move)})
            if move.reason == "load":
                state.last_move = str(move)
                self.moves = [*self.moves[-999:], (now, pool, move)]
        return [EventWish("ShardMoved", str(move)) for move in moves if move.reason != "first"]

    # -- report

    def _report(
        self,
        pool: AgentPool,
        wish: PoolWish,
        seen: PoolSeen,
        plan: Plan,
        state: _PoolState,
        incarnation: str,
        *,
        text: str = "",
        events: tuple[EventWish, ...] = (),
    ) -> PoolReport:
        owners = {shard: pod.name for pod in seen.pods if pod.member is not None for shard in sorted(pod.member.shards)}
        return PoolReport(
            pool=wish.pool,
            replicas=len(seen.pods),
            ready=sum(pod.is_ready for pod in seen.pods),
            shards_owned=len(owners),
            shards=wish.shards,
            moves=state.memory.moves,
            last_move=state.last_move,
            map_rev=seen.map.rev if seen.map else 0,
            incarnation=incarnation,
            imbalance=plan.imbalance,
            plan=text,
            desired=plan.desired,
            lag=sum(seen.loads.lag.values()) if seen.loads else None,
            conditions=plan.conditions,
            metrics_age=seen.loads.age if seen.loads else None,
            refused=state.refused,
            events=events,
            owners=owners,
            busy=seen.loads.busy if seen.loads else {},
        )

    def _lost(self, pool: AgentPool, message: str) -> PoolReport:
        conditions = (
            ConditionWish("Ready", False, "JournalLost", message),
            ConditionWish("Degraded", True, "JournalLost", message),
        )
        return PoolReport(pool.metadata.name, 0, 0, 0, pool.spec.shards, 0, "", 0, "", None, "", 0, None, conditions)

    async def remove(self, pool: AgentPool) -> None:
        """Remove a pool: its pods, and by its policy its streams."""
        name = pool.metadata.name
        self._pools.pop(name, None)
        await self._pods.remove(name)
        await self._mesh.remove(name, pool.spec.shards, data=pool.spec.deletion_policy is DeletionPolicy.DELETE)

    # -- routes

    async def route(
        self, pools: Sequence[AgentPool], subscriptions: Sequence[AgentSubscription]
    ) -> dict[tuple[str, str], ConditionWish]:
        """Compile pools and subscriptions into the route table; return (kind, name) to condition. Raises MeshError."""
        over, current = await self._mesh.routes()
        said: dict[tuple[str, str], ConditionWish] = {}
        table: dict[PoolName, PoolRoute] = {}
        types: dict[str, PoolName] = {}
        for pool in sorted(pools, key=lambda p: (p.metadata.name not in current.pools, p.metadata.name)):
            name = PoolName(pool.metadata.name)
            table[name] = PoolRoute(name, pool.spec.shards, await self._mesh.provision(streams_of(pool)))
            for agent in pool.spec.agents:
                taken = types.setdefault(agent.type, name)
                if taken != name:
                    said["AgentPool", name] = ConditionWish(
                        "Degraded", True, "TypeTaken", f"agent type {agent.type!r} belongs to pool {taken}"
                    )
        rows = []
        for subscription in sorted(subscriptions, key=lambda s: s.metadata.name):
            condition = _routed(subscription, types)
            said["AgentSubscription", subscription.metadata.name] = condition
            if condition.status:
                rows.append(SubscriptionRoute(subscription.spec.topic, subscription.spec.agent_type))
        new = Routes(table, types, tuple(rows))
        if (new.encode() != current.encode() or not over) and not await self._mesh.write_routes(new, over=over):
            raise MeshError("the route table changed meanwhile; it is compiled again")
        return said


def _routed(subscription: AgentSubscription, types: Mapping[str, PoolName]) -> ConditionWish:
    spec = subscription.spec
    pool = types.get(spec.agent_type)
    if pool is None:
        return ConditionWish("Ready", False, "NoSuchAgentType", f"no pool runs agent type {spec.agent_type!r}")
    if pool != spec.pool_ref.name:
        return ConditionWish("Ready", False, "WrongPool", f"agent type {spec.agent_type!r} belongs to pool {pool}")
    return ConditionWish("Ready", True, "Routed", f"{spec.topic} goes to {spec.agent_type} of pool {pool}")


def streams_of(pool: AgentPool) -> PoolStreams:
    """What the pool's streams should be."""
    spec = pool.spec
    return PoolStreams(
        PoolName(pool.metadata.name),
        shards=spec.shards,
        replicas=spec.streams.replicas,
        mailbox_limit=spec.streams.mailbox_limit,
        mailbox_bytes=spec.streams.mailbox_bytes,
    )


def config_of(pool: AgentPool, incarnation: str) -> dict[str, Any]:
    """Return pool.json, but for its version."""
    spec = pool.spec
    return {
        "pool": pool.metadata.name,
        "shards": spec.shards,
        "incarnation": incarnation,
        "agents": [
            {"type": agent.type, "entrypoint": agent.entrypoint, "durability": agent.durability.value}
            for agent in spec.agents
        ],
        "delivery": spec.delivery.model_dump(mode="json", by_alias=True),
        "drainSeconds": spec.drain_seconds,
        "moveWaitSeconds": spec.move_wait_seconds,
    }


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
        paused=paused(pool),
    )


def paused(pool: AgentPool) -> frozenset[Pause]:
    """Return the parts that people have stopped; an annotation that cannot be read stops everything, to be safe."""
    try:
        return pool.metadata.pauses
    except SpecError as error:
        log.warning("unknown pause, everything is paused", extra={"pool": pool.metadata.name, "error": str(error)})
        return frozenset({Pause.ALL})
