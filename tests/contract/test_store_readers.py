"""Readers: order, room, position, last values, expiry."""

from __future__ import annotations

import asyncio

import pytest
from starling.core.names import bucket_subject
from starling.errors import UnknownPool
from starling.ports.store import Message, Reader, Store, Stored, is_removal

from .conftest import BOUND, World, has_caught_up, put, read_until


def _numbers(messages: list[Message]) -> list[int]:
    return [int(message.data) for message in messages]


async def _fill(store: Store, subject: str, numbers: range) -> None:
    """Publish the numbers and wait until the last one is stored."""
    for number in numbers[:-1]:
        await store.publish(subject, str(number).encode())
    assert isinstance(await put(store, subject, str(numbers[-1]).encode()), Stored)


async def _next(reader: Reader) -> Message:
    return (await read_until(reader, 1))[0]


async def test_a_reader_gives_what_is_there_and_what_comes_in_order(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await _fill(store, f"{s}.a", range(500))
    reader = await store.reader(name, f"{s}.a", after=0)
    await _fill(store, f"{s}.b", range(3))
    await _fill(store, f"{s}.a", range(500, 800))
    got = await read_until(reader, 800)
    assert _numbers(got) == list(range(800))
    assert [message.sequence for message in got] == [*range(1, 501), *range(504, 804)]
    assert {message.subject for message in got} == {f"{s}.a"}
    await reader.close()


async def test_a_reader_starts_after_its_position(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await _fill(store, f"{s}.a", range(1, 11))
    reader = await store.reader(name, f"{s}.a", after=7)
    assert _numbers(await read_until(reader, 3)) == [8, 9, 10]
    await reader.close()


async def test_a_reader_may_start_beyond_the_end(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await _fill(store, f"{s}.a", range(1, 3))
    reader = await store.reader(name, f"{s}.a", after=2)
    assert reader.caught_up
    await _fill(store, f"{s}.a", range(3, 4))
    assert (await _next(reader)).sequence == 3
    await reader.close()


async def test_messages_carry_headers_and_time(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await put(store, f"{s}.a", b"x", headers={"St-No": "4"})
    await put(store, f"{s}.a", b"y")
    reader = await store.reader(name, f"{s}.a", after=0)
    first, second = await read_until(reader, 2)
    last = await store.last(name, f"{s}.a")
    assert last is not None
    assert first.headers == {"St-No": "4"}
    assert second.headers is None
    assert second.time == pytest.approx(last.time, abs=1e-3)
    assert first.time <= second.time
    await reader.close()


async def test_no_read_returns_more_than_the_room_it_was_given(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await _fill(store, f"{s}.a", range(100))
    reader = await store.reader(name, f"{s}.a", after=0)
    got: list[Message] = []
    async with asyncio.timeout(BOUND):
        for room in (1, 7, 3, 50, 2, 100):
            part = await reader.read(room, 1 << 20)
            assert 1 <= len(part) <= room
            got.extend(part)
        while len(got) < 100:
            got.extend(await reader.read(100, 1 << 20))
    assert _numbers(got) == list(range(100))
    await reader.close()


async def test_room_in_bytes_is_kept_and_one_larger_message_passes_all_the_same(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for number in range(6):
        await put(store, f"{s}.a", str(number).encode().ljust(1000))
    await put(store, f"{s}.a", b"6".ljust(50_000))
    await put(store, f"{s}.a", b"7")
    reader = await store.reader(name, f"{s}.a", after=0)
    got: list[Message] = []
    async with asyncio.timeout(BOUND):
        while len(got) < 8:
            part = await reader.read(64, 2500)
            assert len(part) == 1 or sum(len(message.data) for message in part) <= 2500
            got.extend(part)
    assert _numbers(got) == list(range(8))
    await reader.close()


@pytest.mark.parametrize("taken", [{*range(60)}, set(), {*range(0, 60, 2)}, {*range(30, 60)}], ids=str)
async def test_what_is_handed_over_does_not_come_by_reading_and_the_order_holds(
    world: World, store: Store, taken: set[int]
) -> None:
    name, s = await world.stream(store)
    await _fill(store, f"{s}.a", range(5))
    reader = await store.reader(name, f"{s}.a", after=0)
    seen: list[int] = []

    def accept(message: Message) -> bool:
        number = int(message.data)
        if number not in taken:
            return False
        seen.append(number)
        return True

    reader.hand_over(accept)

    async def read() -> None:
        while len(seen) < 60:  # a room of ten: what was handed over must not use it up for good
            seen.extend(_numbers(list(await reader.read(10, 1 << 20))))

    reading = asyncio.ensure_future(read())
    try:
        async with asyncio.timeout(BOUND):
            while len(seen) < 5:
                await asyncio.sleep(0.001)
            await _fill(store, f"{s}.a", range(5, 60))
            while len(seen) < 60:
                await asyncio.sleep(0.001)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert seen == list(range(60))
    assert reader.pending == 0
    assert has_caught_up(reader)
    await reader.close()


async def test_nothing_is_handed_over_while_nobody_reads(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await _fill(store, f"{s}.a", range(3))
    reader = await store.reader(name, f"{s}.a", after=0)
    assert _numbers(await read_until(reader, 3)) == [0, 1, 2]  # with room for more, which comes although nobody reads
    handed: list[Message] = []

    def accept(message: Message) -> bool:
        handed.append(message)
        return True

    reader.hand_over(accept)
    await _fill(store, f"{s}.a", range(3, 6))
    async with asyncio.timeout(BOUND):
        while reader.pending < 3:
            await asyncio.sleep(0.001)
    assert _numbers(await read_until(reader, 3)) == [3, 4, 5]
    assert handed == []
    await reader.close()


async def test_pending_counts_what_has_not_been_delivered(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await _fill(store, f"{s}.a", range(20))
    async with asyncio.timeout(BOUND):
        while (reader := await store.reader(name, f"{s}.a", after=5)).pending != 15:
            assert world.kind == "cluster"  # a replica that lags counts what it has: open it again
            await reader.close()
    assert not has_caught_up(reader)
    got = await read_until(reader, 5, messages=5)
    assert _numbers(got) == [5, 6, 7, 8, 9]
    assert reader.pending == 10
    assert not has_caught_up(reader)
    await read_until(reader, 10)
    assert reader.pending == 0
    assert has_caught_up(reader)
    await reader.close()


async def test_a_reader_of_an_empty_subject_has_caught_up_at_once(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await put(store, f"{s}.other")
    for after in (0, None):
        reader = await store.reader(name, f"{s}.a", after=after)
        assert reader.caught_up
        assert reader.pending == 0
        await reader.close()


async def test_without_a_position_a_reader_gives_last_values_and_then_everything(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for key, data in (("a", b"1"), ("b", b"2"), ("a", b"3"), ("c", b"4"), ("b", b"5")):
        await put(store, f"{s}.{key}", data)
    reader = await store.reader(name, f"{s}.>", after=None)
    got = _numbers(await read_until(reader, 3))
    if world.kind == "cluster" and got[-1] != 5:  # a replica may have started from what it had, and gone on
        got += _numbers(await read_until(reader, 5 - got[-1]))
    assert got[-3:] == [3, 4, 5]
    assert reader.caught_up
    for data in (b"6", b"7"):
        await put(store, f"{s}.a", data)
    assert _numbers(await read_until(reader, 2)) == [6, 7]
    await reader.close()


async def test_a_cancelled_read_loses_nothing(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    reader = await store.reader(name, f"{s}.a", after=0)
    got: list[int] = []
    for number in range(30):
        reading = asyncio.ensure_future(reader.read(8, 1 << 20))
        await put(store, f"{s}.a", str(number).encode())
        reading.cancel()
        await asyncio.wait({reading})
        if not reading.cancelled():
            got.extend(_numbers(list(reading.result())))
    got.extend(_numbers(await read_until(reader, 30 - len(got), messages=8)))
    assert got == list(range(30))
    await reader.close()


async def test_a_reader_waits_for_the_next_message(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    reader = await store.reader(name, f"{s}.a", after=0)
    reading = asyncio.ensure_future(reader.read(8, 1 << 20))
    writer = await world.connect("writer")
    await put(writer, f"{s}.a", b"0")
    async with asyncio.timeout(BOUND):
        assert _numbers(list(await reading)) == [0]
    await reader.close()


async def test_two_readers_of_one_subject_both_get_everything(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    other = await world.connect("other")
    readers = [await store.reader(name, f"{s}.a", after=0), await other.reader(name, f"{s}.a", after=0)]
    await _fill(store, f"{s}.a", range(200))
    for reader in readers:
        assert _numbers(await read_until(reader, 200)) == list(range(200))
        await reader.close()


async def test_a_purge_under_a_reader_skips_what_is_gone(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await _fill(store, f"{s}.a", range(1, 101))
    reader = await store.reader(name, f"{s}.a", after=0)
    assert _numbers(await read_until(reader, 1, messages=1)) == [1]
    await store.purge(name, f"{s}.a", below=91)
    await _fill(store, f"{s}.a", range(101, 103))
    got: list[int] = []
    async with asyncio.timeout(BOUND):
        while not got or got[-1] != 102:
            got.extend(_numbers(list(await reader.read(64, 1 << 20))))
    assert got == sorted(set(got))
    assert got[-12:] == list(range(91, 103))
    assert reader.pending == 0
    assert reader.caught_up
    await reader.close()


async def test_a_purge_of_everything_leaves_nothing_pending(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await _fill(store, f"{s}.a", range(1, 101))
    reader = await store.reader(name, f"{s}.a", after=0)
    await read_until(reader, 1, messages=1)
    await store.purge(name, f"{s}.a", below=101)
    reading = asyncio.ensure_future(reader.read(64, 1 << 20))
    async with asyncio.timeout(BOUND):
        while reader.pending or not reader.caught_up:
            await asyncio.sleep(0.02)
    reading.cancel()
    await asyncio.wait({reading})
    await reader.close()


async def test_a_reader_of_a_stream_that_is_deleted_says_so(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await put(store, f"{s}.a")
    reader = await store.reader(name, f"{s}.a", after=0)
    await _next(reader)
    await store.delete_stream(name)
    with pytest.raises(UnknownPool):
        async with asyncio.timeout(BOUND):
            await reader.read(8, 1 << 20)
    await reader.close()


async def test_closing_a_reader_twice_is_fine(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    reader = await store.reader(name, f"{s}.a", after=0)
    await reader.close()
    await reader.close()


async def test_an_expired_key_is_heard_as_a_removal(world: World, store: Store) -> None:
    bucket, stream = await world.bucket(store, ttl=1.0, marker_ttl=5.0)
    await put(store, bucket_subject(bucket, "pod-1"), b"alive")
    reader = await store.reader(stream, bucket_subject(bucket, ">"), after=None)
    value, removal = await read_until(reader, 2)
    assert not is_removal(value)
    assert (removal.subject, removal.data) == (bucket_subject(bucket, "pod-1"), b"")
    assert is_removal(removal)
    assert removal.time - value.time >= 0.9
    await reader.close()


async def test_a_renewed_key_does_not_expire(world: World, store: Store) -> None:
    bucket, stream = await world.bucket(store, ttl=1.0, marker_ttl=5.0)
    reader = await store.reader(stream, bucket_subject(bucket, ">"), after=None)
    await put(store, bucket_subject(bucket, "dies"), b"0")
    renewals = 0
    got: list[Message] = []

    async def renew() -> None:
        nonlocal renewals
        while True:
            await put(store, bucket_subject(bucket, "lives"), b"1")
            renewals += 1
            await asyncio.sleep(0.2)

    async with asyncio.timeout(BOUND):
        renewing = asyncio.create_task(renew())
        try:
            while not any(is_removal(message) for message in got) or renewals < 12:
                got.extend(await reader.read(64, 1 << 20))
        finally:
            renewing.cancel()
    assert {message.subject for message in got if is_removal(message)} == {bucket_subject(bucket, "dies")}
    await reader.close()


async def test_a_deleted_key_is_heard_as_a_removal(world: World, store: Store) -> None:
    bucket, stream = await world.bucket(store)
    subject = bucket_subject(bucket, "k")
    await put(store, subject, b"1")
    await put(store, subject, b"", headers={"KV-Operation": "DEL"})
    reader = await store.reader(stream, bucket_subject(bucket, ">"), after=None)
    assert is_removal(await _next(reader))
    await reader.close()
