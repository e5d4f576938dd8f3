"""Messages from outside: repeated until their outcome is known, never so late that a repeat could count twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable

import pytest
from starling.adapters.memory import MemoryServer, Trip, Weather
from starling.adapters.memory.store import MemoryStore
from starling.core import limits
from starling.core.envelope import Envelope, open_frame
from starling.core.ids import AgentId, PoolName, ShardId
from starling.core.names import MESSAGE_ID, Inlet, Lane, MeshNames, Origin
from starling.core.routes import PoolRoute, Target
from starling.engine.producer import Accepted, Producer
from starling.errors import MailboxFull, OutcomeUnknown, UnknownPool, Unreachable
from starling.ports.store import Answer, Expect, Headers, Message, Store
from starling.provision import PoolStreams, shard_streams

POOL = PoolName("p")
NAMES = MeshNames("m").pool(POOL)
SUBJECT = NAMES.inlet_subject(ShardId(0), Inlet(Origin.OUTSIDE, Lane.NORMAL))
TARGET = Target(AgentId("a", "k"), PoolRoute(POOL, 1, "inc"), ShardId(0))


class Clock:
    """The loop's time, pushed forward."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._offset = 0.0
        loop.time = lambda: self._time() + self._offset  # type: ignore[method-assign]

    async def until(self, future: asyncio.Future[Accepted], bound: float = 120.0) -> float:
        """Let time pass until the future ends; return how much did."""
        start = asyncio.get_running_loop().time()
        while not future.done():
            assert asyncio.get_running_loop().time() - start < bound
            self._offset += 0.1
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time() - start


class Losing(Weather):
    """Loses answers, or whole messages, of the first publishes."""

    def __init__(self, count: int, *, arrives: float | None = 0.0) -> None:
        self.left = count
        self._arrives = arrives
        self.sent: list[float] = []

    def publish(self, client: str, subject: str) -> Trip:
        self.sent.append(asyncio.get_running_loop().time())
        self.left -= 1
        return Trip(self._arrives, None) if self.left >= 0 else Trip()


class World:
    """A mailbox and a producer."""

    def __init__(self, weather: Weather | None = None) -> None:
        self.server = MemoryServer(weather=weather)
        self.store = self.server.connect("client")
        self.producer = Producer(self.store, "m", "tester", random.Random(1))

    async def mailbox(self, limit: int = 1000) -> None:
        _, mailbox = shard_streams(NAMES, ShardId(0), PoolStreams(POOL, shards=1, mailbox_limit=limit), ())
        await self.server.connect("admin").ensure_stream(mailbox)

    async def frames(self) -> list[Message]:
        reader: Store = self.server.connect("admin")
        return list(await reader.page(NAMES.mailbox(ShardId(0)), SUBJECT, 1))

    async def numbers(self) -> list[int]:
        return [int(Envelope.from_map(value).body) for frame in await self.frames() for value in open_frame(frame.data)]

    def put(self, number: int, *, user_id: str | None = None, patient: bool = False) -> asyncio.Future[Accepted]:
        envelope = Envelope(id=f"i{number}", type="int", body=str(number).encode(), target=TARGET.agent)
        return self.producer.put(TARGET, envelope, user_id=user_id, patient=patient)


async def test_a_lost_answer_is_asked_for_again_with_the_same_id_and_counts_once() -> None:
    world = World(Losing(1))
    await world.mailbox()
    clock = Clock()
    first, second = world.put(1), world.put(2, user_id="mine")
    await clock.until(second)
    assert first.result() == Accepted(1, duplicate=False)
    assert await world.numbers() == [1, 2]
    await world.producer.close()


async def test_order_is_kept_while_answers_are_lost() -> None:
    world = World(Losing(4))
    await world.mailbox()
    clock = Clock()
    futures = [world.put(number, user_id=f"u{number}") for number in range(6)]
    await clock.until(futures[-1])
    assert await world.numbers() == list(range(6))
    await world.producer.close()


@pytest.mark.parametrize("arrives", [0.0, None], ids=["stored", "lost"])
async def test_after_the_dedupe_window_nobody_can_say_and_nothing_is_sent_again(arrives: float | None) -> None:
    weather = Losing(1000, arrives=arrives)
    world = World(weather)
    await world.mailbox()
    clock = Clock()
    future = world.put(1, user_id="mine")
    passed = await clock.until(future)
    with pytest.raises(OutcomeUnknown, match="a repeat might count twice"):
        future.result()
    assert passed < limits.DEDUPE_WINDOW + limits.STORE_TIMEOUT
    assert weather.sent[-1] - weather.sent[0] < limits.DEDUPE_WINDOW - limits.STORE_TIMEOUT + 1.0
    assert len(weather.sent) > 2
    assert await world.numbers() == ([1] if arrives is not None else [])
    weather.left = 0
    after = world.put(2)
    await clock.until(after)
    assert (await world.numbers())[-1] == 2
    await world.producer.close()


async def test_what_was_certainly_not_sent_waits_for_the_store_as_long_as_its_caller_does() -> None:
    world = World()
    await world.mailbox()
    clock = Clock()
    world.store.cut()
    future = world.put(1, user_id="mine")
    loop = asyncio.get_running_loop()
    end = loop.time() + 4 * limits.DEDUPE_WINDOW
    while loop.time() < end:
        clock._offset += 0.1
        await asyncio.sleep(0)
    assert not future.done()
    world.store.mend()
    await clock.until(future)
    assert await world.numbers() == [1]
    await world.producer.close()


async def test_a_mailbox_that_is_missing_for_a_moment_is_waited_for() -> None:
    world = World()
    clock = Clock()
    future = world.put(1)
    await asyncio.sleep(0)
    await world.mailbox()
    assert await clock.until(future) < limits.NO_STREAM_PATIENCE
    assert await world.numbers() == [1]
    await world.producer.close()


async def test_a_mailbox_that_stays_missing_is_an_unknown_pool() -> None:
    world = World()
    clock = Clock()
    future = world.put(1)
    assert await clock.until(future) < 2 * limits.NO_STREAM_PATIENCE
    with pytest.raises(UnknownPool, match="is the pool applied"):
        future.result()
    await world.producer.close()


@pytest.mark.row("RT-25", part="a full mailbox refuses or makes the sender wait, by policy")
async def test_a_full_mailbox_refuses_or_makes_the_sender_wait() -> None:
    world = World()
    await world.mailbox(limit=1)
    clock = Clock()
    await clock.until(world.put(1))
    refused, waiting, behind = world.put(2), world.put(3, patient=True), world.put(4, patient=True)
    await clock.until(refused)
    with pytest.raises(MailboxFull):
        refused.result()
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await world.server.connect("admin").purge(NAMES.mailbox(ShardId(0)), SUBJECT, 2)
    await clock.until(waiting)
    await clock.until(behind)
    assert await world.numbers() == [3, 4]
    await world.producer.close()


@pytest.mark.parametrize("user_id", [None, "mine"])
async def test_a_mailbox_that_is_full_after_a_try_without_an_answer_leaves_the_outcome_open(
    user_id: str | None,
) -> None:
    weather = Losing(0, arrives=None)
    world = World(weather)
    await world.mailbox(limit=1)
    clock = Clock()
    await clock.until(world.put(1))
    weather.left = 1
    unsure = world.put(2, user_id=user_id)
    await clock.until(unsure)
    with pytest.raises(OutcomeUnknown, match="full now; an earlier try had no answer"):
        unsure.result()
    await world.producer.close()


async def test_packed_envelopes_are_stored_as_one_frame_and_a_repeat_of_its_id_counts_once() -> None:
    world = World()
    await world.mailbox()
    clock = Clock()
    packed = [Envelope(id=str(n), type="int", body=str(n).encode(), target=TARGET.agent).pack() for n in range(1000)]
    for expected in (False, True):
        future = world.producer.put_frame(POOL, ShardId(0), packed, frame_id="batch")
        await clock.until(future)
        assert future.result() == Accepted(1, duplicate=expected)
    other = world.producer.put_frame(POOL, ShardId(0), packed[:1], frame_id="other")
    await clock.until(other)
    frames = await world.frames()
    assert [len(open_frame(frame.data)) for frame in frames] == [1000, 1]
    assert len({(frame.headers or {})[MESSAGE_ID] for frame in frames}) == 2
    await world.producer.close()


async def test_closing_ends_what_is_under_way_as_unknown_and_what_waits_as_not_sent() -> None:
    world = World(Losing(1000))
    await world.mailbox()
    under_way, waiting = world.put(1, user_id="a"), world.put(2, user_id="b")
    await asyncio.sleep(0)
    await world.producer.close()
    with pytest.raises(OutcomeUnknown, match="closed before"):
        under_way.result()
    with pytest.raises(Unreachable, match="was closed before the message was stored"):
        waiting.result()


async def test_a_message_is_sent_by_its_put_and_what_comes_before_the_answer_shares_the_next_frame() -> None:
    world = World()
    await world.mailbox()
    first = world.put(1)
    assert await world.numbers() == [1]
    last = [world.put(number) for number in range(2, 6)][-1]
    assert await last == Accepted(2, duplicate=False)
    assert first.result() == Accepted(1, duplicate=False)
    assert [len(open_frame(frame.data)) for frame in await world.frames()] == [1, 4]
    await world.producer.close()


async def test_a_frame_without_ids_whose_answer_is_lost_is_stored_once_before_what_came_meanwhile() -> None:
    world = World(Losing(2))
    await world.mailbox()
    clock = Clock()
    futures = [world.put(number) for number in range(4)]
    await clock.until(futures[-1])
    assert [future.result().sequence for future in futures] == [1, 2, 2, 2]
    assert await world.numbers() == [0, 1, 2, 3]
    await world.producer.close()


async def test_closing_ends_a_frame_that_was_sent_without_a_task_as_unknown() -> None:
    world = World(Losing(1000))
    await world.mailbox()
    under_way, waiting = world.put(1), world.put(2)
    await world.producer.close()
    with pytest.raises(OutcomeUnknown, match="closed before"):
        under_way.result()
    with pytest.raises(Unreachable, match="was closed before the message was stored"):
        waiting.result()


class Slow(MemoryStore):
    """Takes a message only after a wait."""

    async def publish(
        self, subject: str, data: bytes, headers: Headers | None = None, expect: Expect | None = None
    ) -> Awaitable[Answer]:
        await asyncio.sleep(0.001)
        return await super().publish(subject, data, headers, expect)


async def test_a_store_that_has_no_room_at_once_gets_the_message_when_it_has() -> None:
    world = World()
    await world.mailbox()
    slow = Producer(Slow(world.server, "slow", asyncio.get_running_loop()), "m", "slow", random.Random(1))
    world.producer = slow
    async with asyncio.timeout(5):
        assert [(await future).sequence for future in [world.put(1), world.put(2)]] == [1, 2]
    assert await world.numbers() == [1, 2]
    await slow.close()
