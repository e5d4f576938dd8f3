"""What the weather of the memory store does: messages lost, late or overtaken, cuts, replicas that lag."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from starling.adapters.memory import MemoryServer, MemoryStore, Trip, Weather
from starling.errors import SpecError, Unreachable
from starling.ports.store import Answer, Message, Refused, Signal, Stored, StreamSpec, Unknown

from .loop import VirtualLoop, run


class Sky(Weather):
    """The next trips of publishes and requests, and the rest as the test says."""

    def __init__(self) -> None:
        self.trips: list[Trip] = []
        self.requests: list[Trip] = []
        self.follower: tuple[int, int] | None = None
        self.slow_reader = 0.0
        self.deaf = False
        self.late_after_cut: float | None = None

    def publish(self, client: str, subject: str) -> Trip:
        return self.trips.pop(0) if self.trips else Trip()

    def request(self, client: str) -> Trip:
        return self.requests.pop(0) if self.requests else Trip()

    def signal(self, client: str, subject: str) -> float | None:
        return None if self.deaf else 0.0

    def delivery(self, client: str, stream: str) -> float:
        return self.slow_reader

    def replica(self, client: str, stream: str) -> tuple[int, int] | None:
        return self.follower

    def cut(self, client: str) -> float | None:
        return self.late_after_cut


Test = Callable[..., Coroutine[Any, Any, None]]


def with_store(test: Test) -> Callable[..., None]:
    """Give the test a store with a stream, and its weather, in virtual time."""

    def run_it(**chosen: Any) -> None:
        async def main() -> None:
            sky = Sky()
            store = MemoryServer(weather=sky).connect("client")
            await store.ensure_stream(StreamSpec(name="s", subjects=("s.>",)))
            await test(store, sky, **chosen)

        run(VirtualLoop(random.Random(0)), main)

    run_it.__name__ = test.__name__
    parameters = list(inspect.signature(test).parameters.values())[2:]
    run_it.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run_it


async def put(store: MemoryStore, data: bytes) -> Answer:
    return await (await store.publish("s.a", data))


async def contents(store: MemoryStore) -> list[bytes]:
    return [message.data for message in await store.page("s", "s.a", 1)]


@with_store
async def test_a_lost_message_is_unknown_and_not_stored(store: MemoryStore, sky: Sky) -> None:
    sky.trips = [Trip(None, None)]
    assert isinstance(await put(store, b"1"), Unknown)
    assert await contents(store) == []


@with_store
async def test_a_lost_answer_is_unknown_and_the_message_is_stored(store: MemoryStore, sky: Sky) -> None:
    sky.trips = [Trip(0.0, None)]
    assert isinstance(await put(store, b"1"), Unknown)
    assert await contents(store) == [b"1"]


@with_store
async def test_an_answer_after_the_time_limit_is_unknown(store: MemoryStore, sky: Sky) -> None:
    sky.trips = [Trip(0.0, 6.0)]
    assert isinstance(await put(store, b"1"), Unknown)


@with_store
async def test_slow_messages_of_a_connection_keep_their_order_and_late_ones_are_overtaken(
    store: MemoryStore, sky: Sky
) -> None:
    sky.trips = [Trip(0.03), Trip(0.0), Trip(0.03, late=True), Trip(0.0)]
    answers = [await store.publish("s.a", data) for data in (b"1", b"2")]
    await asyncio.gather(*answers)
    answers += [await store.publish("s.a", data) for data in (b"late", b"next")]
    assert [answer.sequence for answer in await asyncio.gather(*answers) if isinstance(answer, Stored)] == [1, 2, 4, 3]
    assert await contents(store) == [b"1", b"2", b"next", b"late"]


@pytest.mark.parametrize("late", [None, 0.01])
@with_store
async def test_what_is_under_way_at_a_cut_is_unknown_and_lost_or_late(
    store: MemoryStore, sky: Sky, late: float | None
) -> None:
    sky.trips, sky.late_after_cut = [Trip(0.005)], late
    answer = await store.publish("s.a", b"1")
    store.cut()
    assert isinstance(await answer, Unknown)
    with pytest.raises(Unreachable):
        await store.publish("s.a", b"2")
    await VirtualLoop.running().until(1.0)
    store.mend()
    assert await contents(store) == ([] if late is None else [b"1"])


@with_store
async def test_a_cut_ends_requests_and_a_closed_store_is_not_mended(store: MemoryStore, sky: Sky) -> None:
    sky.requests = [Trip(0.02)]
    asking = asyncio.ensure_future(store.last("s", "s.a"))
    await asyncio.sleep(0)
    store.cut()
    with pytest.raises(Unreachable, match="cut"):
        await asking
    await store.close()
    store.mend()
    assert store.connected_since is None


@pytest.mark.parametrize("trip", [Trip(None, None), Trip(0.0, None)], ids=["not done", "done"])
@with_store
async def test_a_request_without_an_answer_is_unreachable(store: MemoryStore, sky: Sky, trip: Trip) -> None:
    await put(store, b"1")
    sky.requests = [trip]
    with pytest.raises(Unreachable):
        await store.purge("s", "s.a", below=2)
    assert await contents(store) == ([b"1"] if trip.arrives is None else [])


@with_store
async def test_a_follower_shows_an_older_view_and_never_goes_back(store: MemoryStore, sky: Sky) -> None:
    for data in (b"1", b"2", b"3"):
        await put(store, data)
    sky.follower = (0, 2)
    assert (await store.last_values("s", ["s.a"])).up_to == 1
    sky.follower = (0, 1)
    assert await contents(store) == [b"1", b"2"]
    sky.follower = (0, 3)
    assert await contents(store) == [b"1", b"2"]
    sky.follower = None
    assert await contents(store) == [b"1", b"2", b"3"]


@with_store
async def test_a_follower_shows_what_the_leader_has_purged_until_it_has_heard_of_it(
    store: MemoryStore, sky: Sky
) -> None:
    await put(store, b"1")
    await put(store, b"2")
    await store.purge("s", "s.a", below=2)
    sky.follower = (1, 1)
    assert await contents(store) == [b"1", b"2"]
    sky.follower = (1, 0)
    assert await contents(store) == [b"2"]


@with_store
async def test_a_reader_behind_a_slow_network_gets_everything_in_order_and_waits_out_a_cut(
    store: MemoryStore, sky: Sky
) -> None:
    sky.slow_reader = 0.005
    reader = await store.reader("s", "s.a", after=0)
    other = MemoryStore(store._server, "writer", asyncio.get_running_loop())
    await put(other, b"1")
    store.cut()
    await put(other, b"2")
    reading = asyncio.ensure_future(reader.read(8, 1 << 20))
    assert not (await asyncio.wait({reading}, timeout=0.03))[0]
    store.mend()
    got: list[Message] = []
    async with asyncio.timeout(5):
        got += await reading
        while len(got) < 2:
            got += await reader.read(8, 1 << 20)
    assert [message.data for message in got] == [b"1", b"2"]


@with_store
async def test_who_is_cut_off_hears_nothing_and_is_no_responder(store: MemoryStore, sky: Sky) -> None:
    heard: list[Signal] = []
    other = MemoryStore(store._server, "other", asyncio.get_running_loop())
    await store.listen("news", heard.append)
    store.cut()
    assert await other.ask("news", b"", timeout=5.0) is None
    store.mend()
    sky.deaf = True
    await other.signal("news", b"lost")
    sky.deaf = False
    await other.signal("news", b"heard")
    async with asyncio.timeout(5):
        while not heard:
            await asyncio.sleep(0)
    assert [signal.data for signal in heard] == [b"heard"]


@with_store
async def test_streams_whose_subjects_overlap_are_refused_and_so_is_a_subject_of_none(
    store: MemoryStore, sky: Sky
) -> None:
    with pytest.raises(SpecError, match=r"stream t: its subjects overlap with s\.> of stream s"):
        await store.ensure_stream(StreamSpec(name="t", subjects=("s.b",)))
    answer = await (await store.publish("u", b""))
    assert isinstance(answer, Refused)
    assert answer.why == "no-stream"
