"""From objects to a mesh: the operator at work on a real API server, with real pods and a real NATS server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starling import AgentId
from starling.adapters.nats import EmbeddedServer, connect
from starling.core.ids import PoolName, ShardId
from starling.core.names import MeshNames, bucket_stream
from starling.core.routes import Routes
from starling.provision import read_map, read_routes

from hack.cluster.api import MERGE
from hack.cluster.kit import Cluster, pid_of
from tests.cluster.clicks import CLICKED, Clicked, Clicker, Clicks, HowManyClicks
from tests.cluster.operated import Operated, code, operated, pool, subscription, target

KEYS = tuple(f"key-{number}" for number in range(12))


@pytest.fixture
def mesh(mesh_cluster: Cluster, nats_server: EmbeddedServer, tmp_path: Path) -> Iterator[Operated]:
    with operated(mesh_cluster, nats_server, tmp_path / "operator") as made:
        yield made


async def click(mesh: Operated, first: int, last: int) -> None:
    """Send the numbers from first to last to every key."""
    async with mesh.mesh() as client:
        for number in range(first, last + 1):
            for key in KEYS:
                await client.send(AgentId("clicker", key), Clicked(number))


async def counted(mesh: Operated) -> set[tuple[int, bool]]:
    """Count and order as every key's agent knows them."""
    async with mesh.mesh() as client:
        answers: list[Clicks] = [
            await client.agent(Clicker, key).how_many(HowManyClicks(), timeout=30.0) for key in KEYS
        ]
    return {(answer.count, answer.in_order) for answer in answers}


async def streams(mesh: Operated, name: str = "clickers", shards: int = 4) -> set[str]:
    """The pool's streams that are there, by what they are for."""
    names = MeshNames(mesh.namespace).pool(PoolName(name))
    wanted = {"table": bucket_stream(names.table), "dead letters": names.dead_letters}
    for shard in map(ShardId, range(shards)):
        wanted |= {f"journal {shard}": names.journal(shard), f"mailbox {shard}": names.mailbox(shard)}
    store = await connect(mesh.nats.url, name="test")
    try:
        return {what for what, stream in wanted.items() if await store.stream_info(stream) is not None}
    finally:
        await store.close()


async def routes(mesh: Operated) -> Routes:
    store = await connect(mesh.nats.url, name="test")
    try:
        return (await read_routes(store, mesh.namespace))[1]
    finally:
        await store.close()


async def map_of(mesh: Operated) -> Any:
    store = await connect(mesh.nats.url, name="test")
    try:
        return (await read_map(store, mesh.namespace, PoolName("clickers")))[1]
    finally:
        await store.close()


ALL_STREAMS = {f"{kind} {shard}" for kind in ("journal", "mailbox") for shard in range(4)} | {"table", "dead letters"}


@pytest.mark.row("CP-1")
def test_a_pool_becomes_pods_streams_a_map_and_answers_and_goes_with_its_streams(mesh: Operated) -> None:
    mesh.apply(code(), pool())
    mesh.until_ready()

    assert [each["metadata"]["name"] for each in mesh.pods()] == ["clickers-0", "clickers-1"]
    assert asyncio.run(streams(mesh)) == ALL_STREAMS
    placed = asyncio.run(map_of(mesh))
    assert sorted(placed.shards.values()) == ["clickers-0"] * 2 + ["clickers-1"] * 2
    assert mesh.status()["mapRevision"] == placed.rev
    assert mesh.owned("services")["spec"]["clusterIP"] == "None"
    assert mesh.owned("poddisruptionbudgets")["spec"]["maxUnavailable"] == 1
    assert mesh.owned("serviceaccounts") is not None
    (owner,) = mesh.owned("statefulsets")["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("AgentPool", "clickers", True)

    asyncio.run(click(mesh, 1, 3))
    assert asyncio.run(counted(mesh)) == {(3, True)}

    mesh.cluster.kubectl("delete", "agentpool", "clickers", "--wait=false", "--namespace", mesh.namespace)
    mesh.until("the pool is gone", lambda: mesh.find() is None)
    assert asyncio.run(streams(mesh)) == set()
    assert asyncio.run(map_of(mesh)) is None
    mesh.until("it has left the routes", lambda: not asyncio.run(routes(mesh)).pools)
    mesh.until("what it owned is gone", lambda: mesh.owned("statefulsets") is None and not mesh.pods(), seconds=90)


@pytest.mark.row("CP-36", part="the keep policy of a deleted pool")
def test_a_deleted_pool_that_keeps_its_streams_comes_back_with_its_state(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=1, deletionPolicy="Keep"))
    mesh.until_ready(pods=1)
    asyncio.run(click(mesh, 1, 2))

    mesh.cluster.kubectl("delete", "agentpool", "clickers", "--wait=false", "--namespace", mesh.namespace)
    mesh.until("the pool is gone", lambda: mesh.find() is None)
    mesh.until("its pods are gone", lambda: not mesh.pods(), seconds=90)
    assert asyncio.run(streams(mesh)) == ALL_STREAMS

    mesh.apply(pool(replicas=1))  # of which the streams go at the end
    mesh.until_ready(pods=1)
    asyncio.run(click(mesh, 3, 3))
    assert asyncio.run(counted(mesh)) == {(3, True)}


def test_a_subscription_becomes_a_route_and_says_so(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=1), subscription())
    mesh.until_ready(pods=1)
    mesh.until(
        "the subscription is routed", lambda: mesh.condition("Ready", "AgentSubscription", "clicks")[1] == "Routed"
    )

    async def publish() -> int:
        async with mesh.mesh() as client:
            return len(await client.publish(CLICKED("key-0"), Clicked(1)))

    assert asyncio.run(publish()) == 1

    async def how_many() -> Clicks:
        async with mesh.mesh() as client:
            answer: Clicks = await client.agent(Clicker, "key-0").how_many(HowManyClicks(), timeout=30.0)
            return answer

    assert asyncio.run(how_many()).count == 1

    mesh.cluster.kubectl("delete", "asub", "clicks", "--namespace", mesh.namespace)
    mesh.until("the route is gone", lambda: not asyncio.run(routes(mesh)).subscriptions)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"agentType": "nobody"}, "NoSuchAgentType"), ({"poolRef": {"name": "others"}}, "WrongPool")],
    ids=["an agent type that nobody runs", "a type of another pool"],
)
def test_a_subscription_that_leads_nowhere_says_why(mesh: Operated, wrong: dict[str, Any], reason: str) -> None:
    mesh.apply(code(), pool(replicas=1), subscription(**wrong))
    mesh.until(f"it says {reason}", lambda: mesh.condition("Ready", "AgentSubscription", "clicks")[1] == reason)
    assert asyncio.run(routes(mesh)).subscriptions == ()
    mesh.until("an event says so", lambda: any(line.startswith(f"Warning {reason}") for line in mesh.events()))


def test_a_second_pool_for_an_agent_type_says_that_it_is_taken(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=1))
    mesh.until_ready(pods=1)
    mesh.apply(pool("others", replicas=1))

    mesh.until("it is degraded", lambda: mesh.condition("Degraded", name="others")[:2] == ("True", "TypeTaken"))
    assert mesh.condition("Degraded", name="others")[2] == "agent type 'clicker' belongs to pool clickers"
    assert mesh.condition("Degraded")[0] == "False"
    assert asyncio.run(routes(mesh)).agent_types == {"clicker": "clickers"}

    mesh.cluster.kubectl("delete", "apool", "clickers", "--wait=false", "--namespace", mesh.namespace)
    mesh.until("it is taken no more", lambda: mesh.condition("Degraded", name="others")[0] == "False")


@pytest.mark.parametrize(
    ("objects", "condition"),
    [
        ([target(poolRef={"name": "nobody"})], ("clickers", "NoSuchPool")),
        ([target("a"), target("b")], ("b", "PoolHasTarget")),
    ],
    ids=["a target without a pool", "two targets of one pool"],
)
def test_a_target_that_nobody_follows_says_why(
    mesh: Operated, objects: list[dict[str, Any]], condition: tuple[str, str]
) -> None:
    mesh.apply(code(), pool(replicas=1), *objects)
    name, reason = condition
    mesh.until(f"it says {reason}", lambda: mesh.condition("Ready", "AgentScalingTarget", name)[1] == reason)


def test_a_pool_without_its_code_says_which_config_map_is_missing(mesh: Operated) -> None:
    mesh.apply(pool())
    mesh.until("it says so", lambda: mesh.condition("Ready")[1] == "SpecWrong")
    assert mesh.condition("Ready")[2].startswith("spec.code.configMap: there is no ConfigMap 'code'")
    mesh.until("an event says so", lambda: any(line.startswith("Warning SpecWrong") for line in mesh.events()))
    assert mesh.owned("statefulsets") is None

    mesh.apply(code())
    mesh.until_ready()


@pytest.mark.row("CP-2", part="columns of real objects")
def test_kubectl_get_shows_the_state_of_all_three_kinds(mesh: Operated) -> None:
    mesh.apply(code(), pool(), subscription(), target(minReplicas=2))
    mesh.until_ready()
    mesh.until("all have said it", lambda: mesh.condition("Ready", "AgentSubscription", "clicks")[0] == "True")
    mesh.until("the target as well", lambda: mesh.condition("Ready", "AgentScalingTarget")[0] == "True")

    printed = mesh.cluster.kubectl("get", "apool,asub,ast", "--namespace", mesh.namespace)
    rows = [line.split() for line in printed.splitlines() if "starlingmesh.dev/" in line]
    assert [row[1:-1] for row in rows] == [
        ["True", "2", "4", "4", "0"],
        ["clicked", "clickers", "clicker", "True"],
        ["clickers", "2", "3", "2", "2", "True", "False"],
    ]


@pytest.mark.row("CP-10", part="scaled down in the middle of a run: nothing lost, nothing doubled")
def test_a_pool_is_scaled_up_and_down_under_load_and_loses_nothing(mesh: Operated) -> None:
    mesh.apply(code(), pool())
    mesh.until_ready()

    def scale(replicas: int) -> None:
        mesh.cluster.kubectl("scale", "apool/clickers", f"--replicas={replicas}", "--namespace", mesh.namespace)

    async def run() -> None:
        clicking = asyncio.create_task(click(mesh, 1, 120))
        for replicas in (3, 1):
            await asyncio.to_thread(scale, replicas)
            await asyncio.to_thread(mesh.until_ready, pods=replicas)
        await clicking

    asyncio.run(run())
    assert asyncio.run(counted(mesh)) == {(120, True)}
    assert mesh.events("ScaledUp") == ["Normal ScaledUp: from 2 to 3 pods"]
    assert mesh.events("ScaledDown") == ["Normal ScaledDown: from 3 to 1 pods"]
    assert any("(joined)" in line for line in mesh.events("ShardMoved"))
    assert any("(draining)" in line for line in mesh.events("ShardMoved"))


@pytest.mark.row("CP-14", part="changing the code loses nothing and keeps order")
@pytest.mark.parametrize("replicas", [1, 2])
def test_new_code_replaces_one_pod_after_the_other_and_loses_nothing(mesh: Operated, replicas: int) -> None:
    mesh.apply(code(), pool(replicas=replicas))
    mesh.until_ready(pods=replicas)
    before = {each["metadata"]["uid"] for each in mesh.pods()}

    async def run() -> None:
        clicking = asyncio.create_task(click(mesh, 1, 60))
        await asyncio.to_thread(mesh.apply, code("another version"))

        def replaced() -> bool:
            return len(mesh.pods()) == replicas and not before & {each["metadata"]["uid"] for each in mesh.pods()}

        await asyncio.to_thread(mesh.until, "every pod is another one", replaced)
        await clicking

    asyncio.run(run())
    mesh.until_ready(pods=replicas)
    assert asyncio.run(counted(mesh)) == {(60, True)}
    replaced = [line.split()[3] for line in mesh.events("PodReplaced")]
    assert replaced == [f"clickers-{ordinal}" for ordinal in reversed(range(replicas))]


@pytest.mark.row("CP-19", part="pause and dry run on a cluster")
def test_people_can_pause_a_pool_see_its_plan_and_let_it_go_on(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=1, dryRun=True))
    mesh.until("the plan is there", lambda: mesh.status().get("plan"))
    assert "shard 0: nobody -> clickers-0 (first)" in mesh.status()["plan"]
    assert "replicas: 1" in mesh.status()["plan"]
    assert mesh.owned("statefulsets") is None
    assert asyncio.run(streams(mesh)) == set()

    mesh.apply(pool(replicas=1))
    mesh.until_ready(pods=1)
    assert "plan" not in mesh.status()

    pause = ("annotate", "apool/clickers", "--overwrite", "--namespace", mesh.namespace)
    mesh.cluster.kubectl(*pause, "starlingmesh.dev/pause=scale-out")
    mesh.cluster.kubectl("scale", "apool/clickers", "--replicas=2", "--namespace", mesh.namespace)
    mesh.until("it says so", lambda: mesh.condition("Progressing")[1:] == ("Paused", "people have stopped: scale-out"))
    mesh.until("the new number was seen", lambda: mesh.status()["observedGeneration"] == 3)
    assert mesh.owned("statefulsets")["spec"]["replicas"] == 1

    mesh.cluster.kubectl(*pause, "starlingmesh.dev/pause=everything")
    mesh.until("it is refused", lambda: mesh.condition("Ready")[1] == "SpecWrong")
    assert mesh.condition("Ready")[2].startswith("metadata.annotations[starlingmesh.dev/pause]")
    assert mesh.owned("statefulsets")["spec"]["replicas"] == 1

    mesh.cluster.kubectl(*pause, "starlingmesh.dev/pause-")
    mesh.until_ready(pods=2)


@pytest.mark.row("CP-24", part="status is written only when changed")
def test_a_quiet_pool_is_looked_at_again_and_again_and_never_written(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=1), target(), subscription())
    mesh.until_ready(pods=1)
    mesh.until(
        "the subscription is routed", lambda: mesh.condition("Ready", "AgentSubscription", "clicks")[0] == "True"
    )
    mesh.until("the target is followed", lambda: mesh.condition("Ready", "AgentScalingTarget")[0] == "True")

    def versions() -> list[str]:
        kinds = [("AgentPool", "clickers"), ("AgentScalingTarget", "clickers"), ("AgentSubscription", "clicks")]
        owned = [mesh.owned(kind) for kind in ("statefulsets", "services", "serviceaccounts")]
        return [each["metadata"]["resourceVersion"] for each in [*(mesh.find(*kind) for kind in kinds), *owned]]

    def looks() -> float:
        return mesh.metric('starling_operator_reconcile_seconds_count{result="ok"}') or 0.0

    settled = looks()
    mesh.until("it has settled", lambda: looks() >= settled + 2)
    before, seen = versions(), looks()
    mesh.until("it was looked at", lambda: looks() >= seen + 5)
    assert versions() == before


def test_a_killed_pod_is_back_with_its_shards_and_its_state(mesh: Operated) -> None:
    mesh.apply(code(), pool())
    mesh.until_ready()
    asyncio.run(click(mesh, 1, 2))
    victim = mesh.pods()[0]
    restarts = victim["status"]["containerStatuses"][0]["restartCount"]
    os.kill(pid_of(victim), signal.SIGKILL)

    mesh.until(
        "it was started again",
        lambda: mesh.pods()[0]["status"]["containerStatuses"][0]["restartCount"] > restarts,
    )
    mesh.until_ready()
    asyncio.run(click(mesh, 3, 3))
    assert asyncio.run(counted(mesh)) == {(3, True)}


def test_a_pool_whose_journal_was_deleted_says_so_and_is_not_made_anew(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=1))
    mesh.until_ready(pods=1)
    mesh.processes.kill("operator")

    async def lose() -> None:
        store = await connect(mesh.nats.url, name="test")
        await store.delete_stream(MeshNames(mesh.namespace).pool(PoolName("clickers")).journal(ShardId(2)))
        await store.close()

    asyncio.run(lose())
    mesh.start()

    mesh.until("it is degraded", lambda: mesh.condition("Degraded")[:2] == ("True", "JournalLost"))
    assert mesh.condition("Ready")[:2] == ("False", "JournalLost")
    assert "journal 2" not in asyncio.run(streams(mesh))
    mesh.until("an event says so", lambda: any(line.startswith("Warning JournalLost") for line in mesh.events()))


def test_a_pool_whose_streams_do_not_fit_says_so(mesh: Operated) -> None:
    mesh.apply(code(), pool(streams={"maxBytes": "1Ti"}))
    mesh.until("it is degraded", lambda: mesh.condition("Degraded")[0] == "True")
    assert "insufficient storage" in mesh.condition("Degraded")[2]


def test_a_wrong_change_is_refused_with_the_field_and_the_pool_goes_on(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=1))
    mesh.until_ready(pods=1)
    with pytest.raises(Exception, match=r"spec\.shards: Invalid value.*fixed for the life of the pool"):
        mesh.cluster.api("PATCH", mesh.path("AgentPool"), {"spec": {"shards": 8}}, content_type=MERGE)
    asyncio.run(click(mesh, 1, 1))
    assert asyncio.run(counted(mesh)) == {(1, True)}
