"""Last values, pages, purge: what is in a stream without a reader."""

from __future__ import annotations

import time

import pytest
from starling.errors import SpecError, UnknownPool
from starling.ports.store import Expect, LastValues, Refused, Store, Stored

from .conftest import World, put


async def test_last_is_the_last_message_of_the_subject(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    before = time.time()
    await put(store, f"{s}.a", b"1")
    await put(store, f"{s}.a", b"2")
    await put(store, f"{s}.b", b"3")
    message = await store.last(name, f"{s}.a")
    assert message is not None
    assert (message.subject, message.sequence, message.data, message.headers) == (f"{s}.a", 2, b"2", None)
    if world.kind == "nats":
        assert before - 1 <= message.time <= time.time() + 1


async def test_last_of_an_empty_subject_is_none(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await put(store, f"{s}.b")
    assert await store.last(name, f"{s}.a") is None


async def test_reads_of_a_stream_that_is_not_there_say_so(world: World, store: Store) -> None:
    name = world.name("absent")
    with pytest.raises(UnknownPool):
        await store.last(name, f"{name}.a")
    with pytest.raises(UnknownPool):
        await store.last_values(name, [f"{name}.a"])
    with pytest.raises(UnknownPool):
        await store.page(name, f"{name}.a", 1)
    with pytest.raises(UnknownPool):
        await store.purge(name, f"{name}.a", below=5)
    with pytest.raises(UnknownPool):
        await store.reader(name, f"{name}.a", after=0)


async def test_last_values_with_the_mark_say_how_far_the_replica_was(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for key, data in (("a", b"1"), ("a", b"2"), ("mark", b"m"), ("elsewhere", b"3")):
        await put(store, f"{s}.{key}", data)
    values = await store.last_values(name, [f"{s}.a", f"{s}.missing", f"{s}.mark"])
    assert {subject: message.data for subject, message in values.found.items()} == {f"{s}.a": b"2", f"{s}.mark": b"m"}
    assert values.up_to == 4


async def test_last_values_of_which_none_exists_say_nothing_about_the_replica(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await put(store, f"{s}.elsewhere")
    assert await store.last_values(name, [f"{s}.a", f"{s}.b"]) == LastValues({}, None)


async def test_last_values_takes_a_thousand_subjects_and_no_more_than_1024(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for number in range(1024):
        await store.publish(f"{s}.{number}", str(number).encode())
    assert await put(store, f"{s}.end") == Stored(1025)
    subjects = [f"{s}.{number}" for number in range(1024)]
    values = await store.last_values(name, subjects)
    assert {subject: message.data for subject, message in values.found.items()} == {
        subject: subject.rpartition(".")[2].encode() for subject in subjects
    }
    assert values.up_to == 1025
    with pytest.raises(SpecError):
        await store.last_values(name, [*subjects, f"{s}.end"])


async def test_last_values_larger_than_one_answer_come_whole(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    subjects = [f"{s}.{number}" for number in range(12)]
    for subject in subjects:
        assert isinstance(await put(store, subject, b"x" * 900_000), Stored)
    values = await store.last_values(name, subjects)
    assert set(values.found) == set(subjects)
    assert values.up_to == 12


async def test_pages_give_every_message_of_a_subject_in_order(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for number in range(2500):
        await store.publish(f"{s}.a", str(number).encode())
        if number % 5 == 0:
            await store.publish(f"{s}.b", b"other")
    await put(store, f"{s}.b")
    got: list[bytes] = []
    first = 1
    while page := await store.page(name, f"{s}.a", first):
        assert all(message.subject == f"{s}.a" for message in page)
        got.extend(message.data for message in page)
        first = page[-1].sequence + 1
    assert got == [str(number).encode() for number in range(2500)]


async def test_a_page_starts_at_the_first_sequence_and_holds_a_large_message(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for _ in range(3):
        await put(store, f"{s}.a", b"x" * 900_000)
    page = await store.page(name, f"{s}.a", 2)
    assert page[0].sequence == 2
    assert len(page[0].data) == 900_000
    assert list(await store.page(name, f"{s}.a", 4)) == []


async def test_purge_removes_below_a_sequence_and_of_its_subject_only(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for key in ("a", "b", "a", "a"):
        await put(store, f"{s}.{key}")
    await store.purge(name, f"{s}.a", below=4)
    assert [message.sequence for message in await store.page(name, f"{s}.a", 1)] == [4]
    assert [message.sequence for message in await store.page(name, f"{s}.b", 1)] == [2]
    await store.purge(name, f"{s}.a", below=4)
    await store.purge(name, f"{s}.a", below=0)
    await store.purge(name, f"{s}.a", below=1)
    info = await store.stream_info(name)
    assert info is not None
    assert (info.messages, info.last_sequence) == (2, 4)


async def test_a_purge_to_the_end_keeps_the_sequence_going(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    for _ in range(3):
        await put(store, f"{s}.a")
    await store.purge(name, f"{s}.a", below=4)
    assert await store.last(name, f"{s}.a") is None
    answer = await put(store, f"{s}.a", expect=Expect(3))
    assert isinstance(answer, Refused)
    assert await put(store, f"{s}.a", expect=Expect(0)) == Stored(4)
