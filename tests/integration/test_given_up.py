"""Messages that cannot be handled or taken: dead letters with their reason, refusals, and others go on meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from starling import AgentId, Topic
from starling.core.ids import ShardId
from starling.core.names import INLETS
from starling.errors import MailboxFull
from starling.ports.store import Stored

from tests.integration.probes import Break, Deadly, Numbered, Record, Tell, Unhandled

if TYPE_CHECKING:
    from starling.engine.dead import DeadLetter

    from tests.integration.conftest import Cluster, Pool

QUICK = {"attempts": 3, "initialSeconds": 0.05, "maxSeconds": 0.1}
NUMBERS = Topic("probe.numbers")


async def letters_of(cluster: Cluster, pool: Pool, count: int) -> list[DeadLetter]:
    """Wait for so many dead letters and return them."""

    async def come() -> bool:
        return len(await pool.dead_letters()) >= count

    await cluster.until(come)
    return await pool.dead_letters()


@pytest.mark.row("RT-30", part="kept with reason, stack, attempts, headers and target, while others go on")
async def test_a_poison_message_ends_in_the_dead_letters_while_other_agents_go_on(cluster: Cluster) -> None:
    pool = await cluster.pool(delivery=QUICK)
    await pool.map("w-0")
    pool.start("w-0")
    async with cluster.client() as mesh:
        await mesh.send(AgentId("caller", "bad"), Break("boom"), id="poison-1", headers={"who": "me"})
        for value in range(1, 51):
            await mesh.send(AgentId("recorder", "good"), Numbered("me", value))
        (letter,) = await letters_of(cluster, pool, 1)
        record: Record = await mesh.call(AgentId("recorder", "good"), Tell())
    assert (record.count, record.wrong) == (50, [])
    assert (letter.reason, letter.text, letter.attempts) == ("ValueError", "boom", QUICK["attempts"])
    assert "raise DoNotRetry(message.text) if message.final else ValueError(message.text)" in letter.stack
    assert letter.envelope is not None
    assert (letter.envelope.id, letter.envelope.target, letter.envelope.type) == (
        *("poison-1", AgentId("caller", "bad"), "Break"),
    )
    assert letter.envelope.headers == {"who": "me"}


@pytest.mark.parametrize(
    ("message", "reason"),
    [(Break("boom", final=True), "DoNotRetry"), (Unhandled(), "CantHandle")],
    ids=["do-not-retry", "no-handler"],
)
async def test_what_no_further_attempt_can_help_becomes_a_dead_letter_after_the_first(
    cluster: Cluster, message: object, reason: str
) -> None:
    pool = await cluster.pool(delivery=QUICK)
    await pool.map("w-0")
    pool.start("w-0")
    async with cluster.client() as mesh:
        await mesh.send(AgentId("caller", "k"), message)
        (letter,) = await letters_of(cluster, pool, 1)
    assert (letter.reason, letter.attempts) == (reason, 1)


@pytest.mark.row("RT-13", part="an unknown type is dead-lettered with its name")
async def test_a_type_that_nobody_has_registered_is_a_dead_letter_with_its_name(cluster: Cluster) -> None:
    pool = await cluster.pool()
    await pool.map("w-0")
    pool.start("w-0")
    async with cluster.client() as mesh:
        await mesh.send_raw(AgentId("recorder", "k"), "os.system", b'{"x": 1}')
        (letter,) = await letters_of(cluster, pool, 1)
    assert letter.envelope is not None
    assert letter.envelope.type == "os.system"
    assert "os.system" in letter.text


@pytest.mark.row("RT-11", part="an unknown version is refused by name", completes=True)
async def test_bytes_that_are_no_frame_become_a_dead_letter_and_what_follows_is_handled(cluster: Cluster) -> None:
    pool = await cluster.pool()
    await pool.map("w-0")
    pool.start("w-0")
    subject = pool.names.inlet_subject(ShardId(0), INLETS[0])
    for data, headers in ((b"\xc1 no frame", {}), (b"\x90", {"St-V": "99"}), (b"\x91\x80", {})):
        assert isinstance(await (await cluster.store.publish(subject, data, headers)), Stored)
    async with cluster.client() as mesh:
        await mesh.send(AgentId("recorder", "k"), Numbered("me", 1))
        letters = await letters_of(cluster, pool, 3)
        assert (await mesh.call(AgentId("recorder", "k"), Tell())).count == 1
    assert [letter.reason for letter in letters] == ["DecodeError"] * 3
    assert [letter.raw for letter in letters] == [b"\xc1 no frame", b"\x90", b"\x91\x80"]
    assert "wire version 99 is newer" in letters[1].text


@pytest.mark.row("RT-28", part="the pod killed in each attempt: dead letter with that count")
async def test_a_message_that_kills_the_process_ends_in_the_dead_letters_and_others_are_handled(
    cluster: Cluster,
) -> None:
    pool = await cluster.pool(delivery={**QUICK, "attempts": 2})
    await pool.map("w-0")
    deadly = AgentId("caller", "deadly")
    async with cluster.client() as mesh:
        await mesh.send(deadly, Deadly(), id="deadly-1")
        for value in range(1, 21):
            await mesh.send(AgentId("recorder", "k"), Numbered("me", value))
        ends = 0
        pod = pool.start("w-0")
        async with asyncio.timeout(90):
            while not await pool.dead_letters():
                if pod.process.poll() is not None:  # as a kubelet would
                    assert pod.process.returncode == 7
                    ends += 1
                    pod = pool.start("w-0")
                await asyncio.sleep(0.05)
        (letter,) = await pool.dead_letters()
        record: Record = await mesh.call(AgentId("recorder", "k"), Tell(), timeout=60)
    assert letter.envelope is not None
    assert letter.envelope.id == "deadly-1"
    assert letter.attempts == 2
    assert ends >= 2
    assert (record.count, record.wrong) == (20, [])
    assert pod.process.poll() is None


@pytest.mark.row("RT-25", part="the first message above the limit is refused; commits never are")
async def test_a_full_mailbox_refuses_the_sender_and_never_a_commit(cluster: Cluster) -> None:
    pool = await cluster.pool(mailbox_limit=5)
    recorder = AgentId("recorder", "k")
    async with cluster.client() as mesh:
        for value in range(1, 6):
            await mesh.send(recorder, Numbered("me", value))
        with pytest.raises(MailboxFull, match="is full"):
            await mesh.send(recorder, Numbered("me", 6))
        await pool.map("w-0")
        pool.start("w-0")  # its commits go through although the mailbox is full
        await pool.owns("w-0", 0)

        async def committed() -> bool:
            return sum((await pool.owner()).floors.values()) > 0

        await cluster.until(committed)
        with pytest.raises(MailboxFull):  # what was handled counts until the window has passed
            await mesh.send(recorder, Numbered("me", 6))


@pytest.mark.row("RT-24", part="two of three handle it, the failing one is named")
async def test_a_subscriber_that_fails_changes_nothing_for_the_publisher_and_the_others(cluster: Cluster) -> None:
    code = "tests.integration.probes:"
    pools = [
        await cluster.pool("good", agents={"recorder": f"{code}Recorder"}),
        await cluster.pool("also", agents={"relay": f"{code}Relay"}),
        await cluster.pool("bad", agents={"caller": f"{code}Caller"}, delivery=QUICK),
    ]
    await cluster.subscribe(NUMBERS.type, "recorder", "caller", "relay")
    for pool in pools:
        await pool.map(f"{pool.name}-0")
        pool.start(f"{pool.name}-0")
    async with cluster.client() as mesh:
        stored = await mesh.publish(NUMBERS("k"), Numbered("me", 1))
        assert len(stored) == 3
        record: Record = await mesh.call(AgentId("recorder", "k"), Tell(), timeout=60)
        assert (record.count, record.wrong) == (1, [])
        (letter,) = await letters_of(cluster, pools[2], 1)
    assert letter.envelope is not None
    assert str(letter.envelope.target) == "caller/k"


@pytest.mark.row("RT-16", part="published twice from outside within the window, one turn")
async def test_the_same_id_twice_within_the_window_has_one_effect(cluster: Cluster) -> None:
    pool = await cluster.pool()
    await pool.map("w-0")
    pool.start("w-0")
    recorder = AgentId("recorder", "k")
    for _ in range(2):  # the same producer, again after a restart of its own
        async with cluster.client(name="producer") as mesh:
            first = await mesh.send(recorder, Numbered("me", 1), id="one")
            again = await mesh.send(recorder, Numbered("me", 1), id="one")
            assert again.duplicate
            assert again.sequence == first.sequence
    async with cluster.client(name="another") as mesh:
        other = await mesh.send(recorder, Numbered("other", 1), id="one")
        assert not other.duplicate
        async with asyncio.timeout(60):
            record = Record()
            while record.count < 2:
                record = await mesh.call(recorder, Tell(), timeout=60)
    assert (record.count, record.last, record.wrong) == (2, {"me": 1, "other": 1}, [])


@pytest.mark.row("RT-9")
async def test_keys_of_any_text_work_over_a_real_server(cluster: Cluster) -> None:
    keys = ["a.b", "*", ">", "a b", "a/b", "=", "%41", "🛫 é", "x" * 256, "ü" * 128, "\x00"]
    pool = await cluster.pool(shards=4)
    await pool.map("w-0")
    pool.start("w-0")
    async with cluster.client() as mesh:
        for number, key in enumerate(keys):
            for value in range(1, number + 2):
                await mesh.send(AgentId("recorder", key), Numbered("me", value))
        for number, key in enumerate(keys):
            record: Record = await mesh.call(AgentId("recorder", key), Tell(), timeout=60)
            assert (record.count, record.wrong) == (number + 1, []), key
