"""The control loop: gathers one frozen value a pool, asks the pure rules for a plan, and carries it out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starling.core.ids import PodName, PoolName, ShardId
from starling.core.routes import PoolRoute, Routes
from starling.core.subscriptions import Match
from starling.errors import Fenced, JournalLost, MeshError, SpecError
from starling.provision import NOTHING_OWED

from starling_operator.adapters.mesh import MeshState
from starling_operator.api import (
    AgentPool,
    AgentScalingTarget,
    AgentSubscription,
    DeletionPolicy,
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
)
from starling_operator.ports import LoadSource, Pods, PoolPods, PoolPodsSpec
from starling_operator.wishes import config_of, is_still, row_of, streams_of, version_of, wish_of

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
    last_move: Move | None
    map_rev: int
    incarnation: str
    imbalance: float | None
    plan: str
    desired: int
    lag: float | None
    """Messages waiting; None without measurements."""
    conditions: tuple[ConditionWish, ...]
    metrics_age: float | None = None
    """Seconds since load was measured; None without measurements."""
    refused: int = 0
    """Map writes that somebody else had overtaken, since this process started."""
    last_move_at: float = 0.0
    """When the map said so, in seconds since 1970."""
    last_scaled_at: float | None = None
    """When the number of pods was changed, in seconds since 1970; None when this process did not."""
    lag_target: float | None = None
    """Messages that a pod may have waiting; None when that does not count."""
    load: float | None = None
    """Busy seconds per second of the most loaded pod."""
    events: tuple[EventWish, ...] = ()
    owners: Mapping[ShardId, PodName] = field(default_factory=dict)
    busy: Mapping[ShardId, float] = field(default_factory=dict)


@dataclass(slots=True)
class _PoolState:
    """events: what happened and has not been reported yet."""

    memory: Memory = field(default_factory=Memory)
    last_move: Move | None = None
    last_move_at: float = 0.0
    last_scaled_at: float | None = None
    refused: int = 0
    events: list[EventWish] = field(default_factory=list)


class Control:
    """Looks at pools one at a time. allowed: asked right before each write that moves, shrinks or deletes; the
    single writer's lease is behind it."""

    def __init__(
        self,
        mesh: MeshState,
        pods: Pods,
        loads: LoadSource,
        *,
        allowed: Callable[[], bool] = lambda: True,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._mesh = mesh
        self._pods = pods
        self._loads = loads
        self._allowed = allowed
        self._wall = wall
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
        still = is_still(pool)
        try:
            incarnation = await (self._known(name) if still else self._mesh.provision(streams_of(pool)))
        except JournalLost as error:
            return self._lost(pool, str(error))
        config = config_of(pool, incarnation)
        version = version_of(config, code or {}, pool)
        config["version"] = version
        wish = wish_of(pool, target, version)
        seen, revision, pods = await self._gather(pool, wish, now)
        plan = decide(wish, seen, state.memory, now)
        if still:
            text = (plan.text or "nothing to do") if pool.spec.dry_run else ""
            return self._report(pool, wish, seen, plan, state, incarnation, text=text)
        if await self._place(wish, plan, state, revision, now):
            seen = replace(seen, map=plan.map or seen.map)
            await self._carry_out(pool, wish, seen, plan, pods, state, config, code or {}, now)
        return self._report(pool, wish, seen, plan, state, incarnation)

    async def _known(self, pool: str) -> str:
        """The incarnation of a pool's data as the routes name it, "" without any; nothing is made."""
        _, routes = await self._mesh.routes()
        route = routes.pools.get(PoolName(pool))
        return route.incarnation if route else ""

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
        asleep = pods is not None and pods.replicas == 0
        waiting = await self._mesh.waiting(name, wish.shards) if asleep else 0
        owed = await self._mesh.owing(name, wish.shards) if asleep else NOTHING_OWED
        replicas = pods.replicas if pods else None
        seen = PoolSeen(tuple(views), replicas, current, loads, waiting, owed.due, owed.undelivered)
        return seen, revision, pods

    # -- carry out

    async def _place(self, wish: PoolWish, plan: Plan, state: _PoolState, revision: int, now: float) -> bool:
        """Write the plan's map over the revision that it was made of; False when somebody else wrote meanwhile."""
        self._check_allowed()
        if plan.map is not None:
            if not await self._mesh.write_map(wish.pool, plan.map, over=revision):
                state.refused += 1
                log.info("the map changed meanwhile; planned anew", extra={"pool": wish.pool})
                return False
            self._note_moves(wish.pool, plan.moves, state, now)
        state.memory = plan.memory
        return True

    async def _carry_out(
        self,
        pool: AgentPool,
        wish: PoolWish,
        seen: PoolSeen,
        plan: Plan,
        pods: PoolPods | None,
        state: _PoolState,
        config: dict[str, Any],
        code: Mapping[str, str],
        now: float,
    ) -> None:
        """Pods after the map; every write is conditional on what the plan was made of."""
        replicas = plan.replicas if plan.replicas is not None else seen.replicas
        if replicas is None:
            return
        self._check_allowed()
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
        if seen.replicas is not None and replicas != seen.replicas:
            self._note_scaled(wish.pool, seen.replicas, replicas, state, now)
        if plan.replace is not None:
            self._check_allowed()
            await self._pods.replace(wish.pool, plan.replace)
            text = f"pod {wish.pool}-{plan.replace} comes back with version {wish.version}"
            state.events.append(EventWish("PodReplaced", text))

    def _check_allowed(self) -> None:
        if not self._allowed():
            raise Fenced("this control plane is not the leader any more")

    def _note_moves(self, pool: str, moves: Sequence[Move], state: _PoolState, now: float) -> None:
        for move in moves:
            log.info("move", extra={"pool": pool, "move": str(move)})
            if move.reason == "load":
                state.last_move, state.last_move_at = move, self._wall()
                self.moves = [*self.moves[-999:], (now, pool, move)]
            if move.reason != "first":
                state.events.append(EventWish("ShardMoved", str(move)))

    def _note_scaled(self, pool: str, before: int, after: int, state: _PoolState, now: float) -> None:
        state.last_scaled_at = self._wall()
        word = "Up" if after > before else "Down"
        state.events.append(EventWish(f"Scaled{word}", f"from {before} to {after} pods"))
        if after > before:
            self.scale_ups.append((now, pool, after))

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
    ) -> PoolReport:
        events, state.events = tuple(state.events), []
        owners = {shard: pod.name for pod in seen.pods if pod.member is not None for shard in sorted(pod.member.shards)}
        return PoolReport(
            pool=wish.pool,
            replicas=len(seen.pods),
            ready=sum(pod.is_ready for pod in seen.pods),
            shards_owned=len(owners),
            shards=wish.shards,
            moves=state.memory.moves,
            last_move=state.last_move,
            last_move_at=state.last_move_at,
            last_scaled_at=state.last_scaled_at,
            lag_target=wish.scaling.lag_per_pod if wish.scaling else None,
            load=_heaviest(owners, seen.loads.busy) if seen.loads else None,
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
        return PoolReport(pool.metadata.name, 0, 0, 0, pool.spec.shards, 0, None, 0, "", None, "", 0, None, conditions)

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
        # Who has a type keeps it, whatever the names: its agents' state is in that pool.
        declared = {(pool.metadata.name, agent.type) for pool in pools for agent in pool.spec.agents}
        types = {kind: owner for kind, owner in current.agent_types.items() if (owner, kind) in declared}
        for pool in sorted(pools, key=lambda p: p.metadata.name):
            name = PoolName(pool.metadata.name)
            route = await self._route_of(pool, current)
            if route is None:
                continue
            table[name] = route
            for agent in pool.spec.agents:
                taken = types.setdefault(agent.type, name)
                if taken != name:
                    said["AgentPool", name] = ConditionWish(
                        "Degraded", True, "TypeTaken", f"agent type {agent.type!r} belongs to pool {taken}"
                    )
        rows, by_name = [], {pool.metadata.name: pool for pool in pools}
        for subscription in sorted(subscriptions, key=lambda s: s.metadata.name):
            condition = _routed(subscription, types)
            said["AgentSubscription", subscription.metadata.name] = condition
            if condition.status:
                rows.append(row_of(subscription, by_name[subscription.spec.pool_ref.name]))
        new = Routes(table, types, tuple(rows))
        if (new.encode() != current.encode() or not over) and not await self._mesh.write_routes(new, over=over):
            raise MeshError("the route table changed meanwhile; it is compiled again")
        return said

    async def _route_of(self, pool: AgentPool, current: Routes) -> PoolRoute | None:
        """The pool's place in the table; None for one whose streams are not to be made now."""
        name = PoolName(pool.metadata.name)
        known = current.pools.get(name)
        try:
            if known is None and is_still(pool):
                return None
            incarnation = await self._mesh.provision(streams_of(pool))
            return PoolRoute(name, pool.spec.shards, incarnation, pool.spec.streams.large_compression.value)
        except (JournalLost, SpecError):  # the pool's own loop says so; it holds up no other pool
            return known


def _routed(subscription: AgentSubscription, types: Mapping[str, PoolName]) -> ConditionWish:
    spec = subscription.spec
    pool = types.get(spec.agent_type)
    if pool is None:
        problem = f"no pool runs agent type {spec.agent_type!r}"
        return ConditionWish("Ready", False, "NoSuchAgentType", f"spec.agentType: {problem}")
    if pool != spec.pool_ref.name:
        problem = f"is {spec.pool_ref.name!r}, but agent type {spec.agent_type!r} belongs to pool {pool}"
        return ConditionWish("Ready", False, "WrongPool", f"spec.poolRef.name {problem}")
    topic = spec.topic if spec.match is Match.EXACT else f"{spec.match} {spec.topic}"
    agent = spec.agent_type if spec.key.value is None else f"{spec.agent_type}/{spec.key.value}"
    return ConditionWish("Ready", True, "Routed", f"{topic} goes to {agent} of pool {pool}")


def _heaviest(owners: Mapping[ShardId, PodName], busy: Mapping[ShardId, float]) -> float:
    loads: dict[PodName, float] = {}
    for shard, pod in owners.items():
        loads[pod] = loads.get(pod, 0.0) + busy.get(shard, 0.0)
    return max(loads.values(), default=0.0)
