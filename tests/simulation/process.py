"""A simulated process over the real engine: it takes shards whenever it is told to, by no right at all.

Any take is safe at any time, because it fences; so the adversary takes at random, and more than one process may
believe that it owns a shard.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starling.adapters.memory import MemoryServer
from starling.agent import definition
from starling.core import limits
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.retry import RetryPolicy
from starling.core.routes import Routes
from starling.engine.calls import Calls
from starling.engine.journal import last_record
from starling.engine.passivation import Passivation
from starling.engine.producer import Producer
from starling.engine.room import Room
from starling.engine.routes_view import RoutesView
from starling.engine.shard import OwnedShard
from starling.engine.shard_info import Owner, PoolSettings
from starling.errors import Fenced, JournalLost, MeshError, RetryLater
from starling.node.routing import watch_routes

from .agents import AGENTS
from .loop import PROCESS
from .plan import ATTEMPTS

MESH = "sim"
EPOCH = 1_700_000_000.0

Where = tuple[PoolName, ShardId]
"""A shard of a pool."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of the simulated mesh."""

    name: PoolName
    agent_type: str
    shards: int
    incarnation: str
    dedupe_window: float


def settings_of(
    pool: Pool, wall: Callable[[], float], timer: Callable[[], float], chance: random.Random
) -> PoolSettings:
    """Return what a process of the pool works by."""
    return PoolSettings(
        mesh=MESH,
        pool=pool.name,
        shards=pool.shards,
        incarnation=pool.incarnation,
        agents={cls.type: definition(cls) for cls in AGENTS if cls.type == pool.agent_type},
        wall=wall,
        timer=timer,
        chance=chance,
        retry=RetryPolicy(attempts=ATTEMPTS, initial=0.2, cap=1.0),
        room=Room(random.Random(f"room {pool.incarnation}").choice((1, 3 * limits.MAX_BODY, limits.LARGE_BODIES))),
        max_active=random.Random(pool.incarnation).choice((1, 2, limits.MAX_ACTIVE)),
        dedupe_window=pool.dedupe_window,
    )


class Process:
    """One process: a connection, and the shards that it believes to own."""

    def __init__(
        self,
        server: MemoryServer,
        name: str,
        pools: Mapping[PoolName, Pool],
        *,
        chance: random.Random,
        offset: float,
        failed: Callable[[str, BaseException], None],
    ) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._pools = pools
        self._chance = chance
        self._offset = offset
        self._failed = failed
        self.is_alive = True
        token = PROCESS.set(name)
        try:
            self.store = server.connect(name)
            self._routes = RoutesView(Routes())
            producer = Producer(self.store, MESH, name, chance)
            self._calls = Calls(self.store, MESH, producer, self._routes, wall=self.wall, chance=chance)
            self._producer = producer
            self._settings = {
                pool.name: settings_of(pool, self.wall, self._loop.time, chance) for pool in pools.values()
            }
            self._passivation = {
                name: Passivation(max_active=settings.max_active, memory=lambda: None)
                for name, settings in self._settings.items()
            }
            self.owned: dict[Where, OwnedShard] = {}
            self._holding: dict[Where, asyncio.Task[None]] = {}
            self._tasks = [self._spawn(self._follow_routes()), self._spawn(self._check_current())]
        finally:
            PROCESS.reset(token)

    def wall(self) -> float:
        """This machine's clock, which may be wrong."""
        return EPOCH + self._loop.time() + self._offset

    def jump(self, seconds: float) -> None:
        """Set the machine's clock."""
        self._offset += seconds

    def _spawn(self, job: object) -> asyncio.Task[None]:
        return self._loop.create_task(job)  # type: ignore[arg-type]

    async def _follow_routes(self) -> None:
        await self._again_until_done(self._calls.open)
        while True:
            await self._again_until_done(lambda: watch_routes(self.store, MESH, self._routes))

    async def _again_until_done(self, act: Callable[[], object]) -> None:
        while True:
            try:
                await act()  # type: ignore[misc]
                return
            except RetryLater:
                await asyncio.sleep(0.2)

    async def _check_current(self) -> None:
        while True:
            await asyncio.sleep(3.0)
            for where, shard in list(self.owned.items()):
                try:
                    current = await shard.is_current()
                except MeshError:
                    continue
                if not current and where in self._holding:
                    self._holding[where].cancel()

    # -- what the world does with it

    def take(self, where: Where) -> None:
        """Take a shard, unless we hold it already."""
        if self.is_alive and where not in self._holding:
            token = PROCESS.set(self.name)
            try:
                self._holding[where] = holding = self._spawn(self._hold(where))
                holding.add_done_callback(lambda done: self._held(where))  # it may be cancelled before its first step
            finally:
                PROCESS.reset(token)

    def release(self, where: Where) -> None:
        """Hand a shard over to nobody."""
        if self.is_alive and where in self.owned:
            self.owned[where].release()

    @property
    def is_idle(self) -> bool:
        return all(shard.is_idle for shard in self.owned.values()) and len(self.owned) == len(self._holding)

    def kill(self) -> None:
        """End the process without a goodbye: what it sent may still arrive, nothing more leaves it."""
        if self.is_alive:
            self.is_alive = False
            self._loop.thaw(self.name)  # type: ignore[attr-defined]
            self.store.cut()
            for task in [*self._tasks, *self._holding.values()]:
                task.cancel()
            self._spawn(self._bury())

    async def _bury(self) -> None:
        """Free what a real process would leave to its machine."""
        tasks = [*self._tasks, *self._holding.values()]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._calls.close()
        await self._producer.close()
        await self.store.close()

    async def _hold(self, where: Where) -> None:
        pool, shard = where
        settings = self._settings[pool]
        try:
            await self._routes.heard.wait()
            over = await last_record(self.store, settings.names, shard)
            self.owned[where] = owned = await OwnedShard.take(
                self.store,
                settings,
                shard,
                owner=Owner(PodName(self.name), "start"),
                map_rev=1,
                over=over,
                routes=self._routes,
                calls=self._calls,
                passivation=self._passivation[pool],
            )
            await owned.run()
        except* JournalLost as group:
            self._failed(f"{self.name} lost the journal of {where}", group)
        except* (Fenced, RetryLater):
            pass
        except* Exception as group:
            self._failed(f"{self.name} failed with {where}", group)
        finally:
            self.owned.pop(where, None)

    def _held(self, where: Where) -> None:
        del self._holding[where]
