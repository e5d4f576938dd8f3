"""Queries, passivation, parked agents and agents that record nothing: over a real server and real processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.request import urlopen

import msgpack
import pytest
from starling import AgentId
from starling.core.ids import ShardId
from starling.core.names import bucket_stream, bucket_subject, cell_key
from starling.core.overlay import TableValue
from starling.engine.repairs import REPAIR
from starling.errors import ReadOnly, StateUnreadable, Unreachable

from tests.integration.keepers import Ask, Cell, Keeper, Put, Quick

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster, Pool

AGENTS = {"keeper": "tests.integration.keepers:Keeper", "quick": "tests.integration.keepers:Quick"}
KEEPER = AgentId("keeper", "k0")


@pytest.fixture
async def pool(cluster: Cluster) -> Pool:
    return await cluster.pool("keepers", agents=AGENTS)


async def figures(pool: Pool, pod: str) -> dict[str, float]:
    """Sums over all series that a pod shows, by metric."""
    member = await pool.member(pod)
    assert member is not None
    text = await asyncio.to_thread(lambda: urlopen(f"http://{member.metrics}/metrics", timeout=5).read().decode())
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.split("{")[0].split(" ")[0], line.rsplit(" ", 1)[1]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


@pytest.mark.row("RT-84", part="queries")
async def test_queries_are_answered_by_whoever_owns_the_shard_and_cost_no_commit(cluster: Cluster, pool: Pool) -> None:
    await pool.map("a")
    first = pool.start("a")
    await pool.owns("a", 0)
    async with cluster.client() as mesh:
        keeper = mesh.agent(Keeper, "k0")
        await mesh.call(KEEPER, Put(7))
        names = pool.names
        before = await cluster.store.last(names.journal(ShardId(0)), names.journal_subject(ShardId(0)))
        assert [await keeper.ask(Ask(), timeout=5.0) for _ in range(50)] == [7] * 50
        with pytest.raises(ReadOnly, match=r"Keeper\.ask is a @query, and it tried to send"):
            await keeper.ask(Ask("send"))
        after = await cluster.store.last(names.journal(ShardId(0)), names.journal_subject(ShardId(0)))
        assert before is not None
        assert after is not None
        assert after.sequence - before.sequence <= 1  # at most the floor of what was there before

        first.kill()
        await first.ended()
        with pytest.raises(Unreachable, match="no owner"):
            await keeper.ask(Ask(), timeout=0.3)
        asked = asyncio.create_task(mesh.query(KEEPER, Ask(), timeout=60.0))
        pool.start("b")
        await pool.map("b")
        assert await asked == 7


@pytest.mark.row("RT-84", part="queries")
async def test_an_asker_never_goes_back_to_an_owner_that_was_replaced(cluster: Cluster, pool: Pool) -> None:
    await pool.map("a")
    first = pool.start("a")
    await pool.owns("a", 0)
    async with cluster.client() as mesh:
        await mesh.call(KEEPER, Put(1))
        first.freeze()
        pool.start("b")
        await pool.map("b")
        await pool.owns("b", 0)
        await mesh.call(KEEPER, Put(1))
        assert await mesh.query(KEEPER, Ask(), timeout=60.0) == 2
        first.thaw()
        for _ in range(200):
            assert await mesh.query(KEEPER, Ask()) == 2


@pytest.mark.row("RT-7", part="return")
async def test_an_idle_agent_leaves_the_memory_of_its_pod_and_comes_back_with_its_state(
    cluster: Cluster, pool: Pool
) -> None:
    await pool.map("a")
    pool.start("a")
    await pool.owns("a", 0)
    async with cluster.client() as mesh:
        for n in range(20):
            await mesh.call(AgentId("keeper", f"k{n}"), Put(n))
        assert await mesh.agent(Keeper, "k0").add(Cell("x", 5)) == 5

        async def all_gone() -> bool:
            return (await figures(pool, "a"))["starling_active_agents"] == 0

        await cluster.until(all_gone)
        assert [await mesh.query(AgentId("keeper", f"k{n}"), Ask()) for n in range(20)] == list(range(20))
        assert (await figures(pool, "a"))["starling_active_agents"] == 0
        await mesh.call(AgentId("keeper", "k7"), Put(100))
        assert await mesh.query(AgentId("keeper", "k7"), Ask()) == 107
        assert await mesh.agent(Keeper, "k0").add(Cell("x", 1)) == 6


@pytest.mark.row("RT-39", part="parked and repaired")
async def test_a_corrupt_cell_in_the_table_parks_its_agent_until_it_is_repaired(cluster: Cluster, pool: Pool) -> None:
    subject = bucket_subject(pool.names.table, cell_key(ShardId(0), KEEPER, "state"))
    await (await cluster.store.publish(subject, TableValue(1, 1, b'{"cents": "many"}').encode()))
    await pool.map("a")
    pool.start("a")
    await pool.owns("a", 0)
    async with cluster.client() as mesh:
        await mesh.send(KEEPER, Put(1))
        with pytest.raises(StateUnreadable, match=r"state of keeper\.cents"):
            await mesh.call(KEEPER, Put(1))
        await mesh.call(AgentId("keeper", "k1"), Put(5))
        assert await mesh.query(AgentId("keeper", "k1"), Ask()) == 5

        async def is_dead() -> bool:
            return [letter.reason for letter in await pool.dead_letters()] == ["StateUnreadable"]

        await cluster.until(is_dead)
        assert (await figures(pool, "a"))["starling_quarantined_agents"] == 1
        member = await pool.member("a")
        assert member is not None
        ready = await asyncio.to_thread(lambda: urlopen(f"http://{member.metrics}/readyz", timeout=5).status)
        assert ready == 200

        await mesh.query_raw(KEEPER, REPAIR, msgpack.packb({"data": b'{"cents": 40}'}))
        await mesh.call(KEEPER, Put(2))
        assert await mesh.query(KEEPER, Ask()) == 42
        assert (await figures(pool, "a"))["starling_quarantined_agents"] == 0


@pytest.mark.row("RT-84", part="durability none")
async def test_an_agent_that_records_nothing_answers_and_starts_anew_with_its_pod(cluster: Cluster, pool: Pool) -> None:
    await pool.map("a")
    first = pool.start("a")
    await pool.owns("a", 0)
    async with cluster.client() as mesh:
        quick = mesh.agent(Quick, "q")
        assert [await quick.put(Put(1), timeout=10.0) for _ in range(20)] == list(range(1, 21))
        assert await quick.ask(Ask()) == 20
        first.kill()
        await first.ended()
        pool.start("a")
        assert await mesh.query(AgentId("quick", "q"), Ask(), timeout=60.0) >= 0
        assert (await quick.put(Put(1), timeout=30.0)) <= 21  # what had no record yet may be handled again
    keys = await cluster.store.last_values(
        bucket_stream(pool.names.table),
        [bucket_subject(pool.names.table, cell_key(ShardId(0), AgentId("quick", "q"), "state"))],
    )
    assert not keys.found
