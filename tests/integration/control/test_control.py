"""The control loop over a real nats-server and real workers: what it does, in which order, and what it leaves alone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from starling.adapters.nats import EmbeddedServer
from starling.core.ids import PodName, PoolName, ShardId
from starling.core.membership import ShardMap
from starling.core.names import MeshNames, bucket_stream, object_stream
from starling.core.retry import RetryPolicy
from starling.errors import Fenced
from starling.ports.store import StreamInfo
from starling_operator.api import AgentSubscription, parse

from tests.integration.control.pods import SHARDS, World, is_whole, pool, target, world


@pytest.fixture
async def mesh(nats_server: EmbeddedServer) -> AsyncIterator[World]:
    async with world(nats_server.url, f"control-{uuid.uuid4().hex[:8]}") as made:
        yield made


def subscription(name: str, agent_type: str = "ticker", of: str = "tickers", **spec: object) -> AgentSubscription:
    made = parse(
        {
            "apiVersion": "starlingmesh.dev/v1alpha1",
            "kind": "AgentSubscription",
            "metadata": {"name": name},
            "spec": {"topic": "ticked", "poolRef": {"name": of}, "agentType": agent_type, **spec},
        }
    )
    assert isinstance(made, AgentSubscription)
    return made


async def test_a_new_pool_is_placed_once_and_then_left_alone(mesh: World) -> None:
    await mesh.until(pool(), is_whole(2))
    revision, placed = await mesh.mesh.map("tickers")
    assert placed is not None
    assert sorted(placed.shards.values()) == ["tickers-0"] * 2 + ["tickers-1"] * 2
    assert mesh.pods.shards(0) == {shard for shard, pod in placed.shards.items() if pod == "tickers-0"}
    for _ in range(5):
        await mesh.control.look(pool(), None, {})
    assert (await mesh.mesh.map("tickers"))[0] == revision
    assert mesh.told() == []


@pytest.mark.row("CP-10", part="a pod leaves only when it owns nothing")
async def test_shards_leave_a_pod_before_the_pod_leaves(mesh: World) -> None:
    await mesh.until(pool(replicas=3), is_whole(3))
    await mesh.until(pool(replicas=1), is_whole(1))
    assert mesh.pods.owned_at_the_end == {"tickers-1": 0, "tickers-2": 0}
    assert "ScaledDown: from 3 to 1 pods" in mesh.told()
    assert [line for line in mesh.told() if "(draining)" in line]


async def test_a_pod_that_joins_takes_its_share_of_what_runs(mesh: World) -> None:
    await mesh.until(pool(replicas=1), is_whole(1))
    await mesh.until(pool(replicas=2), lambda report: is_whole(2)(report) and len(mesh.pods.shards(1)) == 2)
    assert "ScaledUp: from 1 to 2 pods" in mesh.told()
    assert mesh.control.moves == []  # nothing moved by load


@pytest.mark.row("CP-22", part="a hot pod's shard runs elsewhere")
async def test_measured_load_moves_a_shard_to_the_cooler_pod(mesh: World) -> None:
    await mesh.until(pool(), is_whole(2), target())
    hot = mesh.pods.shards(0)
    mesh.loads.set(*(0.4 if shard in hot else 0.05 for shard in map(ShardId, range(SHARDS))))
    report = await mesh.until(pool(), lambda report: len(mesh.pods.shards(1)) == 3, target())
    assert report.moves == 1
    assert report.last_move is not None
    assert (report.last_move.source, report.last_move.target) == ("tickers-0", "tickers-1")
    assert report.load == pytest.approx(0.5)
    assert [each[2] for each in mesh.control.moves] == [report.last_move]


async def test_waiting_messages_bring_in_a_pod(mesh: World) -> None:
    scaled = target(signals=[{"type": "LagPerPod", "target": "100"}])
    await mesh.until(pool(), is_whole(2), scaled)
    mesh.loads.set(0.1, 0.1, 0.1, 0.1, lag=900.0)
    report = await mesh.until(pool(), is_whole(3), scaled)
    assert report.desired == 3
    assert [each[1:] for each in mesh.control.scale_ups] == [("tickers", 3)]


@pytest.mark.row("CP-7", part="its shards run elsewhere, others undisturbed")
async def test_a_pod_that_dies_for_good_loses_its_shards_to_the_others(mesh: World) -> None:
    await mesh.until(pool(replicas=3), is_whole(3))
    kept = mesh.pods.shards(0)
    await mesh.pods.crash(2)
    await mesh.until(pool(replicas=3), lambda report: report.ready == 2 and report.shards_owned == SHARDS)
    assert kept <= mesh.pods.shards(0)
    assert mesh.pods.shards(0) | mesh.pods.shards(1) == set(map(ShardId, range(SHARDS)))
    assert [line for line in mesh.told() if "(lost)" in line]


@pytest.mark.row("CP-12", part="of two at once one map is written")
async def test_of_two_control_loops_at_once_one_writes_the_map_and_the_other_plans_anew(mesh: World) -> None:
    second = mesh.another()
    reports = await asyncio.gather(
        *(control.look(pool(), None, {}) for control in (mesh.control, second)), return_exceptions=True
    )
    assert [report for report in reports if isinstance(report, BaseException)] == []
    assert sorted(report.refused for report in reports if not isinstance(report, BaseException)) == [0, 1]
    await mesh.until(pool(), is_whole(2), control=second)
    _, placed = await mesh.mesh.map("tickers")
    assert placed is not None
    assert placed.rev == 1


@pytest.mark.row("CP-12", part="whoever lost the lease writes nothing")
async def test_a_control_loop_that_may_not_write_writes_nothing(mesh: World) -> None:
    with pytest.raises(Fenced):
        await mesh.another(allowed=lambda: False).look(pool(), None, {})
    assert await mesh.mesh.map("tickers") == (0, None)
    assert mesh.pods.spec is None


async def test_a_new_control_loop_finds_everything_as_it_should_be(mesh: World) -> None:
    await mesh.until(pool(), is_whole(2))
    before = await mesh.mesh.map("tickers")
    report = await mesh.until(pool(), is_whole(2), control=mesh.another())
    assert await mesh.mesh.map("tickers") == before
    assert report.events == ()


async def test_moves_go_on_counting_from_what_an_earlier_process_said(mesh: World) -> None:
    await mesh.until(pool(), is_whole(2))
    report = await mesh.another().look(pool(), target(), {}, moves=7)
    assert report.moves == 7


@pytest.mark.row("CP-19", part="a dry run changes nothing")
async def test_a_dry_run_shows_the_plan_and_changes_nothing(mesh: World) -> None:
    report = await mesh.control.look(pool(dryRun=True), None, {})
    assert "shard 0: nobody -> tickers-0 (first)" in report.plan
    assert await mesh.mesh.map("tickers") == (0, None)
    assert mesh.pods.spec is None

    await mesh.until(pool(), is_whole(2))
    before = await mesh.mesh.map("tickers")
    fewer = await mesh.control.look(pool(replicas=1, dryRun=True), None, {})
    assert "(draining)" in fewer.plan
    assert await mesh.mesh.map("tickers") == before
    same = await mesh.control.look(pool(dryRun=True), None, {})
    assert same.plan == "nothing to do"


@pytest.mark.row("CP-19", part="paused altogether, nothing is done")
async def test_a_pool_that_is_paused_altogether_is_not_touched(mesh: World) -> None:
    await mesh.control.look(pool(pause="all"), None, {})
    assert await mesh.pods.observe("tickers") is None

    await mesh.until(pool(), is_whole(2))
    before = await mesh.mesh.map("tickers")
    for _ in range(3):
        await mesh.control.look(pool(replicas=1, pause="all"), None, {})
    assert await mesh.mesh.map("tickers") == before
    seen = await mesh.pods.observe("tickers")
    assert seen is not None
    assert seen.replicas == 2


async def test_a_map_that_somebody_else_wrote_is_the_one_that_is_planned_on(mesh: World) -> None:
    await mesh.until(pool(), is_whole(2))
    revision, placed = await mesh.mesh.map("tickers")
    assert placed is not None
    swapped = {
        shard: PodName("tickers-1" if pod == "tickers-0" else "tickers-0") for shard, pod in placed.shards.items()
    }
    assert await mesh.mesh.write_map("tickers", ShardMap(placed.rev + 1, swapped), over=revision)
    assert not await mesh.mesh.write_map("tickers", placed, over=revision)

    def is_swapped(_: object) -> bool:
        return mesh.pods.shards(0) == {shard for shard, pod in swapped.items() if pod == "tickers-0"}

    await mesh.until(pool(), is_swapped)
    assert (await mesh.mesh.map("tickers"))[1] == ShardMap(placed.rev + 1, swapped)


async def test_routes_are_written_once_and_say_what_leads_nowhere(mesh: World) -> None:
    second = pool("others")
    subscriptions = [subscription("good"), subscription("nobody", "nothing"), subscription("wrong", of="others")]
    said = await mesh.control.route([second, pool()], subscriptions)
    assert {name: wish.reason for (_, name), wish in said.items()} == {
        "others": "TypeTaken",
        "good": "Routed",
        "nobody": "NoSuchAgentType",
        "wrong": "WrongPool",
    }
    assert said["AgentSubscription", "nobody"].message.startswith("spec.agentType: ")
    assert said["AgentSubscription", "wrong"].message.startswith("spec.poolRef.name is ")
    revision, table = await mesh.mesh.routes()
    assert set(table.pools) == {"tickers", "others"}
    assert table.agent_types == {"ticker": PoolName("tickers")}
    assert [(each.topic, each.agent_type) for each in table.subscriptions] == [("ticked", "ticker")]

    await mesh.control.route([pool(), second], subscriptions)
    assert (await mesh.mesh.routes())[0] == revision
    await mesh.mesh.remove("others", SHARDS, data=True)


async def streams(mesh: World, pool: str = "tickers") -> list[StreamInfo]:
    """All streams of a pool."""
    names = MeshNames(mesh.mesh.mesh).pool(PoolName(pool))
    made = [names.dead_letters, bucket_stream(names.table), object_stream(names.objects)]
    made += [name for n in range(SHARDS) for name in (names.mailbox(ShardId(n)), names.journal(ShardId(n)))]
    found = [await mesh.mesh._store.stream_info(name) for name in made]
    assert None not in found
    return [info for info in found if info is not None]


async def compressions(mesh: World) -> set[str]:
    """How the streams of the pool are compressed."""
    return {info.compression for info in await streams(mesh)}


@pytest.mark.row("RT-92", part="compression of streams: a setting of the pool, off by default")
async def test_a_pools_streams_are_compressed_when_it_asks_for_that_and_not_before(mesh: World) -> None:
    await mesh.control.route([pool()], [])
    assert await compressions(mesh) == {"none"}
    packed = {"maxBytes": "16Mi", "compression": "s2", "largeCompression": "zstd"}
    await mesh.control.route([pool(streams=packed)], [])
    assert await compressions(mesh) == {"s2"}
    _, table = await mesh.mesh.routes()
    assert table.pools[PoolName("tickers")].large_compression == "zstd"
    await mesh.control.route([pool()], [])
    assert await compressions(mesh) == {"none"}


async def test_a_pools_streams_are_where_it_says(mesh: World) -> None:
    agents = [{"type": "other", "entrypoint": "pods:Ticker"}]
    await mesh.control.route([pool("fleeting", agents=agents, streams={"maxBytes": "1Mi", "storage": "memory"})], [])
    assert {info.storage for info in await streams(mesh, "fleeting")} == {"memory"}
    assert {info.storage for info in await streams(mesh)} == {"file"}
    await mesh.mesh.remove("fleeting", SHARDS, data=True)


async def test_a_subscriptions_delivery_is_in_the_route_table_by_field_over_the_pools(mesh: World) -> None:
    given = subscription("given", delivery={"attempts": 2, "initialSeconds": 0.5})
    await mesh.control.route([pool(delivery={"attempts": 7, "jitter": False})], [given, subscription("plain")])
    table = (await mesh.mesh.routes())[1]
    assert [row.retry for row in table.subscriptions] == [RetryPolicy(2, initial=0.5, jitter=False), None]


async def test_who_has_an_agent_type_keeps_it_whatever_the_order_of_names(mesh: World) -> None:
    said = await mesh.control.route([pool("another"), pool()], [])
    assert said["AgentPool", "another"].reason == "TypeTaken"
    await mesh.control.route([pool("another"), pool()], [])  # and again, now that both are known
    assert (await mesh.mesh.routes())[1].agent_types == {"ticker": PoolName("tickers")}

    await mesh.control.route([pool("another")], [])
    assert (await mesh.mesh.routes())[1].agent_types == {"ticker": PoolName("another")}
    await mesh.mesh.remove("another", SHARDS, data=True)


async def test_a_pool_in_a_dry_run_gets_no_route(mesh: World) -> None:
    await mesh.control.route([pool("planned", dryRun=True)], [])
    assert "planned" not in (await mesh.mesh.routes())[1].pools
