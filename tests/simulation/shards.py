"""A world of processes that take shards by no right at all: the hardest test of fencing, replay and delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starling.engine.sweep import DAY

from .process import Process
from .world import STORM_SECONDS, World

AGED_SECONDS = 3.0
"""How long a storm lasts in which there is nothing new to do."""
SWEEP_SECONDS = 4.0


class ShardWorld(World):
    """An adversary takes, releases, kills, cuts, freezes and sets clocks at random."""

    far = 9 * DAY
    clients_left = False

    @property
    def takers(self) -> list[Process]:
        return [process for process in self.living if isinstance(process, Process)]

    async def begin(self) -> None:
        for _ in range(self.chance.choice((1, 2, 3))):
            self.start_process()

    async def trouble(self) -> None:
        chance = self.chance
        wildness = chance.choice((0.3, 1.0, 2.0))
        for where in self.shards:
            chance.choice(self.takers).take(where)
        end = self.loop.time() + (AGED_SECONDS if self.clients_left else STORM_SECONDS)
        while self.loop.time() < end:
            await asyncio.sleep(min(1.0, chance.expovariate(1.0 / wildness)))
            self._keep_one()
            chance.choice(ACTS)(self, chance.random())
            if chance.random() < 0.5:
                self.keep_owned()

    async def grow_old(self) -> None:
        """Three storms days apart, in which the sweep finds old objects; then calm days, until all of it is over.

        Between a look at day 2 and one at day 8, what is held is said to be needed; the longest delay ends at day 9.
        """
        for client in self.clients:
            await client.close()
        self.clients_left = True
        for days in (2, 6, 2):
            await self._sleep(days * DAY)
            self.storm.calm = False
            await self.begin()
            await self.trouble()
            await self.come_to_rest()
            await self._sweep()
        for days in (4, 4):
            await self._sleep(days * DAY)
            await self.begin()
            await self.come_to_rest()
            await self._sweep()

    async def _sleep(self, seconds: float) -> None:
        """Nobody is there for a while."""
        for process in self.living:
            self.kill(process)
        await asyncio.sleep(seconds)

    async def _sweep(self) -> None:
        """Wait until every owner has looked for what nobody needs."""
        if not self.problems:
            await asyncio.sleep(SWEEP_SECONDS)

    def _keep_one(self) -> None:
        if not self.living:
            self.start_process()

    def keep_owned(self) -> None:
        self._keep_one()
        for where in self.shards:
            if not any(self.serves(process, where) for process in self.living):
                self.chance.choice(self.takers).take(where)


Act = Callable[[ShardWorld, float], None]


def _any(world: ShardWorld) -> Process:
    return world.chance.choice(world.takers)


def _take(world: ShardWorld, drawn: float) -> None:
    _any(world).take(world.chance.choice(world.shards))


def _release(world: ShardWorld, drawn: float) -> None:
    serving = [(process, where) for process in world.takers for where in process.owned]
    if serving:
        process, where = world.chance.choice(serving)
        world.say(f"{process.name} is to release {where}")
        process.release(where)


def _kill(world: ShardWorld, drawn: float) -> None:
    world.kill(_any(world))


def _kill_at_publish(world: ShardWorld, drawn: float) -> None:
    """Kill a process right after it has handed its n-th message over, or just when it arrives."""
    process = _any(world)
    left = world.chance.randint(1, 6)
    delay = world.chance.choice((0.0, 0.001, 0.003))

    def count(client: str, subject: str) -> None:
        nonlocal left
        left -= client == process.name
        if not left:
            world.loop.call_later(delay, world.kill, process)

    world.storm.on_publish = count


def _start(world: ShardWorld, drawn: float) -> None:
    if len(world.living) < 3:
        world.start_process()


def _cut(world: ShardWorld, drawn: float) -> None:
    world.cut(_any(world), drawn * 15.0)


def _cut_all(world: ShardWorld, drawn: float) -> None:
    """The store restarts: everybody is cut off for a moment."""
    for process in world.living:
        world.cut(process, 0.2 + drawn)


def _freeze(world: ShardWorld, drawn: float) -> None:
    world.freeze(_any(world), drawn * 6.0)


def _jump(world: ShardWorld, drawn: float) -> None:
    _any(world).jump((drawn - 0.5) * 20.0)


ACTS: tuple[Act, ...] = (_take, _take, _take, _release, _kill, _kill_at_publish, _start, _cut, _cut_all, _freeze, _jump)
"""What the adversary does, one at a time; drawn: a number from 0 to 1 of its own."""
