"""Two processes believe that they own one shard: only one has any effect, and the other stops by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starling import AgentId

from tests.integration.probes import Busy, Nap, Numbered, Passed, Record, Relayed, Tell

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster, Pod, Pool


async def numbered(record: Record, sender: str, last: int) -> None:
    assert (record.count, record.last, record.wrong) == (last, {sender: last}, [])


@pytest.mark.row("RT-5")
async def test_an_owner_frozen_in_a_turn_and_thawed_after_a_takeover_has_no_effect_and_stops_by_itself(
    cluster: Cluster, tmp_path: Path
) -> None:
    pool = await cluster.pool(shards=2)
    relay, sleeper = AgentId("relay", pool.key("relay", 0)), AgentId("sleeper", pool.key("sleeper", 0))
    recorder = AgentId("recorder", pool.key("recorder", 1))
    await pool.map("w-0", "w-1")
    old, _ = pool.start("w-0"), pool.start("w-1")
    await pool.owns("w-1", 1)
    async with cluster.client() as mesh:
        for value in range(1, 6):
            await mesh.send(relay, Relayed(recorder.key, value))
        assert (await mesh.call(relay, Tell())).last == 5
        note = tmp_path / "note"
        await mesh.send(sleeper, Nap(0.7, str(note)))

        async def started() -> bool:
            return await asyncio.to_thread(note.exists)

        await cluster.until(started)
        old.freeze()  # the turn is under way: it ends after the thaw, and its commit is late
        for value in range(6, 11):  # what waits for the frozen owner
            await mesh.send(relay, Relayed(recorder.key, value))
        first = (await pool.owner(0)).epoch

        async def expired() -> bool:
            return await pool.member("w-0") is None

        await cluster.until(expired)
        await pool.map("w-1")
        await pool.owns("w-1", 0, 1)
        passed: Passed = await mesh.call(relay, Tell(), timeout=60)
        assert (passed.last, passed.wrong) == (10, 0)
        naps: Busy = await mesh.call(sleeper, Tell(), timeout=60)
        assert naps.naps == 1

        old.thaw()
        await pool.owns("w-0")  # it is a member again, and owns nothing
        assert old.process.poll() is None
        record = await pool.owner(0)
        assert (record.owner.partition("/")[0], record.epoch) == ("w-1", first + 1)

        for value in range(11, 21):
            await mesh.send(relay, Relayed(recorder.key, value))
        passed = await mesh.call(relay, Tell(), timeout=60)
        assert (passed.passed, passed.last, passed.wrong) == ({recorder.key: 20}, 20, 0)
        await settled(cluster, pool, recorder, 20)
        await numbered(await mesh.call(recorder, Tell()), relay.key, 20)
        assert (await mesh.call(sleeper, Tell())).naps == 1
    assert "fenced" in old.log.read_text()


async def settled(cluster: Cluster, pool: Pool, recorder: AgentId, count: int) -> None:
    """Wait until the recorder has heard of everything."""
    async with cluster.client() as mesh:

        async def heard() -> bool:
            return bool((await mesh.call(recorder, Tell(), timeout=60)).count >= count)

        await cluster.until(heard)


async def test_an_idle_owner_that_was_replaced_in_its_sleep_learns_it_without_writing(cluster: Cluster) -> None:
    pool = await cluster.pool()
    recorder = AgentId("recorder", "k")
    await pool.map("w-0")
    old = pool.start("w-0")
    await pool.owns("w-0", 0)
    old.freeze()
    new = pool.start("w-0")  # a second process of the same pod: it takes in place
    async with cluster.client() as mesh:
        await mesh.send(recorder, Numbered("me", 1))
        await numbered(await mesh.call(recorder, Tell(), timeout=60), "me", 1)
        taken = await pool.owner()
        old.thaw()

        async def learned() -> bool:
            return "fenced" in await asyncio.to_thread(old.log.read_text)

        await cluster.until(learned)
        for value in range(2, 50):
            await mesh.send(recorder, Numbered("me", value))
        await numbered(await mesh.call(recorder, Tell(), timeout=60), "me", 49)
    after = await pool.owner()
    assert (after.owner, after.epoch) == (taken.owner, taken.epoch), "it took the shard back from its successor"
    assert new.process.poll() is None


async def test_a_restarted_pod_takes_its_shards_again_in_place(cluster: Cluster) -> None:
    pool = await cluster.pool(shards=2)
    await pool.map("w-0")
    pod: Pod = pool.start("w-0")
    before = await pool.owns("w-0", 0, 1)
    pod.kill()
    await pod.ended()
    pool.start("w-0")

    async def again() -> bool:
        member = await pool.member("w-0")
        return member is not None and member.start != before.start and len(member.shards) == 2

    await cluster.until(again)
    after = await pool.member("w-0")
    assert after is not None
    assert {shard: epoch - 1 for shard, epoch in after.shards.items()} == before.shards


@pytest.mark.row("CP-8", part="orphans find an owner")
async def test_without_anybody_in_control_orphans_are_adopted_and_a_restarted_pod_takes_its_own(
    cluster: Cluster,
) -> None:
    pool = await cluster.pool(shards=2)
    keys = [AgentId("recorder", pool.key("recorder", shard)) for shard in (0, 1)]
    await pool.map("w-0", "w-1")
    gone, restarted = pool.start("w-0"), pool.start("w-1")
    await pool.owns("w-0", 0)
    await pool.owns("w-1", 1)
    async with cluster.client() as mesh:
        for key in keys:
            await mesh.send(key, Numbered("me", 1))
        restarted.kill()
        await restarted.ended()
        pool.start("w-1")
        await mesh.send(keys[1], Numbered("me", 2))
        await numbered(await mesh.call(keys[1], Tell(), timeout=30), "me", 2)

        gone.kill()
        await gone.ended()
        await mesh.send(keys[0], Numbered("me", 2))
        await numbered(await mesh.call(keys[0], Tell(), timeout=60), "me", 2)
        await pool.owns("w-1", 0, 1)
        assert (await pool.owner(0)).map_rev == 1
