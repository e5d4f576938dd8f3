"""Agents tested without any server: the real engine over an in-memory store, in this process.

async with starling.testing.mesh(Airport, Weather, subscriptions={"airport.movement": Airport}) as mesh:
    await mesh.publish(MOVEMENT("EWR"), Movement(...))
    await mesh.idle()
    assert (await mesh.state(Airport, "EWR")).movements == 1
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starling.adapters.memory import MemoryServer
from starling.agent import Agent, AgentDefinition, definition
from starling.client import Mesh
from starling.core import limits
from starling.core.ids import AgentId, PodName, PoolName, ShardId, shard_of
from starling.core.membership import ShardMap
from starling.core.names import MeshNames
from starling.core.retry import RetryPolicy
from starling.core.routes import PoolRoute, Routes
from starling.core.subscriptions import SubscriptionRoute
from starling.engine.dead import DeadLetter
from starling.engine.shard import OwnedShard
from starling.engine.shard_info import PoolSettings
from starling.errors import SpecError
from starling.node.worker import Identity, Worker
from starling.ports.store import Store
from starling.provision import PoolStreams, provision_mesh, provision_pool, read_map, write_map, write_routes
from starling.topics import Subscribed, subscriptions_of

A = TypeVar("A", bound=Agent[Any])

MESH = "test"
IDLE_TIMEOUT = 30.0
EPOCH = 1_700_000_000.0
"""Where the wall clock of a test mesh starts, seconds since 1970."""


class TestMesh(Mesh):
    """A mesh in memory: a client of it, and what tests need beside. Made by `mesh`."""

    __test__ = False

    def __init__(self, pools: Sequence[_Pool], store: Store, chance: random.Random, clock: _Clock) -> None:
        super().__init__(store, MESH, name="test", wall=clock.wall, chance=chance)
        self._pools = pools
        self._admin = store
        self._clock = clock

    async def idle(self) -> None:
        """Wait until everything sent has been handled, committed and delivered. Raises TimeoutError after 30 s."""
        async with asyncio.timeout(IDLE_TIMEOUT):
            while not self._is_idle():
                await asyncio.sleep(0.001)

    def _is_idle(self) -> bool:
        return all(pool.is_idle for pool in self._pools)

    async def committed(self) -> None:
        """Wait until what has been sent is handled and committed as far as it can be now: a failed message may still
        wait for its next attempt. Raises TimeoutError after 30 s."""
        async with asyncio.timeout(IDLE_TIMEOUT):
            while not all(pool.is_settled for pool in self._pools):
                await asyncio.sleep(0.001)

    async def advance(self, seconds: float) -> None:
        """Let time pass at once: retries, deadlines and timers that are due within it happen now."""
        self._clock.advance(seconds)
        await asyncio.sleep(0.01)

    async def state(self, cls: type[A], key: str) -> Any:
        """Return the agent's state after its last good turn; that of a new agent when it has none yet."""
        made = definition(cls)
        shard = self._shard(cls.type, key)
        data = await shard.state(AgentId(cls.type, key))
        return made.new_state() if data is None else made.load_state(data)

    def _shard(self, agent_type: str, key: str) -> OwnedShard:
        for pool in self._pools:
            if agent_type in pool.agents:
                shard = shard_of(agent_type, key, pool.shards)
                for worker in pool.workers:
                    if shard in worker.ownership.owned:
                        return worker.ownership.owned[shard]
        raise SpecError("agent", f"no pod of this mesh runs agent type {agent_type!r}")

    async def dead_letters(self) -> list[DeadLetter]:
        """Return all dead letters of all pools, in order."""
        letters: list[DeadLetter] = []
        for pool in self._pools:
            names = MeshNames(MESH).pool(pool.name)
            first = 1
            while page := await self._admin.page(names.dead_letters, names.dead_subject, first):
                letters += [DeadLetter.unpack(message.data) for message in page]
                first = page[-1].sequence + 1
        return letters

    async def crash(self, *agents: type[Agent[Any]]) -> None:
        """End every pod without a goodbye and start new processes in their place; returns when they serve.

        agents: classes that take the place of those of their type, as after a deployment of newer code.
        """
        newer = {cls.type: definition(cls) for cls in agents}
        for pool in self._pools:
            pool.agents = {kind: newer.get(kind, made) for kind, made in pool.agents.items()}
            await pool.crash()
        await self.ready()

    async def ready(self) -> None:
        """Wait until every shard is served."""
        async with asyncio.timeout(IDLE_TIMEOUT):
            while not all(pool.is_served for pool in self._pools):
                await asyncio.sleep(0.001)


class _Clock:
    """The running loop's time, which may be pushed forward; `wall` follows it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._offset = 0.0
        self._start = self._time()
        self._loop.time = self._now  # type: ignore[method-assign]

    def _now(self) -> float:
        return self._time() + self._offset

    def advance(self, seconds: float) -> None:
        self._offset += seconds

    def wall(self) -> float:
        return EPOCH + self._now() - self._start

    def restore(self) -> None:
        self._loop.time = self._time  # type: ignore[method-assign]


class _Pool:
    """One pool of the test mesh and its pods, each a worker over a connection of its own."""

    def __init__(
        self,
        server: MemoryServer,
        name: PoolName,
        agents: Mapping[str, AgentDefinition],
        *,
        shards: int,
        pods: int,
        retry: RetryPolicy,
        max_active: int,
        chance: random.Random,
        clock: _Clock,
    ) -> None:
        self._server = server
        self.name = name
        self.agents = agents
        self.shards = shards
        self._pods = [PodName(f"{name}-{n}") for n in range(pods)]
        self._retry = retry
        self._max_active = max_active
        self._chance = chance
        self._clock = clock
        self.incarnation = ""
        self.workers: list[Worker] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._starts = 0

    async def provision(self, store: Store) -> None:
        spec = PoolStreams(self.name, shards=self.shards)
        self.incarnation = await provision_pool(store, MESH, spec, known=None, chance=self._chance)
        over, _ = await read_map(store, MESH, self.name)
        shards = {ShardId(n): self._pods[n % len(self._pods)] for n in range(self.shards)}
        await write_map(store, MESH, self.name, ShardMap(1, shards), over=over)

    def start(self) -> None:
        """Start a process for each pod."""
        self._starts += 1
        settings = PoolSettings(
            mesh=MESH,
            pool=self.name,
            shards=self.shards,
            incarnation=self.incarnation,
            agents=self.agents,
            wall=self._clock.wall,
            timer=self._clock._time,
            chance=self._chance,
            retry=self._retry,
            max_active=self._max_active,
        )
        self.workers = [
            Worker(
                self._server.connect(pod),
                settings,
                Identity(pod, f"start-{self._starts}", "v1"),
                drain_seconds=0.0,
                memory=lambda: None,
            )
            for pod in self._pods
        ]
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(w.run(), name=f"pod {w.members.own.pod}") for w in self.workers]

    async def crash(self) -> None:
        await self._cancel()
        self.start()

    async def stop(self) -> None:
        for worker in self.workers:
            worker.stop()
        done, late = await asyncio.wait(self._tasks, timeout=5.0)
        await self._cancel()
        for task in done:
            if not task.cancelled() and (error := task.exception()):
                raise error
        if late:
            raise TimeoutError(f"pods of {self.name} did not end in time")

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_served(self) -> bool:
        return {s for w in self.workers for s, o in w.ownership.owned.items() if o.serving.is_set()} == set(
            map(ShardId, range(self.shards))
        )

    @property
    def is_settled(self) -> bool:
        return self.is_served and all(o.is_settled for w in self.workers for o in w.ownership.owned.values())

    @property
    def is_idle(self) -> bool:
        return self.is_served and all(o.is_idle for w in self.workers for o in w.ownership.owned.values())


@asynccontextmanager
async def mesh(
    *agents: type[Agent[Any]],
    subscriptions: Subscribed | None = None,
    shards: int = 4,
    pods: int = 1,
    retry: RetryPolicy | None = None,
    max_active: int = limits.MAX_ACTIVE,
    seed: int = 0,
) -> AsyncIterator[TestMesh]:
    """Run a mesh of these agents in memory, a pool for each type.

    subscriptions: topic type to the agent class, or classes, that hear it, or a list of what `starling.topics.prefix`
    and its like return. pods: processes a pool, as tasks.
    max_active: agents that a pod keeps in memory; pressure on this machine's memory passivates none.
    Raises SpecError; errors of the pods come out at the end.
    """
    if not 1 <= shards <= limits.MAX_SHARDS:
        raise SpecError("shards", f"is {shards}; give 1 to {limits.MAX_SHARDS}")
    definitions = [definition(cls) for cls in agents]
    chance = random.Random(seed)
    clock = _Clock()
    server = MemoryServer(wall=clock.wall)
    store = server.connect("test")
    pools = [
        _Pool(
            server,
            PoolName(known.type.replace("_", "-").replace(".", "-")),
            {known.type: known},
            shards=shards,
            pods=pods,
            retry=retry or RetryPolicy(),
            max_active=max_active,
            chance=chance,
            clock=clock,
        )
        for known in definitions
    ]
    try:
        await provision_mesh(store, MESH)
        for pool in pools:
            await pool.provision(store)
        await write_routes(store, MESH, _routes(pools, subscriptions_of(subscriptions)), over=0)
        for pool in pools:
            pool.start()
        made = TestMesh(pools, store, chance, clock)
        await made.open()
        try:
            await made.ready()
            yield made
        finally:
            await made.close()
            for pool in pools:
                await pool.stop()
    finally:
        clock.restore()
        await store.close()


def _routes(pools: Sequence[_Pool], subscriptions: tuple[SubscriptionRoute, ...]) -> Routes:
    return Routes(
        pools={pool.name: PoolRoute(pool.name, pool.shards, pool.incarnation) for pool in pools},
        agent_types={kind: pool.name for pool in pools for kind in pool.agents},
        subscriptions=subscriptions,
    )
