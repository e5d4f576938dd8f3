"""Delivery over the store in memory: order through refusals and cuts, and what becomes of frames nobody takes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starling.adapters.memory import MemoryServer
from starling.core import limits
from starling.core.envelope import FrameHeader
from starling.core.ids import PoolName, ShardId
from starling.core.names import MESSAGE_ID, Inlet, Lane, MeshNames, Origin
from starling.core.outbox import Outbox
from starling.core.record import DEAD, Frame, FrameRef, Target
from starling.engine.deliver import Delivery
from starling.engine.shard_info import PoolSettings, ShardStats
from starling.ports.store import StreamSpec
from starling.provision import PoolStreams, dead_letter_stream, shard_streams

POOL = PoolName("p")
NAMES = MeshNames("m").pool(POOL)
TARGET = Target(POOL, "inc", ShardId(0), Lane.NORMAL.value)
LETTERS = Target(POOL, "inc", ShardId(3), DEAD)
SUBJECT = NAMES.inlet_subject(ShardId(0), Inlet(Origin.FRAMES, Lane.NORMAL))


class World:
    """A shard's outbox and its delivery; time passes when it is told to."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._offset = 0.0
        loop.time = lambda: self._time() + self._offset  # type: ignore[method-assign]
        self.server = MemoryServer()
        self.store = self.server.connect("owner")
        self.admin = self.server.connect("admin")
        self.outbox = Outbox()
        settings = PoolSettings(
            mesh="m",
            pool=POOL,
            shards=1,
            incarnation="inc",
            agents={},
            wall=lambda: 0.0,
            timer=lambda: 0.0,
            chance=random.Random(1),
        )
        self.delivery = Delivery(self.store, settings, "inc.3", self.outbox, ShardStats())
        self._added: dict[Target, int] = {}

    def add(self, count: int, target: Target = TARGET) -> None:
        for _ in range(count):
            number = self._added[target] = self._added.get(target, 0) + 1
            frame = Frame(target, number, number - 1, b"%d" % number, f"id-{number}" if target.lane == DEAD else "")
            self.delivery.offer(self.outbox.add(frame, FrameRef(number, 0)))

    async def mailbox(self, limit: int = 1000) -> None:
        _, mailbox = shard_streams(NAMES, ShardId(0), PoolStreams(POOL, shards=1, mailbox_limit=limit), ())
        await self.admin.ensure_stream(mailbox)

    async def stored(self) -> list[tuple[str, int, int, str]]:
        """Source, number and previous number of what the mailbox holds, and its body."""
        page = await self.admin.page(NAMES.mailbox(ShardId(0)), SUBJECT, 1)
        headers = [FrameHeader.decode(message.headers) for message in page]
        return [(h.source, h.number, h.previous, m.data.decode()) for h, m in zip(headers, page, strict=True)]

    async def pass_by(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, a tenth of a second at a time, or until it is a fact."""
        for _ in range(int(seconds * 10)):
            if until():
                return
            self._offset += 0.1
            for _ in range(10):
                await asyncio.sleep(0)

    async def delivered(self) -> None:
        await self.pass_by(30, lambda: not self.outbox.frames)
        assert not self.outbox.frames


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    world = World()
    task = asyncio.get_running_loop().create_task(world.delivery.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def numbered(count: int) -> list[tuple[str, int, int, str]]:
    return [("inc.3", n, n - 1, str(n)) for n in range(1, count + 1)]


async def test_frames_arrive_in_order_with_their_numbers_and_no_message_id() -> None:
    async with running() as world:
        await world.mailbox()
        world.add(5)
        await world.delivered()
        assert await world.stored() == numbered(5)
        page = await world.admin.page(NAMES.mailbox(ShardId(0)), SUBJECT, 1)
        assert all(MESSAGE_ID not in (message.headers or {}) for message in page)
        assert world.outbox.confirmed == {TARGET: 5}


async def test_a_full_mailbox_stops_the_chain_until_there_is_room() -> None:
    async with running() as world:
        await world.mailbox(limit=3)
        world.add(8)
        await world.pass_by(5)
        assert (world.outbox.confirmed, world.outbox.frames) == ({TARGET: 3}, 5)
        await world.admin.purge(NAMES.mailbox(ShardId(0)), SUBJECT, below=3)
        await world.pass_by(5)
        assert world.outbox.confirmed == {TARGET: 5}
        await world.mailbox(limit=100)
        await world.delivered()
        numbers = [number for _, number, _, _ in await world.stored()]
        assert numbers == list(range(3, 9))


async def test_what_was_under_way_at_a_cut_is_sent_again_in_order() -> None:
    async with running() as world:
        await world.mailbox()
        world.add(3)
        await world.delivered()
        world.store.cut()
        world.add(3)
        await world.pass_by(3)
        assert world.outbox.frames == 3
        world.store.mend()
        await world.delivered()
        assert await world.stored() == numbered(6)


async def test_a_target_that_comes_late_gets_everything_in_order() -> None:
    async with running() as world:
        world.add(4)
        await world.pass_by(limits.NO_ROUTE_AFTER - 5)
        assert world.delivery.given_up == []
        await world.mailbox()
        await world.delivered()
        assert await world.stored() == numbered(4)


async def test_a_target_without_a_mailbox_for_a_minute_is_given_up_and_others_are_not_held_up() -> None:
    async with running() as world:
        await world.admin.ensure_stream(dead_letter_stream(NAMES, PoolStreams(POOL, shards=1)))
        world.add(4)
        world.add(2, LETTERS)
        await world.pass_by(5)
        assert world.outbox.confirmed == {LETTERS: 2}
        await world.pass_by(limits.NO_ROUTE_AFTER)
        assert [frame.number for frame in world.delivery.given_up] == [1, 2, 3, 4]
        assert (world.outbox.frames, world.outbox.confirmed) == (0, {LETTERS: 2, TARGET: 4})


async def test_time_without_a_connection_does_not_count_as_a_target_that_is_gone() -> None:
    async with running() as world:
        world.add(4)
        await world.pass_by(5)  # nobody listens, as at the end of a server
        world.store.cut()
        await world.pass_by(limits.NO_ROUTE_AFTER * 2)
        world.store.mend()
        await world.pass_by(limits.NO_ROUTE_AFTER - 10)  # and again, as at the start of one
        assert world.delivery.given_up == []
        await world.mailbox()
        await world.delivered()
        assert await world.stored() == numbered(4)


async def test_a_stream_that_is_there_but_does_not_listen_is_not_given_up() -> None:
    """Such as one that has lost its leader: what is given up could never follow in its chain."""
    async with running() as world:
        name = NAMES.mailbox(ShardId(0))
        await world.admin.ensure_stream(StreamSpec(name=name, subjects=("elsewhere",)))
        world.add(4)
        await world.pass_by(limits.NO_ROUTE_AFTER * 3)
        assert world.delivery.given_up == []
        await world.admin.delete_stream(name)
        await world.mailbox()
        await world.delivered()
        assert await world.stored() == numbered(4)


async def test_a_dead_letter_carries_an_id_so_that_a_repeat_counts_once() -> None:
    async with running() as world:
        await world.admin.ensure_stream(dead_letter_stream(NAMES, PoolStreams(POOL, shards=1)))
        world.add(2, LETTERS)
        await world.delivered()
        page = await world.admin.page(NAMES.dead_letters, NAMES.dead_subject, 1)
        assert [(message.headers or {})[MESSAGE_ID] for message in page] == ["id-1", "id-2"]
