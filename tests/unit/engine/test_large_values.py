"""Bodies, answers and cells over the inline limit: by reference, whole, and gone when nothing needs them any more."""

from __future__ import annotations

import random
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import pytest
from starling import Agent, AgentId, Context, Topic, event, message, rpc, testing
from starling.core import limits
from starling.core.ids import PoolName, ShardId
from starling.core.names import MeshNames, bucket_stream, object_description, object_stream
from starling.core.reference import BODY, Reference, refer
from starling.core.retry import RetryPolicy
from starling.engine.objects import Objects
from starling.errors import ObjectLost, StateUnreadable, TooLarge
from starling.ports.store import Message, Store
from starling.testing import MESH, TestMesh

MIB = 1024 * 1024
IMAGE = "".join(f"{n:08x}" for n in range(5_000_000 // 8))
SEEN = Topic("large_values.seen")


@message("large_values.Image")
@dataclass
class Image:
    pixels: str
    then: str = ""


@message("large_values.Wanted")
@dataclass
class Wanted:
    size: int = 0


@dataclass
class Album:
    pages: int = 0
    last: str = ""
    kept: str = ""


class Camera(Agent[Album]):
    """Keeps what it is told to keep, and passes images on."""

    @event
    async def image(self, message: Image, ctx: Context) -> None:
        self.state.pages += 1
        self.state.last = f"{len(message.pixels)}:{hash(message.pixels)}"
        if message.then == "keep":
            self.state.kept = message.pixels
        elif message.then == "forward":
            ctx.send(AgentId("camera", "second"), Image(message.pixels))
            ctx.send(AgentId("camera", "second"), Image("after"))
        elif message.then == "keep, and many parts":
            self.state.kept = message.pixels
            for start in range(0, 2_000_000, 200_000):
                ctx.send(AgentId("camera", "second"), Image(message.pixels[start : start + 200_000]))
        elif message.then == "publish":
            ctx.publish(SEEN("x"), Image(message.pixels))
        elif message.then == "fail":
            raise ValueError("no")
        elif message.then == "call":
            self.state.kept = await ctx.agent(Camera, "second").get(Wanted(3 * MIB))

    @rpc
    async def get(self, message: Wanted) -> str:
        self.state.pages += 1
        return "g" * message.size

    @rpc
    async def size(self, message: Image) -> int:
        return len(message.pixels)


class Reader(Camera):
    """Hears what is published."""


def seen(text: str) -> str:
    return f"{len(text)}:{hash(text)}"


def objects(mesh: TestMesh, pool: str = "camera") -> Awaitable[list[str]]:
    return Objects(mesh._admin, MESH).names(PoolName(pool))


async def none_left(mesh: TestMesh, pool: str = "camera", *, but: int = 0) -> None:
    """Wait until a pool has no object any more, or only so many."""
    for _ in range(60):
        if len(await objects(mesh, pool)) == but:
            return
        await mesh.advance(0.5)
    raise AssertionError(await objects(mesh, pool))


async def largest(mesh: TestMesh) -> int:
    """Bytes of the largest message in all streams of the pool."""
    names = MeshNames(MESH).pool(PoolName("camera"))
    streams = [names.dead_letters, bucket_stream(names.table), object_stream(names.objects)]
    streams += [name for n in range(4) for name in (names.mailbox(ShardId(n)), names.journal(ShardId(n)))]
    known = [name for name in streams if await mesh._admin.stream_info(name) is not None]
    pages = [await mesh._admin.page(name, ">", 1) for name in known]
    return max(len(message.data) for page in pages for message in page)


async def test_a_large_body_arrives_whole_and_its_object_goes() -> None:
    async with testing.mesh(Camera, shards=4) as mesh:
        await mesh.send(AgentId("camera", "first"), Image(IMAGE))
        await mesh.idle()
        assert await largest(mesh) < MIB
        assert (await mesh.state(Camera, "first")).last == seen(IMAGE)
        assert await mesh.call(AgentId("camera", "first"), Image(IMAGE)) == len(IMAGE)
        await none_left(mesh)


async def test_a_turn_sends_a_large_body_and_order_holds() -> None:
    async with testing.mesh(Camera, shards=4) as mesh:
        await mesh.send(AgentId("camera", "first"), Image(IMAGE, "forward"))
        await mesh.idle()
        state = await mesh.state(Camera, "second")
        assert (state.pages, state.last) == (2, seen("after"))
        assert await largest(mesh) < MIB
        await none_left(mesh)


async def test_many_messages_beside_a_large_state_go_out_in_pieces_and_in_no_record_of_their_turn() -> None:
    async with testing.mesh(Camera, shards=4, retry=RetryPolicy(attempts=1)) as mesh:
        await mesh.send(AgentId("camera", "first"), Image(IMAGE, "keep, and many parts"))
        await mesh.idle()
        assert not await mesh.dead_letters()
        assert (await mesh.state(Camera, "first")).kept == IMAGE
        state = await mesh.state(Camera, "second")
        assert (state.pages, state.last) == (10, seen(IMAGE[1_800_000:2_000_000]))
        assert await largest(mesh) < MIB


async def test_everyone_who_hears_a_topic_gets_a_large_body_once_it_is_in_each_pool() -> None:
    async with testing.mesh(Camera, Reader, subscriptions={"large_values.seen": [Camera, Reader]}) as mesh:
        await mesh.publish(SEEN("y"), Image(IMAGE))
        await mesh.send(AgentId("camera", "first"), Image(IMAGE, "publish"))
        await mesh.idle()
        for cls, key in ((Camera, "y"), (Reader, "y"), (Camera, "x"), (Reader, "x")):
            assert (await mesh.state(cls, key)).last == seen(IMAGE)
        await none_left(mesh)
        await none_left(mesh, "reader")


async def test_a_body_over_the_hard_limit_is_refused_by_name_and_nothing_is_published() -> None:
    async with testing.mesh(Camera, shards=1) as mesh:
        names = MeshNames(MESH).pool(PoolName("camera"))
        over = "x" * limits.MAX_LARGE
        with pytest.raises(TooLarge, match=f"at most {limits.MAX_LARGE}"):
            await mesh.send(AgentId("camera", "first"), Image(over))
        with pytest.raises(TooLarge, match=f"at most {limits.MAX_LARGE}"):
            await mesh.send_raw(AgentId("camera", "first"), "large_values.Image", over.encode() + b"x")
        info = await mesh._admin.stream_info(names.mailbox(ShardId(0)))
        assert info is not None
        assert (info.last_sequence, await objects(mesh)) == (0, [])


async def test_a_large_answer_comes_back_whole_and_the_same_again() -> None:
    async with testing.mesh(Camera, shards=1) as mesh:
        camera = AgentId("camera", "first")
        assert await mesh.call(camera, Wanted(3 * MIB)) == "g" * 3 * MIB
        await none_left(mesh)
        first = await mesh.call(camera, Wanted(2 * MIB), id="one")
        assert await mesh.call(camera, Wanted(2 * MIB), id="one") == first == "g" * 2 * MIB
        assert (await mesh.state(Camera, "first")).pages == 2
        assert await largest(mesh) < MIB


async def test_a_turn_gets_a_large_answer() -> None:
    async with testing.mesh(Camera, shards=4) as mesh:
        await mesh.send(AgentId("camera", "first"), Image("", "call"))
        await mesh.idle()
        assert (await mesh.state(Camera, "first")).kept == "g" * 3 * MIB
        assert await largest(mesh) < MIB


async def test_a_large_state_survives_a_crash_and_its_forerunner_goes_when_the_table_has_the_next() -> None:
    async with testing.mesh(Camera, shards=1) as mesh:
        camera = AgentId("camera", "first")
        for text in (IMAGE, IMAGE + "!", IMAGE + "?"):
            await mesh.send(camera, Image(text, "keep"))
            await mesh.idle()
        assert await largest(mesh) < MIB
        assert len(await objects(mesh)) >= 3  # the table has none of them yet
        await mesh.crash()
        assert (await mesh.state(Camera, "first")).kept == IMAGE + "?"
        await mesh.send(camera, Image("small"))
        await mesh.idle()
        state = await mesh.state(Camera, "first")
        assert (state.pages, state.kept) == (4, IMAGE + "?")


async def test_an_agent_with_a_large_state_keeps_one_object_however_often_it_changes() -> None:
    async with testing.mesh(Camera, shards=1) as mesh:
        camera = AgentId("camera", "first")
        for text in (IMAGE, IMAGE + "!", IMAGE + "?"):
            await mesh.send(camera, Image(text, "keep"))
            await mesh.idle()
            await mesh.advance(3.0)
        await none_left(mesh, but=1)
        await mesh.send(camera, Image("", "keep"))  # small again
        await mesh.idle()
        await none_left(mesh)


async def test_a_message_whose_object_is_gone_is_a_dead_letter_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starling.engine.objects.LOOKS", 2)
    async with testing.mesh(Camera, shards=1, retry=RetryPolicy(attempts=2, jitter=False)) as mesh:
        await mesh.send(AgentId("camera", "first"), Image(IMAGE, "fail"))
        await mesh.committed()
        (name,) = await objects(mesh)
        await Objects(mesh._admin, MESH).delete(PoolName("camera"), name)
        await mesh.advance(2.0)
        await mesh.idle()
        (letter,) = await mesh.dead_letters()
        assert (letter.reason, name in letter.text) == ("ObjectLost", True)


async def test_a_dead_letter_keeps_the_object_of_its_body() -> None:
    async with testing.mesh(Camera, shards=1, retry=RetryPolicy(attempts=1)) as mesh:
        await mesh.send(AgentId("camera", "first"), Image(IMAGE, "fail"))
        await mesh.idle()
        for _ in range(6):
            await mesh.advance(1.0)
        (letter,) = await mesh.dead_letters()
        assert letter.envelope is not None
        assert letter.envelope.large is not None
        body = await Objects(mesh._admin, MESH).get(letter.envelope.large)
        assert IMAGE.encode() in body


async def test_an_agent_whose_state_object_is_gone_is_parked_and_never_starts_afresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("starling.engine.objects.LOOKS", 2)
    async with testing.mesh(Camera, shards=1) as mesh:
        camera = AgentId("camera", "first")
        await mesh.send(camera, Image(IMAGE, "keep"))
        await mesh.idle()
        await none_left(mesh, but=1)
        (name,) = await objects(mesh)
        await Objects(mesh._admin, MESH).delete(PoolName("camera"), name)
        await mesh.crash()
        with pytest.raises(StateUnreadable, match="missing or damaged"):
            await mesh.call(camera, Wanted(1), timeout=5.0)


def put_aside(size: int) -> tuple[Reference, bytes]:
    data = bytes(size)
    return refer(PoolName("camera"), ShardId(0), BODY, random.Random(size).getrandbits(96), data), data


async def test_bytes_that_are_not_those_of_the_reference_are_refused_in_memory_too() -> None:
    async with testing.mesh(Camera, shards=1) as mesh:
        reference, _ = put_aside(10)
        stored = Objects(mesh._admin, MESH)
        await stored.put(reference, b"other")
        with pytest.raises(ObjectLost, match="damaged"):
            await stored.get(reference)


async def test_an_object_is_described_once_and_what_a_further_try_has_put_goes() -> None:
    async with testing.mesh(Camera, shards=1) as mesh:
        reference, data = put_aside(10)
        stored = Objects(mesh._admin, MESH)
        stream = object_stream(MeshNames(MESH).pool(PoolName("camera")).objects)
        await stored.put(reference, data)
        before = await mesh._admin.stream_info(stream)
        await stored.put(reference, data)  # as after an answer that was lost
        after = await mesh._admin.stream_info(stream)
        assert before is not None
        assert after is not None
        assert after.subjects == before.subjects
        assert await stored.get(reference) == data


class _Behind:
    """A store whose replica does not know of the last word yet."""

    def __init__(self, store: Store, old: Message) -> None:
        self._store = store
        self._old = old

    async def last(self, stream: str, subject: str) -> Message | None:
        return self._old

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_an_object_that_was_said_to_be_needed_meanwhile_is_not_removed_by_who_has_not_heard() -> None:
    async with testing.mesh(Camera, shards=1) as mesh:
        reference, data = put_aside(10)
        pool = PoolName("camera")
        bucket = MeshNames(MESH).pool(pool).objects
        stored = Objects(mesh._admin, MESH)
        await stored.put(reference, data)
        old = await mesh._admin.last(object_stream(bucket), object_description(bucket, reference.name))
        assert old is not None
        await stored.touch(pool, reference.name, older_than=old.time + 1)
        behind = Objects(_Behind(mesh._admin, old), MESH)
        assert not await behind.delete_old(pool, reference.name, older_than=old.time + 1)
        assert await stored.get(reference) == data
        assert await stored.delete_old(pool, reference.name, older_than=old.time + 1000)
        assert await objects(mesh) == []
