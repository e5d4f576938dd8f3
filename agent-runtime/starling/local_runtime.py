"""The mesh in one process, without any server: the same engine over a store in memory, for programs and for trying out.

    async with starling.local(Airport, subscriptions={"airport.movement": Airport}) as mesh:
        await mesh.publish(MOVEMENT("EWR"), Movement(...))
        report = await mesh.agent(Airport, "EWR").report(ReportRequest(), timeout=5.0)

What agents keep is gone with the runtime's object, unless `nats` names a server that keeps it; for tests there is more
in `starling.testing`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from starling.adapters.memory import MemoryServer
from starling.agent import Agent, AgentDefinition, being_made, definition
from starling.client import Mesh
from starling.core.ids import AgentId, PodName, PoolName, ShardId, TopicId
from starling.core.membership import ShardMap
from starling.core.retry import RetryPolicy
from starling.core.routes import PoolRoute, Routes
from starling.core.subscriptions import Match, SubscriptionRoute
from starling.engine.producer import Accepted
from starling.engine.shard_info import PoolSettings
from starling.errors import AgentConstructionError, SpecError, Unreachable
from starling.local_mesh import LocalMesh
from starling.node.states import RunState
from starling.node.worker import Identity, Worker
from starling.offload import close_offload
from starling.ports.store import Compression, Store
from starling.provision import (
    PoolStreams,
    provision_mesh,
    provision_pool,
    read_map,
    read_routes,
    write_map,
    write_routes,
)
from starling.proxies import client_proxy
from starling.seconds import checked_seconds
from starling.topics import Subscribed, subscriptions_of

log = logging.getLogger(__name__)

A = TypeVar("A", bound=Agent[Any])

MESH: Final = "local"
POOL: Final = PoolName("local")
POD: Final = PodName("local-0")
START_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 30.0
RECORD_TIMEOUT: Final = 5.0

current_runtime: Final[ContextVar[LocalRuntime]] = ContextVar("starling.local_runtime")
"""In a factory: the runtime that the agent is made for."""


def local(
    *agents: type[Agent[Any]],
    subscriptions: Subscribed | None = None,
    before_start: Literal["wait", "fail"] = "wait",
    shards: int = 4,
    retry: RetryPolicy | None = None,
    nats: str | None = None,
    credentials: Path | None = None,
    mesh: str = MESH,
    compression: Compression = "none",
) -> LocalRuntime:
    """Return a runtime with these agents registered, to be entered with `async with`, or started.

    subscriptions: topic type to the agent class, or classes, that hear it, or a list of what `starling.topics.prefix`
    and its like return; before_start: what a call does while the runtime does not run: wait for it within its own
    timeout, or fail at once. nats: address of a server that keeps what agents have, instead of this process's memory,
    with a credentials file if it wants one; one process at a time runs the mesh of this name there. compression: s2
    lets that server pack its files. Raises SpecError.
    """
    over_nats = None if nats is None else _over_nats(nats, credentials)
    runtime = LocalRuntime(
        before_start=before_start, shards=shards, retry=retry, connect=over_nats, mesh=mesh, compression=compression
    )
    for cls in agents:
        runtime.register(cls)
    for row in subscriptions_of(subscriptions):
        runtime.subscribe(row.topic, row.agent_type, match=row.match, key=row.key)
    return runtime


class LocalRuntime:
    """Agents in this process. Register first, then start; it may be started again after a stop and finds its state."""

    def __init__(
        self,
        *,
        before_start: Literal["wait", "fail"] = "wait",
        shards: int = 4,
        retry: RetryPolicy | None = None,
        connect: Callable[[str], Store | Awaitable[Store]] | None = None,
        mesh: str = MESH,
        compression: Compression = "none",
    ) -> None:
        """connect: makes a connection of this name to another store than one in memory, of which nobody else knows.

        mesh: name of the mesh in that store. compression: of its streams.
        """
        if before_start not in ("wait", "fail"):
            raise SpecError("before_start", f"is {before_start!r}; give 'wait' or 'fail'")
        self._before_start = before_start
        self._shards = shards
        self._retry = retry or RetryPolicy()
        self._connect: Callable[[str], Store | Awaitable[Store]] = connect or MemoryServer(wall=time.time).connect
        self._outlives = connect is not None
        """Whether what is stored may outlive this process: then no caller has an answer before its record is stored."""
        self._mesh_name = mesh
        self._streams = PoolStreams(POOL, shards=shards, compression=compression)
        self._process = f"{random.getrandbits(32):08x}"
        self._agents: dict[str, AgentDefinition] = {}
        self._bound: dict[AgentId, Agent[Any]] = {}
        self._subscriptions: list[SubscriptionRoute] = []
        self._worker: Worker | None = None
        self._task: asyncio.Task[None] | None = None
        self._mesh: Mesh | None = None
        self._ends = AsyncExitStack()
        self._runs = asyncio.Event()
        self._changing = asyncio.Lock()
        self._starts = 0
        self._state = RunState.STOPPED

    # -- what runs here

    def register(
        self,
        cls: type[A],
        *,
        factory: Callable[[], Any] | None = None,
        type: str | None = None,  # noqa: A002 - the field's own word
    ) -> None:
        """Let agents of this class run here; type: another name than the class has.

        factory: makes an instance, or is awaited for it; it finds the agent's id in `being_made` and this runtime in
        `current_runtime`. What it raises reaches the caller as AgentConstructionError. Raises SpecError.
        """
        self._not_started()
        made = definition(cls).with_options(factory=factory and self._within(factory), agent_type=type)
        if made.type in self._agents:
            raise _taken(self._agents[made.type])
        self._agents[made.type] = made

    def register_instance(self, agent: Agent[Any], key: str, *, type: str | None = None) -> AgentId:  # noqa: A002
        """Let this object be the agent `key` of its class, and return its id; type: another name than the class has.

        Its `state` is set when it becomes active and after a failed turn; what else it holds stays as it is. Other
        keys of the type have no agent then. Only here: pods make their own instances. Raises SpecError.
        """
        self._not_started()
        factory = self._within(self._instance)
        made = definition(agent.__class__).with_options(factory=factory, agent_type=type)
        agent_id = AgentId(made.type, key)
        first = self._bound.get(agent_id)
        if first is not None:
            raise SpecError("agent", f"{agent_id} is bound already, to {_named(first)}; it cannot be {_named(agent)}")
        known = self._agents.get(made.type)
        if known is not None and not any(bound.type == made.type for bound in self._bound):
            raise _taken(known)
        self._bound[agent_id] = agent
        self._agents[made.type] = made
        return agent_id

    def subscribe(
        self,
        topic: str,
        agent: type[Agent[Any]] | str,
        *,
        match: Literal["exact", "prefix", "pattern"] | Match = Match.EXACT,
        key: str | None = None,
    ) -> None:
        """Let agents of a class, or of a type, hear topics.

        match: what `topic` is, see `starling.topics`; key: of the one agent that hears them, None for the topic's
        source. Raises SpecError.
        """
        self._not_started()
        agent_type = agent if isinstance(agent, str) else definition(agent).type
        try:
            how = Match(match)
        except ValueError:
            raise SpecError("match", f"is {match!r}; give one of {', '.join(Match)}") from None
        self._subscriptions.append(SubscriptionRoute(topic, agent_type, how, key).checked())

    def _instance(self) -> Agent[Any]:
        agent_id = being_made.get()
        bound = self._bound.get(agent_id)
        if bound is None:
            raise AgentConstructionError(f"no instance is bound to {agent_id}")
        return bound

    def _within(self, factory: Callable[[], Any]) -> Callable[[], Any]:
        def make() -> Any:
            current_runtime.set(self)
            return factory()

        return make

    def _not_started(self) -> None:
        if self._state is not RunState.STOPPED:
            raise SpecError("runtime", f"is {self._state}: register and subscribe before it starts")

    # -- its life

    @property
    def state(self) -> RunState:
        """How far it is; stopped before the first start."""
        if self._state is RunState.RUNNING and self._worker is not None:
            return self._worker.state
        return self._state

    async def start(self) -> None:
        """Return when agents can be reached; nothing happens when it runs. A failing start leaves nothing behind.

        Raises SpecError, TimeoutError after 10 s.
        """
        async with self._changing:
            if self._task is not None:
                return
            self._state = RunState.STARTING
            try:
                async with AsyncExitStack() as ends, asyncio.timeout(START_TIMEOUT):
                    await self._start(ends)
                    self._ends = ends.pop_all()
            except BaseException:
                self._state, self._task = RunState.STOPPED, None
                raise
            self._state = RunState.RUNNING
            self._runs.set()

    async def _start(self, ends: AsyncExitStack) -> None:
        if not self._agents:
            raise SpecError("agents", "there are none; register one")
        self._starts += 1
        admin = await self._connected("local")
        ends.push_async_callback(admin.close)
        await provision_mesh(admin, self._mesh_name)
        incarnation = await provision_pool(admin, self._mesh_name, self._streams, known=None, chance=random.Random())
        over, before = await read_map(admin, self._mesh_name, POOL)
        revision = before.rev + 1 if before is not None else 1
        owned = dict.fromkeys(map(ShardId, range(self._shards)), POD)
        await write_map(admin, self._mesh_name, POOL, ShardMap(revision, owned), over=over)
        over, _ = await read_routes(admin, self._mesh_name)
        await write_routes(admin, self._mesh_name, self._routes(incarnation), over=over)
        pod_store = await self._connected(POD)
        ends.push_async_callback(pod_store.close)
        worker = self._worker = self._made(pod_store, incarnation)
        task = self._task = asyncio.get_running_loop().create_task(worker.run(), name="local runtime")
        ends.push_async_callback(_ended, task)
        mesh = self._client(admin, worker)
        ends.push_async_callback(mesh.close)
        await mesh.open()
        while not all(running.serving.is_set() for running in worker.ownership.owned.values()) or (
            len(worker.ownership.owned) < self._shards
        ):
            if task.done():
                await task
            await asyncio.sleep(0.001)
        self._mesh = mesh

    async def _connected(self, name: str) -> Store:
        made = self._connect(name)
        return await made if inspect.isawaitable(made) else made

    def _client(self, store: Store, worker: Worker) -> Mesh:
        name, chance = f"local-{self._starts}", random.Random()
        if self._outlives:
            return Mesh(store, self._mesh_name, name=name, chance=chance)
        running = worker.ownership.running
        return LocalMesh(
            store, self._mesh_name, name=name, chance=chance, pool=POOL, shards=self._shards, running=running
        )

    def _made(self, store: Store, incarnation: str) -> Worker:
        settings = PoolSettings(
            mesh=self._mesh_name,
            pool=POOL,
            shards=self._shards,
            incarnation=incarnation,
            agents=self._agents,
            wall=time.time,
            timer=time.perf_counter,
            chance=random.Random(),
            retry=self._retry,
        )
        identity = Identity(POD, f"{self._process}-{self._starts}", "local")
        return Worker(store, settings, identity, drain_seconds=0.0)

    def _routes(self, incarnation: str) -> Routes:
        unknown = [row.agent_type for row in self._subscriptions if row.agent_type not in self._agents]
        if unknown:
            raise SpecError("subscriptions", f"agent type {unknown[0]!r} hears a topic, but is not registered")
        return Routes(
            pools={POOL: PoolRoute(POOL, self._shards, incarnation)},
            agent_types=dict.fromkeys(self._agents, POOL),
            subscriptions=tuple(self._subscriptions),
        )

    async def stop(self, *, force: bool = False) -> None:
        """Let turns that run end, commit, and stop; nothing happens when it is stopped.

        force: cancel the turns; their messages are handled after the next start. Raises what the runtime died of.
        """
        async with self._changing:
            worker, task = self._worker, self._task
            if worker is None or task is None:
                return
            self._state = RunState.DRAINING
            self._runs.clear()
            try:
                if not task.done():
                    await self._recorded(worker)
                if not force and not task.done():
                    worker.stop()
                    await asyncio.wait([task], timeout=STOP_TIMEOUT)
            finally:
                died = task.exception() if task.done() and not task.cancelled() else None
                self._worker = self._task = self._mesh = None
                await self._ends.aclose()
                await close_offload()
                self._state = RunState.STOPPED
            if died is not None:
                raise died

    @staticmethod
    async def _recorded(worker: Worker) -> None:
        """Let the next start find what callers have been told."""
        try:
            async with asyncio.timeout(RECORD_TIMEOUT):
                for shard in worker.ownership.owned.values():
                    await shard.recorded()
        except TimeoutError:
            log.error("answered calls are in no record: the next start finds the states before them")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(force=error is not None)

    # -- reaching agents

    async def _running(self, timeout: float) -> Mesh:
        checked_seconds(timeout)
        if not self._runs.is_set() and self._before_start == "wait":
            try:
                async with asyncio.timeout(timeout):
                    await self._runs.wait()
            except TimeoutError:
                pass  # the error below says what was waited for
        if self._mesh is None or not self._runs.is_set():
            raise Unreachable(f"the local runtime is {self._state}; start it, or enter it with `async with`")
        return self._mesh

    def call(
        self,
        target: AgentId,
        message: object,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """As `Mesh.call`; all of these raise Unreachable when the runtime does not run in time."""
        if self._mesh is not None and self._runs.is_set():
            return self._mesh.call(target, message, timeout=timeout, headers=headers)  # no coroutine around it
        return self._call_once_it_runs(target, message, timeout, headers)

    async def _call_once_it_runs(
        self, target: AgentId, message: object, timeout: float | None, headers: Mapping[str, str] | None
    ) -> Any:
        mesh = await self._running(START_TIMEOUT if timeout is None else timeout)
        return await mesh.call(target, message, timeout=timeout, headers=headers)

    async def query(
        self,
        target: AgentId,
        message: object,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """As `Mesh.query`."""
        mesh = await self._running(START_TIMEOUT if timeout is None else timeout)
        return await mesh.query(target, message, timeout=timeout, headers=headers)

    async def send(
        self, target: AgentId, message: object, *, timeout: float = 30.0, headers: Mapping[str, str] | None = None
    ) -> Accepted:
        """As `Mesh.send`."""
        return await (await self._running(timeout)).send(target, message, timeout=timeout, headers=headers)

    async def publish(
        self, topic: TopicId, message: object, *, timeout: float = 30.0, headers: Mapping[str, str] | None = None
    ) -> tuple[Accepted, ...]:
        """As `Mesh.publish`."""
        return await (await self._running(timeout)).publish(topic, message, timeout=timeout, headers=headers)

    def agent(self, cls: type[A], key: str) -> A:
        """Return a typed stand-in for an agent, as `Mesh.agent` does."""
        return client_proxy(self, cls, key)


def _over_nats(url: str, credentials: Path | None) -> Callable[[str], Awaitable[Store]]:
    async def connect(name: str) -> Store:
        from starling.adapters.nats import connect as connect_store  # who stays in memory needs no client of NATS

        return await connect_store(url, name=name, credentials=credentials)

    return connect


def _taken(known: AgentDefinition) -> SpecError:
    return SpecError("agent", f"type {known.type!r} is registered already, as {known.cls.__qualname__}")


def _named(agent: Agent[Any]) -> str:
    return f"the {type(agent).__qualname__} at {id(agent):#x}"


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
