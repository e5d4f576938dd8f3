"""Publishing: conditions, limits, duplicates. One test for each row of the table of answers."""

from __future__ import annotations

import asyncio

from starling.core.names import MESSAGE_ID
from starling.ports.store import Expect, Refused, Store, Stored

from .conftest import BOUND, World, put


def _refusal(answer: object) -> str:
    assert isinstance(answer, Refused), answer
    return answer.why


async def test_a_stored_message_answers_with_its_sequence(world: World, store: Store) -> None:
    _, s = await world.stream(store)
    assert await put(store, f"{s}.a", b"1") == Stored(1)
    assert await put(store, f"{s}.b", b"2") == Stored(2)


async def test_messages_handed_over_in_a_row_are_stored_in_that_order(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    answers = [await store.publish(f"{s}.a", str(number).encode()) for number in range(300)]
    async with asyncio.timeout(BOUND):
        assert [await answer for answer in answers] == [Stored(number) for number in range(1, 301)]
    page = await store.page(name, f"{s}.a", 1)
    assert [int(message.data) for message in page] == list(range(300))


async def test_a_condition_on_the_last_sequence_of_the_subject_holds_or_is_a_conflict(
    world: World, store: Store
) -> None:
    _, s = await world.stream(store)
    assert await put(store, f"{s}.a", expect=Expect(0)) == Stored(1)
    assert await put(store, f"{s}.other") == Stored(2)
    assert _refusal(await put(store, f"{s}.a", expect=Expect(0))) == "conflict"
    assert _refusal(await put(store, f"{s}.a", expect=Expect(2))) == "conflict"
    assert await put(store, f"{s}.a", expect=Expect(1)) == Stored(3)


async def test_a_condition_on_another_subject_looks_at_that_subject_only(world: World, store: Store) -> None:
    _, s = await world.stream(store)
    assert await put(store, f"{s}.mark") == Stored(1)
    assert await put(store, f"{s}.cell", expect=Expect(1, f"{s}.mark")) == Stored(2)
    assert await put(store, f"{s}.cell", expect=Expect(1, f"{s}.mark")) == Stored(3)
    assert await put(store, f"{s}.mark", expect=Expect(1)) == Stored(4)
    assert _refusal(await put(store, f"{s}.cell", expect=Expect(1, f"{s}.mark"))) == "conflict"
    assert await put(store, f"{s}.cell", expect=Expect(0, f"{s}.absent")) == Stored(5)


async def test_of_two_writers_with_one_condition_exactly_one_wins(world: World, store: Store) -> None:
    _, s = await world.stream(store)
    rival = await world.connect("rival")
    for round_ in range(20):
        one, other = await asyncio.gather(
            put(store, f"{s}.a", expect=Expect(round_)), put(rival, f"{s}.a", expect=Expect(round_))
        )
        assert sorted(isinstance(answer, Stored) for answer in (one, other)) == [False, True]


async def test_the_same_message_id_inside_the_window_is_stored_once(world: World, store: Store) -> None:
    name, s = await world.stream(store, duplicate_window=30.0)
    assert await put(store, f"{s}.a", headers={MESSAGE_ID: "x"}) == Stored(1)
    assert await put(store, f"{s}.a", headers={MESSAGE_ID: "x"}) == Stored(1, duplicate=True)
    assert await put(store, f"{s}.b", headers={MESSAGE_ID: "x"}) == Stored(1, duplicate=True)
    assert await put(store, f"{s}.a", headers={MESSAGE_ID: "y"}) == Stored(2)
    assert await put(store, f"{s}.a") == Stored(3)
    info = await store.stream_info(name)
    assert info is not None
    assert info.messages == 3


async def test_after_the_window_the_same_message_id_is_a_new_message(world: World, store: Store) -> None:
    _, s = await world.stream(store, duplicate_window=0.2)
    assert await put(store, f"{s}.a", headers={MESSAGE_ID: "x"}) == Stored(1)
    async with asyncio.timeout(BOUND):
        while True:
            answer = await put(store, f"{s}.a", headers={MESSAGE_ID: "x"})
            if answer != Stored(1, duplicate=True):
                break
            await asyncio.sleep(0.05)
    assert answer == Stored(2)


async def test_a_message_id_of_a_refused_message_may_be_used_again(world: World, store: Store) -> None:
    name, s = await world.stream(store, max_messages_per_subject=1, discard_new_per_subject=True, discard_new=True)
    assert await put(store, f"{s}.a") == Stored(1)
    assert _refusal(await put(store, f"{s}.a", headers={MESSAGE_ID: "x"})) == "full"
    await store.purge(name, f"{s}.a", below=2)
    assert await put(store, f"{s}.a", headers={MESSAGE_ID: "x"}) == Stored(2)


async def test_a_full_subject_refuses_and_the_others_go_on(world: World, store: Store) -> None:
    name, s = await world.stream(store, max_messages_per_subject=2, discard_new=True, discard_new_per_subject=True)
    for sequence in (1, 2):
        assert await put(store, f"{s}.a") == Stored(sequence)
    assert _refusal(await put(store, f"{s}.a")) == "full"
    assert await put(store, f"{s}.b") == Stored(3)
    await store.purge(name, f"{s}.a", below=2)
    assert await put(store, f"{s}.a") == Stored(4)
    assert _refusal(await put(store, f"{s}.a")) == "full"


async def test_a_stream_at_its_bytes_refuses(world: World, store: Store) -> None:
    _, s = await world.stream(store, max_bytes=4096, discard_new=True)
    answers = [await put(store, f"{s}.a", b"x" * 1000) for _ in range(6)]
    assert answers[0] == Stored(1)
    assert _refusal(answers[-1]) == "full"


async def test_a_stream_at_its_messages_refuses_when_it_discards_the_new(world: World, store: Store) -> None:
    _, s = await world.stream(store, max_messages=2, discard_new=True)
    answers = [await put(store, f"{s}.{key}") for key in "abc"]
    assert answers[:2] == [Stored(1), Stored(2)]
    assert _refusal(answers[2]) == "full"


async def test_a_stream_that_discards_the_old_drops_its_first_messages(world: World, store: Store) -> None:
    name, s = await world.stream(store, max_messages=2)
    assert [await put(store, f"{s}.a", data) for data in (b"1", b"2", b"3")] == [Stored(1), Stored(2), Stored(3)]
    assert [message.data for message in await store.page(name, f"{s}.a", 1)] == [b"2", b"3"]


async def test_a_message_over_the_size_limit_of_the_stream_is_too_large(world: World, store: Store) -> None:
    _, s = await world.stream(store, max_message_bytes=100)
    assert _refusal(await put(store, f"{s}.a", b"x" * 200)) == "too-large"
    assert await put(store, f"{s}.a", b"x" * 50) == Stored(1)


async def test_a_message_over_the_size_limit_of_the_store_is_too_large_and_the_connection_lives(
    world: World, store: Store
) -> None:
    _, s = await world.stream(store)
    since = store.connected_since
    assert _refusal(await put(store, f"{s}.a", b"x" * (2 << 20))) == "too-large"
    # The headers count as well.
    assert _refusal(await put(store, f"{s}.a", b"x" * ((1 << 20) - 10), headers={"Some": "header"})) == "too-large"
    assert await put(store, f"{s}.a", b"x" * 1000) == Stored(1)
    assert store.connected_since == since


async def test_a_subject_without_a_stream_is_refused_as_such(world: World, store: Store) -> None:
    assert _refusal(await put(store, f"{world.name('nobody')}.a")) == "no-stream"


async def test_a_deleted_stream_takes_nothing_any_more(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    assert await put(store, f"{s}.a") == Stored(1)
    await store.delete_stream(name)
    assert _refusal(await put(store, f"{s}.a")) == "no-stream"


async def test_an_answer_nobody_waits_for_harms_nothing(world: World, store: Store) -> None:
    _, s = await world.stream(store)
    forgotten = asyncio.ensure_future(await store.publish(f"{s}.a", b""))
    forgotten.cancel()
    assert await put(store, f"{s}.a") == Stored(2)


async def test_headers_come_back_as_they_were_published(world: World, store: Store) -> None:
    name, s = await world.stream(store)
    await put(store, f"{s}.a", b"", headers={"St-No": "7", "St-Text": "café au lait"})
    message = await store.last(name, f"{s}.a")
    assert message is not None
    assert message.headers == {"St-No": "7", "St-Text": "café au lait"}
    assert message.data == b""
