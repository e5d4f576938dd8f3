"""Readers of the NATS adapter, seen from the server: room, lost consumers, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from starling.adapters.nats import EmbeddedServer, NatsStore, connect
from starling.adapters.nats import reader as reader_module
from starling.ports.store import Answer, Reader, StreamSpec

BOUND = 30.0


@pytest.fixture
async def store(private_nats: EmbeddedServer) -> AsyncIterator[NatsStore]:
    made = await connect(private_nats.url, name="test")
    try:
        await made.ensure_stream(StreamSpec(name="s", subjects=("s.>",)))
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


async def _read(reader: Reader, until: int) -> list[int]:
    """Read numbers until one of them comes."""
    got: list[int] = []
    async with asyncio.timeout(BOUND):
        while until not in got:
            got.extend(int(message.data) for message in await reader.read(64, 1 << 20))
    return got


async def _read_ahead(store: NatsStore, count: int, size_bytes: int) -> Reader:
    """Return a reader with messages in its buffer: it asked for them in a read that ended before they came."""
    reader = await store.reader("s", "s.a", after=0)
    reading = asyncio.ensure_future(reader.read(count, 1 << 20))

    async def asked() -> bool:
        (consumer,) = await _consumers(store)
        return bool(consumer["num_waiting"])

    await _until(asked)
    reading.cancel()
    await asyncio.wait({reading})
    for number in range(500):
        await store.publish("s.a", str(number).encode().ljust(size_bytes))
    await _put(store, "s.a", b"500")

    async def all_came() -> bool:
        return await _sent(store) == count

    await _until(all_came)
    return reader


async def test_what_the_server_has_sent_never_exceeds_the_room(store: NatsStore) -> None:
    reader = await _read_ahead(store, 10, 100)
    taken = 0
    async with asyncio.timeout(BOUND):
        for room in (40, 50, 50, 60, 100):
            before = taken
            taken += len(await reader.read(room, 1 << 20))
            await _until(partial(_nothing_asked, store))
            assert await _sent(store) <= before + room
        assert taken > 10
    await reader.close()


async def test_what_the_server_has_sent_never_exceeds_the_room_in_bytes(store: NatsStore) -> None:
    for number in range(100):
        await _put(store, "s.a", str(number).encode().ljust(1000))
    reader = await store.reader("s", "s.a", after=0)
    taken = 0
    async with asyncio.timeout(BOUND):
        while taken < 90:
            before = taken
            taken += len(await reader.read(50, 5000))
            assert await _sent(store) <= before + 5
    await reader.close()


async def test_a_message_lost_on_the_way_comes_all_the_same(private_nats: EmbeddedServer) -> None:
    lost: list[bytes] = []

    def lose_one(data: bytes) -> bytes:
        found = re.search(rb"MSG s\.a [^\r]*\r\n5\r\n", data)
        if found is None or lost:
            return data
        lost.append(found[0])
        return data.replace(found[0], b"")

    proxy = await asyncio.start_server(partial(_pass_on, private_nats.port, lose_one), "127.0.0.1", 0)
    store = await connect(f"nats://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", name="test")
    await store.ensure_stream(StreamSpec(name="s", subjects=("s.>",)))
    reader = await store.reader("s", "s.a", after=0)
    reading = asyncio.ensure_future(_read(reader, until=9))
    for number in range(10):
        await _put(store, "s.a", str(number).encode())
    async with asyncio.timeout(2.0):  # before the next heartbeat could tell
        assert await reading == list(range(10))
    assert lost
    await reader.close()
    await store.close()
    proxy.close()


async def _pass_on(
    port: int, change: Callable[[bytes], bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Pass bytes to a server and back, changing what comes back."""
    there, here = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, edit: Callable[[bytes], bytes]) -> None:
        while data := await source.read(1 << 16):
            target.write(edit(data))
            await target.drain()
        target.close()

    await asyncio.gather(pump(reader, here, lambda data: data), pump(there, writer, change), return_exceptions=True)


async def test_closed_readers_leave_no_consumer_behind(store: NatsStore) -> None:
    readers = [await store.reader("s", "s.a", after=0) for _ in range(5)]
    assert len(await _consumers(store)) == 5
    for reader in readers:
        await reader.close()

    async def none_left() -> bool:
        return not await _consumers(store)

    await _until(none_left)


async def test_a_smaller_room_holds_for_what_was_read_ahead(store: NatsStore) -> None:
    reader = await _read_ahead(store, 50, 100)
    async with asyncio.timeout(BOUND):
        assert len(await reader.read(5, 1 << 20)) == 5
        assert len(await reader.read(50, 350)) == 3
        assert len(await reader.read(50, 10)) == 1
        assert len(await reader.read(100, 1 << 20)) == 41
    await reader.close()


async def test_a_reader_whose_consumer_is_deleted_makes_another(store: NatsStore) -> None:
    reader = await store.reader("s", "s.a", after=0)
    await _put(store, "s.a", b"0")
    assert await _read(reader, until=0) == [0]
    for number in (1, 2):
        reading = asyncio.ensure_future(_read(reader, until=number))
        (consumer,) = await _consumers(store)
        await store.ask(f"$JS.API.CONSUMER.DELETE.s.{consumer['name']}", b"", timeout=5)
        await _put(store, "s.a", str(number).encode())
        async with asyncio.timeout(3.0):  # the server says it: nobody waits for a silence
            assert await reading == [number]
    await reader.close()


async def test_a_reader_whose_consumer_falls_silent_makes_another(
    store: NatsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "SILENCE", 0.3)
    reader = await store.reader("s", "s.a", after=0)
    reading = asyncio.ensure_future(_read(reader, until=0))
    (first,) = await _consumers(store)

    async def another() -> bool:
        consumers = await _consumers(store)
        return len(consumers) == 1 and consumers[0]["name"] != first["name"]

    await _until(another)
    await _put(store, "s.a", b"0")
    assert await reading == [0]
    await reader.close()


async def _nothing_asked(store: NatsStore) -> bool:
    (consumer,) = await _consumers(store)
    return not consumer["num_waiting"]


async def _sent(store: NatsStore) -> int:
    """Messages that the server has sent to the one reader."""
    (consumer,) = await _consumers(store)
    return int(consumer["delivered"]["consumer_seq"])


async def _consumers(store: NatsStore) -> list[dict[str, Any]]:
    answer = await store.ask("$JS.API.CONSUMER.LIST.s", b"", timeout=5)
    assert answer is not None
    found: list[dict[str, Any]] = json.loads(answer)["consumers"] or []
    return found
