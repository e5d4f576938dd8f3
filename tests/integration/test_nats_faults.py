"""The NATS adapter while its server is killed, frozen and started again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starling.adapters.nats import EmbeddedServer, NatsStore, connect, link
from starling.core import limits
from starling.core.names import bucket_stream, bucket_subject
from starling.errors import SpecError, Unreachable
from starling.ports.store import (
    Answer,
    BucketSpec,
    Reader,
    Signal,
    Stored,
    StreamSpec,
    Unknown,
)

BOUND = 30.0
STREAM = StreamSpec(name="s", subjects=("s.>",))


@pytest.fixture
async def store(private_nats: EmbeddedServer) -> AsyncIterator[NatsStore]:
    made = await connect(private_nats.url, name="test")
    try:
        await made.ensure_stream(STREAM)
        yield made
    finally:
        await made.close()


async def _put(store: NatsStore, subject: str, data: bytes = b"") -> Answer:
    async with asyncio.timeout(BOUND):
        return await (await store.publish(subject, data))


async def _until(fact: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is a fact."""
    async with asyncio.timeout(BOUND):
        while not await fact():
            await asyncio.sleep(0.01)


async def _connected(store: NatsStore, *, since: float | None = None) -> float:
    """Wait for a connection made after `since`, and return when it was made."""
    now: float | None = None

    async def connected() -> bool:
        nonlocal now
        now = store.connected_since
        return now is not None and now != since

    await _until(connected)
    assert now is not None
    return now


async def _away(store: NatsStore) -> None:
    async def away() -> bool:
        return store.connected_since is None

    await _until(away)


async def _read(reader: Reader, until: int) -> list[int]:
    """Read numbers until one of them comes."""
    got: list[int] = []
    async with asyncio.timeout(BOUND):
        while until not in got:
            got.extend(int(message.data) for message in await reader.read(64, 1 << 20))
    return got


async def test_while_the_server_is_away_publishing_fails_at_once(
    private_nats: EmbeddedServer, store: NatsStore
) -> None:
    before = await _connected(store)
    await private_nats.kill()
    await _away(store)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(Unreachable):
        await store.publish("s.a", b"never")
    with pytest.raises(Unreachable):
        await store.signal("s.a", b"never")
    with pytest.raises(Unreachable):
        await store.last("s", "s.a")
    with pytest.raises(Unreachable):
        await store.stream_info("s")
    assert loop.time() - started < 1.0
    await private_nats.start()
    assert await _connected(store) > before
    assert await _put(store, "s.a", b"first") == Stored(1)
    page = await store.page("s", "s.a", 1)
    assert [message.data for message in page] == [b"first"]


async def test_publishes_in_flight_all_get_an_answer_that_is_true(
    private_nats: EmbeddedServer, store: NatsStore
) -> None:
    answers: list[asyncio.Future[Answer]] = []
    enough, stopped = asyncio.Event(), asyncio.Event()

    async def publish() -> None:
        for number in range(1_000_000):
            try:
                answers.append(asyncio.ensure_future(await store.publish("s.a", str(number).encode())))
            except Unreachable:
                break
            if number >= 500 and answers[200].done():
                enough.set()
            await asyncio.sleep(0)
        stopped.set()

    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:
        tasks.create_task(publish())
        await enough.wait()
        await private_nats.kill()
        await stopped.wait()
        results = await asyncio.gather(*answers)
    assert {type(answer) for answer in results} <= {Stored, Unknown}
    sequences = [answer.sequence for answer in results if isinstance(answer, Stored)]
    assert sequences == list(range(1, len(sequences) + 1))
    assert len(sequences) >= 100
    await private_nats.start()
    await _connected(store)
    info = await store.stream_info("s")
    assert info is not None
    assert info.last_sequence >= len(sequences)


async def test_a_question_under_way_ends_when_the_connection_is_cut(
    private_nats: EmbeddedServer, store: NatsStore
) -> None:
    private_nats.pause()
    asking = asyncio.ensure_future(store.stream_info("s"))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await private_nats.kill()
    with pytest.raises(Unreachable):
        await asking
    assert loop.time() - started < limits.STORE_TIMEOUT / 2


@pytest.mark.parametrize("patient", [True, False])
async def test_an_interest_that_the_server_confirms_too_late_does_not_make_the_connection_deaf(
    private_nats: EmbeddedServer, store: NatsStore, patient: bool
) -> None:
    since = await _connected(store)
    private_nats.pause()
    listening = asyncio.ensure_future(store.listen("s.late", lambda signal: None))
    if patient:
        with pytest.raises(Unreachable, match="could not subscribe"):
            await listening
    else:
        await asyncio.sleep(0.2)  # it is on its way; the server stands still
        assert not listening.done()
        listening.cancel()
    private_nats.resume()
    async with asyncio.timeout(link.PING_INTERVAL / 2):  # far less than pings need to find a deaf one
        for number in range(20):
            assert isinstance(await (await store.publish("s.a", b"")), Stored), number
    assert store.connected_since == since


async def test_a_reader_goes_on_where_it_was_over_restarts(private_nats: EmbeddedServer, store: NatsStore) -> None:
    reader = await store.reader("s", "s.a", after=0)
    got: list[int] = []
    number = 0
    for _ in range(3):
        for _ in range(200):
            assert isinstance(await _put(store, "s.a", str(number).encode()), Stored)
            number += 1
        got += await _read(reader, until=number - 50)
        since = await _connected(store)
        await private_nats.restart()
        await _connected(store, since=since)
    assert isinstance(await _put(store, "s.a", str(number).encode()), Stored)
    got += await _read(reader, until=number)
    assert got == list(range(number + 1))
    await reader.close()


async def test_a_waiting_reader_hears_the_first_message_after_a_restart(
    private_nats: EmbeddedServer, store: NatsStore
) -> None:
    reader = await store.reader("s", "s.a", after=0)
    reading = asyncio.ensure_future(reader.read(64, 1 << 20))
    since = await _connected(store)
    await private_nats.restart()
    await _connected(store, since=since)
    await _put(store, "s.a", b"1")
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(BOUND):
        assert [message.data for message in await reading] == [b"1"]
    assert loop.time() - started < 3.0
    await reader.close()


async def test_last_values_go_on_over_a_restart(private_nats: EmbeddedServer, store: NatsStore) -> None:
    await store.ensure_bucket(BucketSpec("b"))
    for key in range(10):
        await _put(store, bucket_subject("b", str(key)), str(key).encode())
    reader = await store.reader(bucket_stream("b"), bucket_subject("b", ">"), after=None)
    async with asyncio.timeout(BOUND):
        got = [int(message.data) for message in await reader.read(4, 1 << 20)]
    since = await _connected(store)
    await private_nats.restart()
    await _connected(store, since=since)
    await _put(store, bucket_subject("b", "0"), b"10")
    got += await _read(reader, until=10)
    assert got == list(range(11))
    await reader.close()


async def test_listeners_hear_again_after_a_restart(private_nats: EmbeddedServer, store: NatsStore) -> None:
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    await store.listen("x.a", heard.put_nowait)
    since = await _connected(store)
    await private_nats.restart()
    await _connected(store, since=since)
    await store.signal("x.a", b"1")
    async with asyncio.timeout(BOUND):
        assert await heard.get() == Signal("x.a", b"1", "")


async def test_a_frozen_server_makes_publishes_unknown_after_the_time_limit(
    private_nats: EmbeddedServer, store: NatsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_TIMEOUT", 0.5)
    private_nats.pause()
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(BOUND):
        answers = [await store.publish("s.a", b"x") for _ in range(10)]
        assert {type(await answer) for answer in answers} == {Unknown}
    assert 0.4 < loop.time() - started < 3.0
    private_nats.resume()

    async def stored() -> bool:
        return isinstance(await _put(store, "s.a", b"y"), Stored)

    await _until(stored)


async def test_a_frozen_server_that_takes_no_bytes_is_left_and_found_again(
    private_nats: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PING_INTERVAL", 0.2)
    monkeypatch.setattr(limits, "STORE_TIMEOUT", 2.0)
    store = await connect(private_nats.url, name="test")
    await store.ensure_stream(STREAM)
    since = await _connected(store)
    private_nats.pause()
    answers: list[asyncio.Future[Answer]] = []

    async def flood() -> None:
        while True:
            answers.append(asyncio.ensure_future(await store.publish("s.a", b"x" * 500_000)))

    async with asyncio.timeout(BOUND):
        with pytest.raises(Unreachable):
            await flood()
        assert len(answers) < 100
        assert {type(answer) for answer in await asyncio.gather(*answers)} == {Unknown}
    await _away(store)
    private_nats.resume()
    await _connected(store, since=since)
    assert isinstance(await _put(store, "s.b", b"y"), Stored)
    await store.close()


async def test_a_server_that_is_not_there_is_unreachable_within_the_timeout(private_nats: EmbeddedServer) -> None:
    await private_nats.kill()
    with pytest.raises(Unreachable, match="no NATS server at"):
        await connect(private_nats.url, name="test", timeout=0.5)
    with pytest.raises(SpecError):
        await connect(" , ", name="test")


async def test_one_of_two_addresses_is_enough(private_nats: EmbeddedServer) -> None:
    store = await connect(f"nats://127.0.0.1:9, {private_nats.url}", name="test")
    assert await store.ensure_stream(STREAM)
    await store.close()
