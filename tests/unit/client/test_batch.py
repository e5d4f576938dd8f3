"""Many messages in one call, and the ids of messages."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass, field

import pytest
import starling.testing
from starling import Agent, AgentId, Context, Topic, event, message, rpc
from starling.core.envelope import open_frame
from starling.core.ids import PoolName, ShardId, message_id
from starling.core.names import Inlet, Lane, MeshNames, Origin
from starling.errors import BatchRefused, DecodeError, MailboxFull, SpecError, TooLarge, UnknownAgentType
from starling.provision import PoolStreams, shard_streams
from starling.testing import MESH, TestMesh

NOTES = Topic("batch.note")
NAMES = MeshNames(MESH).pool(PoolName("notebook"))


@message("batch.Note")
@dataclass
class Note:
    number: int
    text: str = ""


@dataclass
class Notes:
    numbers: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


class Notebook(Agent[Notes]):
    @event
    async def note(self, message: Note, ctx: Context) -> None:
        self.state.numbers.append(message.number)
        self.state.ids.append(ctx.message_id)


async def _frames(mesh: TestMesh, shards: int = 1) -> list[int]:
    """How many messages each frame in the mailboxes holds."""
    inlet = Inlet(Origin.OUTSIDE, Lane.NORMAL)
    return [
        len(open_frame(frame.data))
        for shard in map(ShardId, range(shards))
        for frame in await mesh._admin.page(NAMES.mailbox(shard), NAMES.inlet_subject(shard, inlet), 1)
    ]


async def _numbers(mesh: TestMesh, key: str = "a") -> list[int]:
    await mesh.idle()
    notes: Notes = await mesh.state(Notebook, key)
    return notes.numbers


@pytest.mark.row("RT-60", part="one round trip for 1000 to one shard, a result per message")
async def test_a_thousand_messages_to_one_shard_are_one_frame_in_order() -> None:
    async with starling.testing.mesh(Notebook, subscriptions={"batch.note": Notebook}, shards=1) as mesh:
        results = await mesh.publish_many((NOTES("a"), Note(number)) for number in range(1000))
        assert len(results) == 1000
        assert {result.accepted for result in results} == {results[0].accepted}
        assert results[0].error is None
        assert await _frames(mesh) == [1000]
        assert await _numbers(mesh) == list(range(1000))
        assert len(set((await mesh.state(Notebook, "a")).ids)) == 1000


@pytest.mark.row("RT-60", part="with one bad message: 999 and one named error")
async def test_one_bad_message_has_its_error_and_the_others_are_stored() -> None:
    async with starling.testing.mesh(Notebook, shards=1) as mesh:
        messages: list[tuple[AgentId, object]] = [(AgentId("notebook", "a"), Note(n)) for n in range(1000)]
        messages[17] = (AgentId("notebook", "a"), Note("x"))  # type: ignore[arg-type]
        messages[18] = (AgentId("diary", "a"), Note(18))
        results = await mesh.publish_many(messages)
        assert isinstance(results[17].error, DecodeError)
        assert "batch.Note.number" in str(results[17].error)
        assert isinstance(results[18].error, UnknownAgentType)
        assert sum(result.error is None for result in results) == 998
        assert await _numbers(mesh) == [n for n in range(1000) if n not in (17, 18)]


@pytest.mark.row("RT-60", part="with one bad message: none")
async def test_all_or_nothing_sends_nothing_when_one_message_is_bad() -> None:
    async with starling.testing.mesh(Notebook) as mesh:
        messages: list[tuple[AgentId, object]] = [(AgentId("notebook", str(n)), Note(n)) for n in range(1000)]
        messages[500] = (AgentId("notebook", "x"), Note("x"))  # type: ignore[arg-type]
        with pytest.raises(
            BatchRefused, match=r"1 messages .* nothing was stored; message 500: batch.Note.number"
        ) as refused:
            await mesh.publish_many(messages, all_or_nothing=True)
        assert (refused.value.stored, list(refused.value.errors)) == (0, [500])
        assert await _frames(mesh, shards=4) == []
        del messages[500]
        assert len(await mesh.publish_many(messages, all_or_nothing=True)) == 999
        assert sum(await _frames(mesh, shards=4)) == 999


@pytest.mark.row("RT-60", part="the same batch id twice counts once", completes=True)
@pytest.mark.parametrize("all_or_nothing", [False, True])
async def test_the_same_batch_id_twice_counts_once(all_or_nothing: bool) -> None:
    async with starling.testing.mesh(Notebook, shards=1) as mesh:
        messages = [(AgentId("notebook", "a"), Note(number)) for number in range(1500)]
        for expected in (False, True):
            results = await mesh.publish_many(messages, id="batch-7", all_or_nothing=all_or_nothing)
            assert {one.duplicate for result in results for one in result.accepted} == {expected}
        await mesh.publish_many(messages[:3], id="batch-8", all_or_nothing=all_or_nothing)
        assert await _numbers(mesh) == [*range(1500), 0, 1, 2]
        notes: Notes = await mesh.state(Notebook, "a")
        assert notes.ids[:2] == ["batch-7.0", "batch-7.1"]


async def test_a_large_batch_is_cut_into_frames_unless_it_has_to_stay_whole() -> None:
    async with starling.testing.mesh(Notebook, shards=1) as mesh:
        messages = [(AgentId("notebook", "a"), Note(number, "x" * 100_000)) for number in range(10)]
        with pytest.raises(BatchRefused, match=r"10 messages .* at most 921600") as refused:
            await mesh.publish_many(messages, all_or_nothing=True)
        assert isinstance(refused.value.errors[0], TooLarge)
        await mesh.publish_many(messages)
        assert await _frames(mesh) == [2, 2, 2, 2, 2]
        assert await _numbers(mesh) == list(range(10))


async def _with_one_full_mailbox(mesh: TestMesh) -> ShardId:
    """Fill the mailbox of one of two shards; return the other's number."""
    full = ShardId(0)
    _, mailbox = shard_streams(NAMES, full, PoolStreams(NAMES.pool, shards=2, mailbox_limit=1), ())
    await mesh._admin.ensure_stream(mailbox)
    filler = next(str(n) for n in range(100) if mesh._routes.current.target(AgentId("notebook", str(n))).shard == full)
    await mesh.send(AgentId("notebook", filler), Note(0))
    return ShardId(1)


async def test_where_one_shard_refuses_what_another_stored_the_error_says_how_many() -> None:
    async with starling.testing.mesh(Notebook, shards=2) as mesh:
        other = await _with_one_full_mailbox(mesh)
        messages = [(AgentId("notebook", str(number)), Note(number)) for number in range(20)]
        there = sum(mesh._routes.current.target(agent).shard == other for agent, _ in messages)
        with pytest.raises(BatchRefused) as refused:
            await mesh.publish_many(messages, id="b", all_or_nothing=True)
        assert (refused.value.stored, len(refused.value.errors)) == (there, 20 - there)
        assert all(isinstance(error, MailboxFull) for error in refused.value.errors.values())
        results = await mesh.publish_many(messages, id="c")
        assert sum(isinstance(result.error, MailboxFull) for result in results) == 20 - there


async def test_a_batch_may_wait_for_room_within_its_timeout() -> None:
    async with starling.testing.mesh(Notebook, shards=2) as mesh:
        await _with_one_full_mailbox(mesh)
        messages = [(AgentId("notebook", str(number)), Note(number)) for number in range(20)]
        with pytest.raises(TimeoutError):
            await mesh.publish_many(messages, when_full="wait", timeout=0.2)
        with pytest.raises(SpecError, match="when_full: is 'block'"):
            await mesh.publish_many(messages, when_full="block")  # type: ignore[arg-type]


@pytest.mark.row("RT-25", part="a sender waits for room if it asks to")
async def test_a_sender_that_waits_is_stored_once_there_is_room() -> None:
    async with starling.testing.mesh(Notebook, shards=2) as mesh:
        await _with_one_full_mailbox(mesh)
        full = next(str(n) for n in range(100) if mesh._routes.current.target(AgentId("notebook", str(n))).shard == 0)
        with pytest.raises(MailboxFull):
            await mesh.send(AgentId("notebook", full), Note(1))
        waiting = asyncio.create_task(mesh.send(AgentId("notebook", full), Note(2), when_full="wait"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        _, mailbox = shard_streams(NAMES, ShardId(0), PoolStreams(NAMES.pool, shards=2, mailbox_limit=10), ())
        await mesh._admin.ensure_stream(mailbox)
        await waiting
        assert 2 in await _numbers(mesh, full)


async def test_an_empty_batch_is_fine() -> None:
    async with starling.testing.mesh(Notebook) as mesh:
        assert await mesh.publish_many([]) == []
        assert await mesh.publish_many([], all_or_nothing=True) == []


@pytest.mark.row("RT-15", part="100,000 ids made in one burst are all different")
def test_ids_made_in_one_burst_are_all_different_and_sort_by_time() -> None:
    chance = random.Random(1)
    ids = [message_id(1_700_000_000_000 + n // 50_000, chance.getrandbits(76)) for n in range(100_000)]
    assert len(set(ids)) == 100_000
    assert max(ids[:50_000]) < min(ids[50_000:])
    read = uuid.UUID(ids[0])
    assert (read.version, read.variant) == (7, uuid.RFC_4122)
    assert read.int >> 80 == 1_700_000_000_000


async def test_a_message_gets_such_an_id_from_its_client() -> None:
    async with starling.testing.mesh(Notebook) as mesh:
        await mesh.send(AgentId("notebook", "a"), Note(1))
        await mesh.idle()
        (made,) = (await mesh.state(Notebook, "a")).ids
        assert uuid.UUID(made).version == 7


@message("batch.Count")
@dataclass
class Count:
    pass


@message("batch.Counted")
@dataclass
class Counted:
    calls: int


class Teller(Agent[Notes]):
    @rpc
    async def count(self, message: Count) -> Counted:
        self.state.numbers.append(len(self.state.numbers))
        return Counted(len(self.state.numbers))


async def test_calls_that_wait_for_the_same_mailbox_share_frames() -> None:
    async with starling.testing.mesh(Teller, shards=1) as mesh:
        answers = await asyncio.gather(*(mesh.call(AgentId("teller", "a"), Count()) for _ in range(100)))
        assert sorted(answer.calls for answer in answers) == list(range(1, 101))
        names = MeshNames(MESH).pool(PoolName("teller"))
        subject = names.inlet_subject(ShardId(0), Inlet(Origin.OUTSIDE, Lane.NORMAL))
        frames = await mesh._admin.page(names.mailbox(ShardId(0)), subject, 1)
        assert sum(len(open_frame(frame.data)) for frame in frames) == 100
        assert len(frames) < 10
