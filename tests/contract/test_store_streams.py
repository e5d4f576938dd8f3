"""Streams, buckets and core messages."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

import pytest
from starling.core.names import bucket_subject
from starling.errors import SpecError, UnknownPool, Unreachable
from starling.ports.store import BucketSpec, Compression, Expect, Refused, Signal, Store, Stored, StreamSpec

from .conftest import BOUND, World, is_connected, put, read_until

S2_AND_BACK: Final[tuple[Compression, ...]] = ("s2", "none")


async def test_a_stream_is_new_once(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    spec = StreamSpec(name=name, subjects=(f"{s}.>",))
    assert not await store.ensure_stream(spec)


async def test_an_existing_stream_gets_new_limits_and_keeps_its_data(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await put(store, f"{s}.a", b"1")
    spec = StreamSpec(
        name=name,
        subjects=(f"{s}.>",),
        max_messages_per_subject=1,
        discard_new=True,
        discard_new_per_subject=True,
    )
    assert not await store.ensure_stream(spec)
    assert isinstance(await put(store, f"{s}.a"), Refused)
    info = await store.stream_info(name)
    assert info is not None
    assert (info.messages, info.max_messages_per_subject) == (1, 1)


async def test_info_says_what_the_stream_holds(world: World, store: Store) -> None:
    name, s = await world.stream(store, metadata=(("starlingmesh.dev/incarnation", "abcd2345"),))
    for key in ("a", "b", "a", "c", "c"):
        await put(store, f"{s}.{key}", b"x" * 100)
    await store.purge(name, f"{s}.a", below=2)
    await store.purge(name, f"{s}.c", below=6)
    info = await store.stream_info(name)
    assert info is not None
    assert info.subjects == {f"{s}.a": 1, f"{s}.b": 1}
    assert (info.name, info.messages, info.first_sequence, info.last_sequence) == (name, 2, 2, 5)
    assert info.size_bytes >= 200
    assert info.metadata == {"starlingmesh.dev/incarnation": "abcd2345"}
    assert info.max_messages_per_subject is None


async def test_info_tells_the_store_s_time_as_stored_messages_do(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await put(store, f"{s}.a", b"x")
    before = await store.last(name, f"{s}.a")
    info = await store.stream_info(name)
    await put(store, f"{s}.a", b"y")
    after = await store.last(name, f"{s}.a")
    assert before is not None
    assert info is not None
    assert after is not None
    assert before.time <= info.time + 1e-5  # microseconds from the one, nanoseconds from the other
    assert info.time <= after.time + 1e-5


async def test_info_of_an_empty_stream_has_no_subjects(world: World, store: Store) -> None:
    name, _ = await world.stream(store)
    info = await store.stream_info(name)
    assert info is not None
    assert (info.messages, info.last_sequence, dict(info.subjects)) == (0, 0, {})


async def test_info_of_a_stream_that_is_not_there_is_none(world: World, store: Store) -> None:
    assert await store.stream_info(world.name("absent")) is None


async def test_deleting_removes_the_data_and_deleting_nothing_is_fine(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await put(store, f"{s}.a")
    await store.delete_stream(name)
    assert await store.stream_info(name) is None
    await store.delete_stream(name)
    assert await store.ensure_stream(StreamSpec(name=name, subjects=(f"{s}.>",)))
    assert await store.last(name, f"{s}.a") is None


async def test_an_existing_stream_keeps_its_metadata(world: World, store: Store) -> None:
    name, s = await world.stream(store, metadata=(("incarnation", "first"),))
    spec = StreamSpec(name=name, subjects=(f"{s}.>",), metadata=(("incarnation", "second"), ("more", "1")))
    await store.ensure_stream(spec)
    info = await store.stream_info(name)
    assert info is not None
    assert info.metadata == {"incarnation": "first", "more": "1"}


async def test_a_bucket_keeps_one_value_a_key(world: World, store: Store) -> None:
    bucket, stream = await world.bucket(store)
    subject = bucket_subject(bucket, "k")
    assert await put(store, subject, b"1", expect=Expect(0)) == Stored(1)
    assert await put(store, subject, b"2", expect=Expect(1)) == Stored(2)
    message = await store.last(stream, subject)
    assert message is not None
    assert message.data == b"2"
    info = await store.stream_info(stream)
    assert info is not None
    assert info.messages == 1
    assert isinstance(await put(store, subject, b"3", expect=Expect(1)), Refused)


async def test_a_bucket_may_be_ensured_again(world: World, store: Store) -> None:
    bucket, stream = await world.bucket(store, ttl=10.0, marker_ttl=60.0)
    await put(store, bucket_subject(bucket, "k"), b"1")
    await store.ensure_bucket(BucketSpec(bucket, ttl=10.0, marker_ttl=60.0))
    info = await store.stream_info(stream)
    assert info is not None
    assert info.messages == 1


async def test_a_key_written_on_condition_of_the_mark_is_refused_to_a_replaced_owner(
    world: World, store: Store
) -> None:
    bucket, _ = await world.bucket(store)
    mark, cell = bucket_subject(bucket, "0.mark"), bucket_subject(bucket, "0.a.x")
    assert await put(store, mark, b"owner 1") == Stored(1)
    assert await put(store, cell, b"1", expect=Expect(1, mark)) == Stored(2)
    assert await put(store, mark, b"owner 2", expect=Expect(1)) == Stored(3)
    late = await put(store, cell, b"late", expect=Expect(1, mark))
    assert isinstance(late, Refused)
    assert late.why == "conflict"


async def test_a_signal_is_heard_by_those_who_listen(world: World, store: Store) -> None:
    other = await world.connect("other")
    subject = world.name("signal")
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    everything: asyncio.Queue[Signal] = asyncio.Queue()
    listening = await other.listen(f"{subject}.a", heard.put_nowait)
    await other.listen(f"{subject}.*", everything.put_nowait)
    await store.signal(f"{subject}.a", b"1")
    await store.signal(f"{subject}.b", b"2", reply="somewhere")
    async with asyncio.timeout(BOUND):
        assert await heard.get() == Signal(f"{subject}.a", b"1", "")
        assert await everything.get() == Signal(f"{subject}.a", b"1", "")
        assert await everything.get() == Signal(f"{subject}.b", b"2", "somewhere")
    await listening.close()
    await store.signal(f"{subject}.a", b"3")
    async with asyncio.timeout(BOUND):
        assert (await everything.get()).data == b"3"
    assert heard.empty()


async def test_a_question_gets_its_answer(world: World, store: Store) -> None:
    other = await world.connect("other")
    subject = world.name("question")
    tasks: set[asyncio.Task[None]] = set()

    def answer(signal: Signal) -> None:
        tasks.add(asyncio.ensure_future(other.signal(signal.reply, b"answer to " + signal.data)))

    await other.listen(subject, answer)
    assert await store.ask(subject, b"1", timeout=BOUND) == b"answer to 1"
    assert await store.ask(subject, b"2", timeout=BOUND) == b"answer to 2"
    await asyncio.gather(*tasks)


async def test_each_of_those_who_ask_at_once_gets_its_own_answer(world: World, store: Store) -> None:
    other = await world.connect("other")
    subject = world.name("question")

    def answer(signal: Signal) -> None:
        assert other.answer(signal.reply, b"answer to " + signal.data)

    await other.listen(subject, answer)
    answers = await asyncio.gather(*(store.ask(subject, b"%d" % number, timeout=BOUND) for number in range(50)))
    assert answers == [b"answer to %d" % number for number in range(50)]


async def test_a_question_nobody_listens_to_is_none_at_once(world: World, store: Store) -> None:
    async with asyncio.timeout(BOUND):
        assert await store.ask(world.name("question"), b"", timeout=10 * BOUND) is None


async def test_a_question_without_an_answer_ends_at_its_time(world: World, store: Store) -> None:
    subject = world.name("question")
    await store.listen(subject, lambda _: None)
    with pytest.raises(Unreachable):
        await store.ask(subject, b"", timeout=0.1)


async def test_a_listener_that_fails_goes_on_hearing(world: World, store: Store) -> None:
    subject = world.name("signal")
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def listen(signal: Signal) -> None:
        if signal.data == b"bad":
            raise RuntimeError("a listener's own mistake")
        heard.put_nowait(signal.data)

    await store.listen(subject, listen)
    await store.signal(subject, b"bad")
    await store.signal(subject, b"good")
    async with asyncio.timeout(BOUND):
        assert await heard.get() == b"good"


async def test_a_closed_store_sends_nothing(world: World, store: Store) -> None:
    _, s = await world.stream(store)
    assert is_connected(store)
    await store.close()
    await store.close()
    assert not is_connected(store)
    with pytest.raises(Unreachable):
        await store.publish(f"{s}.a", b"")
    with pytest.raises(Unreachable):
        await store.signal(f"{s}.a")


async def test_one_message_is_removed_and_the_others_stay(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for body in (b"1", b"2", b"3"):
        await put(store, f"{s}.a", body)
    assert await store.remove(name, 2)
    assert [message.data for message in await store.page(name, f"{s}.a", 1)] == [b"1", b"3"]
    assert not await store.remove(name, 2)
    assert not await store.remove(name, 99)
    info = await store.stream_info(name)
    assert info is not None
    assert (info.messages, info.last_sequence) == (2, 3)


async def test_a_reader_leaves_out_what_was_removed_before_it_came(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for body in (b"1", b"2", b"3"):
        await put(store, f"{s}.a", body)
    await store.remove(name, 2)
    reader = await store.reader(name, f"{s}.a", after=0)
    try:
        assert [message.data for message in await read_until(reader, 2)] == [b"1", b"3"]
    finally:
        await reader.close()


async def test_removing_from_a_stream_that_is_not_there_says_so(store: Store) -> None:
    with pytest.raises(UnknownPool):
        await store.remove("nowhere", 1)


async def test_info_tells_the_limits_of_the_stream(world: World, store: Store) -> None:
    name, _ = await world.stream(
        store, max_messages=7, max_bytes=100_000, max_messages_per_subject=3, discard_new=True, duplicate_window=9.0
    )
    info = await store.stream_info(name)
    assert info is not None
    assert (info.max_messages, info.max_bytes, info.max_messages_per_subject) == (7, 100_000, 3)
    assert (info.discard_new, info.duplicate_window, info.replicas) == (True, 9.0, world.replicas)


async def test_a_stream_may_begin_at_a_later_sequence_and_keeps_on_from_there(world: World, store: Store) -> None:
    name, s = await world.stream(store, first_sequence=1000)
    assert await put(store, f"{s}.a", b"1", expect=Expect(0)) == Stored(1000)
    assert isinstance(await put(store, f"{s}.a", b"2", expect=Expect(0)), Refused)
    for first_sequence in (1, 7):
        limited = StreamSpec(
            name=name, subjects=(f"{s}.>",), max_messages=100 + first_sequence, first_sequence=first_sequence
        )
        assert not await store.ensure_stream(limited)
    assert await put(store, f"{s}.a", b"2", expect=Expect(1000)) == Stored(1001)
    assert [message.sequence for message in await store.page(name, f"{s}.a", 1)] == [1000, 1001]


async def test_compression_is_off_unless_asked_for_and_may_be_turned_on_and_off_again(
    world: World, store: Store
) -> None:
    name, subject = await world.stream(store)
    spec = StreamSpec(name=name, subjects=(f"{subject}.>",), replicas=world.replicas)
    assert await kept(store, name) == "none"
    await put(store, f"{subject}.a", b"kept")
    for compression in S2_AND_BACK:
        assert not await store.ensure_stream(replace(spec, compression=compression))
        assert await kept(store, name) == compression
        message = await store.last(name, f"{subject}.a")
        assert message is not None
        assert message.data == b"kept"


async def test_a_bucket_may_be_compressed(world: World, store: Store) -> None:
    bucket, stream = await world.bucket(store, compression="s2")
    await put(store, bucket_subject(bucket, "k"), b"1")
    assert await kept(store, stream) == "s2"


async def kept(store: Store, stream: str) -> str:
    """How a stream is compressed."""
    info = await store.stream_info(stream)
    assert info is not None
    return info.compression


async def test_a_streams_storage_is_for_life(world: World, store: Store) -> None:
    name, subject = await world.stream(store, storage="memory")
    info = await store.stream_info(name)
    assert info is not None
    assert info.storage == "memory"
    with pytest.raises(SpecError, match="storage"):
        await store.ensure_stream(StreamSpec(name=name, subjects=(f"{subject}.>",), replicas=world.replicas))
    bucket, stream = await world.bucket(store)
    found = await store.stream_info(stream)
    assert found is not None
    assert (found.storage, found.name) == ("file", stream)
    with pytest.raises(SpecError, match="storage"):
        await store.ensure_bucket(BucketSpec(bucket, replicas=world.replicas, storage="memory"))
