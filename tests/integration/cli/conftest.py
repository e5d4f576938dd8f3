"""A running mesh for the command line: real workers over a real nats-server, and commands run in this process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from starling import Agent, Context, Mesh, event, message, query, rpc
from starling.adapters.nats import EmbeddedServer, NatsStore, connect
from starling.agent import AgentDefinition, definition
from starling.cli import main
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.membership import ShardMap
from starling.core.names import MeshNames, PoolNames, bucket_stream
from starling.core.retry import RetryPolicy
from starling.core.routes import PoolRoute, Routes
from starling.core.subscriptions import SubscriptionRoute
from starling.engine.shard import OwnedShard
from starling.engine.shard_info import PoolSettings
from starling.node.registry import publish_agents
from starling.node.worker import Identity, Worker, mesh_buckets
from starling.provision import (
    PoolStreams,
    provision_mesh,
    provision_pool,
    read_map,
    read_routes,
    remove_pool,
    write_map,
    write_routes,
)

BOUND = 20.0
"""Seconds after which a fact that should come is taken to be missing."""


@message("cli.Paid")
@dataclass
class Paid:
    amount: int


@message("cli.Ask")
@dataclass
class Ask:
    pass


@message("cli.Peek")
@dataclass
class Peek:
    pass


@message("cli.Balance")
@dataclass
class Balance:
    amount: int
    payments: int = 0


@message("cli.Spoilt")
@dataclass
class Spoilt:
    amount: int = 1


@dataclass
class AccountState:
    amount: int = 0
    payments: int = 0


class Account(Agent[AccountState], type="account"):
    """Keeps the balance of one customer.

    Spoilt payments are refused until somebody has mended it.
    """

    mended = False

    @event
    async def paid(self, message: Paid, ctx: Context) -> None:
        """Take a payment in."""
        self.state.amount += message.amount
        self.state.payments += 1

    @event
    async def spoilt(self, message: Spoilt, ctx: Context) -> None:
        if not type(self).mended:
            raise ValueError(f"cannot take {message.amount}")
        self.state.amount += message.amount
        self.state.payments += 1

    @rpc
    async def ask(self, message: Ask) -> Balance:
        """Say what is there."""
        return Balance(self.state.amount, self.state.payments)

    @query
    async def peek(self, message: Ask | Peek) -> Balance:
        return Balance(self.state.amount, self.state.payments)


class Sponge(Agent[None], type="sponge"):
    """Takes whatever comes."""

    @event
    async def paid(self, message: Paid) -> None:
        pass

    async def on_unhandled(self, message: object, ctx: Context) -> None:
        pass


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class RunningMesh:
    """A mesh with one pool, its workers as tasks, and a client."""

    name: str
    server: EmbeddedServer
    store: NatsStore
    client: Mesh
    pool: PoolName
    shards: int
    agents: Mapping[str, AgentDefinition]
    incarnation: str
    retry: RetryPolicy
    workers: dict[str, Worker] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    stores: list[NatsStore] = field(default_factory=list)

    async def starling(self, *arguments: str) -> Ran:
        """Run a command against this mesh."""
        return await run_starling(*arguments, "--nats", self.server.url, "--mesh", self.name)

    async def start(self, pod: str) -> Worker:
        store = await connect(self.server.url, name=pod)
        self.stores.append(store)
        settings = PoolSettings(
            mesh=self.name,
            pool=self.pool,
            shards=self.shards,
            incarnation=self.incarnation,
            agents=self.agents,
            wall=time.time,
            timer=time.perf_counter,
            chance=random.Random(),
            retry=self.retry,
        )
        worker = Worker(store, settings, Identity(PodName(pod), uuid.uuid4().hex[:8], "v1"), drain_seconds=0.0)
        self.workers[pod] = worker
        self.tasks[pod] = asyncio.create_task(worker.run(), name=f"pod {pod}")
        return worker

    async def stop(self, pod: str) -> None:
        self.workers.pop(pod).stop(at_once=True)
        async with asyncio.timeout(BOUND):
            await self.tasks.pop(pod)

    async def served(self) -> None:
        """Wait until every shard is served."""

        async def is_served() -> bool:
            for task in self.tasks.values():
                if task.done():
                    task.result()
            return {
                shard for w in self.workers.values() for shard, run in w.ownership.owned.items() if run.serving.is_set()
            } == set(range(self.shards))

        await until(is_served)

    async def idle(self) -> None:
        """Wait until everything that was stored has been handled."""

        async def is_idle() -> bool:
            for run in (run for worker in self.workers.values() for run in worker.ownership.owned.values()):
                # what was stored a moment ago may not have reached the reader, which is then idle
                mailbox = await self.store.stream_info(PoolNames(self.name, self.pool).mailbox(run.shard))
                if not run.is_idle or mailbox is None or finished_through(run) < mailbox.last_sequence:
                    return False
            return True

        await self.served()
        await until(is_idle)


def finished_through(run: OwnedShard) -> int:
    """Up to where in its mailbox everything is finished."""
    return max(intake.positions.floor for intake in run._intakes.values())


async def run_starling(*arguments: str) -> Ran:
    """Run a command to its end, in another thread, so that the mesh goes on."""

    def run() -> Ran:
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(list(arguments))
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return Ran(code, out.getvalue(), err.getvalue())

    async with asyncio.timeout(60.0):
        return await asyncio.to_thread(run)


async def until(fact: Callable[[], Awaitable[bool]], bound: float = BOUND) -> None:
    """Wait until it is a fact."""
    async with asyncio.timeout(bound):
        while not await fact():
            await asyncio.sleep(0.02)


@pytest.fixture
async def account_mesh(nats_server: EmbeddedServer) -> AsyncIterator[RunningMesh]:
    """Accounts in two shards on one pod; accounts hear the topic `payment`."""
    async with running_mesh(nats_server, Account) as mesh:
        yield mesh


@contextlib.asynccontextmanager
async def running_mesh(
    server: EmbeddedServer, *classes: type[Agent[Any]], pods: int = 1, shards: int = 2, attempts: int = 1
) -> AsyncIterator[RunningMesh]:
    Account.mended = False
    name = f"m{uuid.uuid4().hex[:8]}"
    store = await connect(server.url, name="test")
    agents = {cls.type: definition(cls) for cls in classes}
    pool = PoolName("accounts")
    await provision_mesh(store, name)
    incarnation = await provision_pool(
        store, name, PoolStreams(pool, shards=shards), known=None, chance=random.Random()
    )
    over, _ = await read_map(store, name, pool)
    pod_names = [PodName(f"accounts-{n}") for n in range(pods)]
    placed = {ShardId(n): pod_names[n % pods] for n in range(shards)} if pods else {}
    await write_map(store, name, pool, ShardMap(1, placed), over=over)
    over, _ = await read_routes(store, name)
    subscriptions = tuple(SubscriptionRoute("payment", kind) for kind in agents if kind == "account")
    routes = Routes({pool: PoolRoute(pool, shards, incarnation)}, dict.fromkeys(agents, pool), subscriptions)
    assert await write_routes(store, name, routes, over=over)
    if pods:
        await publish_agents(store, name, pool, agents.values())
    client = Mesh(store, name, name="test", chance=random.Random())
    await client.open()
    mesh = RunningMesh(
        name, server, store, client, pool, shards, agents, incarnation, RetryPolicy(attempts=attempts, initial=0.05)
    )
    try:
        for pod in pod_names:
            await mesh.start(pod)
        if pods:
            await mesh.served()
        yield mesh
    finally:
        for running in list(mesh.workers):
            await mesh.stop(running)
        await client.close()
        await remove_pool(store, name, pool, shards)  # the server reserves the space of streams with a bound
        for bucket in mesh_buckets(name):
            await store.delete_stream(bucket_stream(bucket))
        for one in (*mesh.stores, store):
            await one.close()


@pytest.fixture
def names(account_mesh: RunningMesh) -> Any:
    return MeshNames(account_mesh.name).pool(account_mesh.pool)
