"""A worker: one pod of a pool. It joins the mesh, runs the shards it may, and leaves in good order."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from prometheus_client.exposition import generate_latest

from starling.agent import AgentDefinition
from starling.core import limits
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.membership import Member
from starling.core.names import MeshNames
from starling.core.takes import Right
from starling.engine.calls import Calls
from starling.engine.faults import fault
from starling.engine.memory_use import MemoryUse, memory_use
from starling.engine.passivation import Passivation
from starling.engine.producer import Producer
from starling.engine.routes_view import RoutesView
from starling.engine.shard_info import Owner, PoolSettings
from starling.entrypoints import load, registered
from starling.errors import MeshError, SpecError, Unreachable
from starling.instruments import instruments
from starling.loops import run
from starling.node.dead_letters import DeadLetterWatch
from starling.node.http import Health
from starling.node.members import Members
from starling.node.metrics import WorkerCollector, registry
from starling.node.ownership import Ownership
from starling.node.push import Push
from starling.node.registry import publish_agents
from starling.node.routing import watch_routes
from starling.node.settings import PoolConfig, WorkerSettings
from starling.node.states import RunState
from starling.node.stream_time import StreamTime
from starling.node.telemetry import traces
from starling.offload import close_offload
from starling.ports.store import Signal, Store
from starling.tracing import tracing

log = logging.getLogger(__name__)

GARBAGE: Final = (50_000, 10, 10)
"""Objects between two looks for reference cycles. A batch of messages makes thousands of objects that all live for a
while and are in no cycle: with Python's 700 the looks took a fifth of a worker's CPU (fan-out to 10: 55 us a turn, 42
with these).
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is. start: new with every process; version: of code and configuration."""

    pod: PodName
    start: str
    version: str
    metrics: str = ""


class Worker:
    """Everything that runs in a pod, over any store. `run` it in a task; `stop` asks it to leave."""

    def __init__(
        self,
        store: Store,
        settings: PoolSettings,
        identity: Identity,
        *,
        drain_seconds: float = limits.DRAIN,
        memory: MemoryUse = memory_use,
    ) -> None:
        self.time = StreamTime(store, settings.mesh, settings.wall)
        spans = settings.tracing or tracing(settings.wall)  # by the machine's clock, as the spans of others
        settings = replace(settings, wall=self.time.now, tracing=spans)
        self._store = store
        self._settings = settings
        self._drain_seconds = drain_seconds
        self._stop = asyncio.Event()
        self.state = RunState.STARTING
        self.routes = RoutesView()
        producer_name = f"{settings.pool}/{identity.pod}/{identity.start}"
        self._producer = Producer(store, settings.mesh, producer_name, settings.chance)
        self._producer.tracing = settings.tracing
        self._calls = Calls(
            store, settings.mesh, self._producer, self.routes, wall=settings.wall, chance=settings.chance
        )
        self.members = Members(
            store,
            settings.mesh,
            settings.pool,
            Member(
                pod=identity.pod,
                start=identity.start,
                incarnation=settings.incarnation,
                version=identity.version,
                ready=False,
                draining=False,
                shards={},
                metrics=identity.metrics,
            ),
            on_change=lambda: self.ownership.look(),  # noqa: PLW0108 - made below
        )
        self.passivation = Passivation(max_active=settings.max_active, memory=memory)
        self.ownership = Ownership(
            store,
            settings,
            Owner(identity.pod, identity.start),
            members=self.members,
            routes=self.routes,
            calls=self._calls,
            passivation=self.passivation,
            drain_seconds=drain_seconds,
        )
        self.collector = WorkerCollector(
            settings.pool,
            lambda: self.ownership.owned,
            takes=lambda: self.ownership.takes,
            fenced=lambda: self.ownership.fenced,
            state=lambda: self.state,
            wall=settings.wall,
        )
        self.ownership.on_take = self._taken

    def _taken(self, shard: ShardId, right: Right) -> None:
        running = self.ownership.owned.get(shard)
        if running is not None:
            self.collector.taken(shard, running.stats)
        log.info("shard owned", extra={"shard": shard, "right": right.value})

    def stop(self, *, at_once: bool = False) -> None:
        """Ask the worker to drain and end; at_once: without waiting for the map to move its shards, nor for turns."""
        if at_once:
            self.ownership.at_once = True
            self.ownership.drain_seconds = 0.0
        self._stop.set()

    @property
    def not_ready(self) -> str:
        """Why the pod is not ready; "" when it is. A pod without shards is ready."""
        if self._store.connected_since is None:
            return "no connection to NATS"
        if not self.members.own.ready:
            return "starting"
        if self.ownership.lost:
            return "; ".join(f"shard {shard}: {why}" for shard, why in self.ownership.lost.items())
        return ""

    async def run(self) -> None:
        """Work until stopped: then drain, withdraw, and return. What a failing start has begun is ended again."""
        names = self._settings.names
        background: set[asyncio.Task[None]] = set()

        def alive(asked: Signal) -> None:
            task = asyncio.get_running_loop().create_task(self._alive(asked), name="sign of life")
            background.add(task)
            task.add_done_callback(background.discard)

        def drain(asked: Signal) -> None:
            if not self._stop.is_set():
                self.members.describe(draining=asked.data != b"undo")
            alive(asked)

        async with AsyncExitStack() as ends:
            ends.callback(self._is, RunState.STOPPED)
            ends.push_async_callback(self._producer.close)
            ends.push_async_callback(self._calls.close)
            await self._calls.open()
            for subject, heard in (
                (names.alive(self.members.own.pod), alive),
                (names.drain(self.members.own.pod), drain),
                (names.free("*"), self.ownership.heard_free),
                (names.taken("*"), self.ownership.heard_taken),
                (names.prepared("*"), self.ownership.heard_prepared),
            ):
                ends.push_async_callback((await self._store.listen(subject, heard)).close)
            async with asyncio.TaskGroup() as tasks:
                jobs = [
                    tasks.create_task(job, name=name)
                    for name, job in (
                        ("members", self.members.watch()),
                        ("own member entry", self.members.publish()),
                        ("signs of life", self.members.ask(self.ownership.asked_about)),
                        ("routes", watch_routes(self._store, self._settings.mesh, self.routes)),
                        ("shard map", self.ownership.watch_map()),
                        ("journals", self.ownership.check_current()),
                        ("store's time", self.time.keep()),
                        ("ownership", self._serve()),
                        ("passivation", self.passivation.run()),
                        ("parked agents", self._tell_of_parked()),
                    )
                ]
                self.members.describe(ready=True)
                self._is(RunState.RUNNING)
                await self._stop.wait()
                self._is(RunState.DRAINING)
                log.info("draining", extra={"pod": self.members.own.pod})
                self.members.describe(draining=True)
                await self.ownership.drain()
                for job in jobs:
                    job.cancel()
            await self.members.withdraw()

    async def _tell_of_parked(self) -> None:
        """Say in our entry how many agents are parked, and one of them, for the condition of the pool."""
        while True:
            parked = sorted(agent for shard in self.ownership.owned.values() for agent in shard.parked)
            self.members.describe(parked=len(parked), parked_agent=str(parked[0]) if parked else "")
            await asyncio.sleep(limits.MEMBER_RENEWAL)

    async def _serve(self) -> None:
        await self.time.look()
        await self.time.known.wait()  # by a wrong clock the first look at the timers might fire them hours early
        await self.ownership.run()

    def _is(self, state: RunState) -> None:
        self.state = state

    async def _alive(self, asked: Signal) -> None:
        try:
            await self.members.answer(asked)
        except Unreachable:
            log.debug("sign of life not sent")


def load_agents(config: PoolConfig) -> Mapping[str, AgentDefinition]:
    """Import the pool's agent classes. Raises SpecError."""
    agents: dict[str, AgentDefinition] = {}
    for index, agent in enumerate(config.agents):
        field = f"spec.agents[{index}]"
        if agent.entrypoint is None:
            definition = registered(agent.type, field=f"{field}.entrypoint")
        else:
            definition = load(agent.entrypoint, agent.type)
        if definition.type != agent.type:
            raise SpecError(f"{field}.type", f"is {agent.type!r}, but {agent.entrypoint} says {definition.type!r}")
        try:
            agents[agent.type] = definition.with_options(
                durability=agent.durability,
                idle=agent.passivation.idle_seconds,
                max_active=agent.passivation.max_active,
            )
        except SpecError as error:
            raise SpecError(f"{field}.{error.field.rpartition('.')[2]}", error.problem) from error
    return agents


async def serve(environment: WorkerSettings) -> None:
    """Run one pod until SIGTERM. Raises SpecError, Unreachable when NATS does not answer at all."""
    from starling.adapters.nats import connect

    async with AsyncExitStack() as ends:
        ends.enter_context(traces(environment.pool, environment.pod))
        config = PoolConfig.read(environment.config)
        sys.path.insert(0, str(environment.code))
        agents = load_agents(config)
        settings = PoolSettings(
            mesh=environment.mesh,
            pool=PoolName(environment.pool),
            shards=config.shards,
            incarnation=config.incarnation,
            agents=agents,
            wall=time.time,
            timer=time.perf_counter,
            chance=random.Random(),
            retry=config.delivery.policy(),
            max_concurrent_turns=config.max_concurrent_turns,
            max_active=config.max_active,
            move_wait=config.move_wait_seconds,
            passed=fault(environment.fault),
        )
        store = await connect(
            environment.nats_url,
            name=f"{environment.pool}/{environment.pod}",
            credentials=environment.nats_creds,
        )
        ends.push_async_callback(store.close)
        ends.push_async_callback(close_offload)
        start = f"{settings.chance.getrandbits(64):016x}"
        identity = Identity(PodName(environment.pod), start, config.version)
        worker = Worker(store, settings, identity, drain_seconds=config.drain_seconds)
        # one pod looks, whichever owns shard 0
        letters = DeadLetterWatch(store, settings.names, lambda: ShardId(0) in worker.ownership.owned)
        own = registry(worker.collector, instruments)
        own.register(letters)
        health = Health(own, lambda: worker.not_ready)
        ends.push_async_callback(health.close)
        port = await health.open(environment.pod_ip, environment.http_port)
        worker.members.describe(metrics=f"{environment.pod_ip}:{port}")
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, worker.stop)
        loop.add_signal_handler(signal.SIGINT, partial(worker.stop, at_once=True))
        if environment.metrics_push:
            push = Push(environment.metrics_push.split(","), partial(generate_latest, own))
            pushing = loop.create_task(push.run(), name="metrics push")
            ends.push_async_callback(_ended, pushing)
        describing = loop.create_task(
            publish_agents(store, settings.mesh, settings.pool, agents.values()), name="description of the agents"
        )
        ends.push_async_callback(_ended, describing)
        ends.push_async_callback(_ended, loop.create_task(letters.run(), name="dead letters"))
        gc.freeze()  # what is there at the start stays: 30 of the 40 ms that a look at all objects stands in the way
        await worker.run()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def mesh_buckets(mesh: str) -> tuple[str, str, str]:
    """The buckets that a mesh needs before its first worker starts."""
    names = MeshNames(mesh)
    return names.maps, names.members, names.routes


def main() -> int:
    """Entry point of the worker process: exit code 0 after a clean stop, 1 failed, 2 wrong settings, 3 unreachable."""
    from starling.node.logs import configure_logging

    gc.set_threshold(*GARBAGE)
    try:
        environment = WorkerSettings.from_environment()
        configure_logging(environment.log_level, environment.log_format)
        run(serve(environment))
    except SpecError as error:
        print(f"starling worker: {error}", file=sys.stderr)  # noqa: T201 - before logging may be there
        return 2
    except Unreachable as error:
        print(f"starling worker: {error}", file=sys.stderr)  # noqa: T201
        return 3
    except MeshError:
        log.exception("worker failed")
        return 1
    return 0
