"""What can happen to the operator and to what it depends on: in each case the pool ends as it should be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from starling import AgentId
from starling.adapters.nats import EmbeddedServer

from hack.cluster.kit import Cluster
from tests.cluster.clicks import Clicked, Clicker, Clicks, HowManyClicks
from tests.cluster.operated import Operated, code, operated, pool, target

LEADER = "starling_operator_leader"
LEASE_SECONDS = 15.0
KEYS = tuple(f"key-{number}" for number in range(8))


@pytest.fixture
def mesh(mesh_cluster: Cluster, nats_server: EmbeddedServer, tmp_path: Path) -> Iterator[Operated]:
    with operated(mesh_cluster, nats_server, tmp_path / "operator") as made:
        yield made


async def click(mesh: Operated, number: int) -> None:
    async with mesh.mesh() as client:
        for key in KEYS:
            await client.send(AgentId("clicker", key), Clicked(number))


async def counted(mesh: Operated) -> set[tuple[int, bool]]:
    async with mesh.mesh() as client:
        agents = [client.agent(Clicker, key) for key in KEYS]
        answers: list[Clicks] = [await agent.how_many(HowManyClicks(), timeout=30.0) for agent in agents]
    return {(answer.count, answer.in_order) for answer in answers}


def lease(mesh: Operated) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{mesh.namespace}/leases/starling-operator"
    found = mesh.cluster.api.find(path)
    return str(found["spec"].get("holderIdentity", "")) if found else ""


def scale(mesh: Operated, replicas: int) -> None:
    mesh.cluster.kubectl("scale", "apool/clickers", f"--replicas={replicas}", "--namespace", mesh.namespace)


@pytest.mark.row("CP-12", part="with two running, only the lease holder writes")
def test_of_two_operators_one_works_and_the_other_takes_over_when_it_is_killed(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=1))
    mesh.until_ready(pods=1)
    assert lease(mesh).startswith("operator-")

    mesh.start("second")
    mesh.until("the second one is up", lambda: mesh.metric(LEADER, "second") is not None)
    scale(mesh, 2)
    mesh.until_ready(pods=2)
    assert (mesh.metric(LEADER), mesh.metric(LEADER, "second")) == (1.0, 0.0)
    assert mesh.metric('starling_operator_reconcile_seconds_count{result="ok"}', "second") is None

    mesh.processes.kill("operator")
    mesh.until("the second one leads", lambda: mesh.metric(LEADER, "second") == 1.0, seconds=LEASE_SECONDS + 30)
    assert lease(mesh).startswith("second-")
    scale(mesh, 1)
    mesh.until_ready(pods=1)
    mesh.processes.kill("second")
    mesh.start()  # and back, for the end of the test


def test_an_operator_that_is_stopped_leaves_the_lease_to_the_next_at_once(mesh: Operated) -> None:
    mesh.until("it leads", lambda: mesh.metric(LEADER) == 1.0)
    mesh.processes.stop()
    assert lease(mesh) == ""
    mesh.start()
    mesh.until("it leads again", lambda: mesh.metric(LEADER) == 1.0, seconds=LEASE_SECONDS - 3)


@pytest.mark.row("CP-8", part="pods keep their shards and come back without an operator")
@pytest.mark.row("CP-12", part="killed, and back to a changed world")
def test_a_killed_operator_finds_its_way_when_it_is_back(mesh: Operated) -> None:
    mesh.apply(code(), pool(), target(minReplicas=2))
    mesh.until_ready()
    asyncio.run(click(mesh, 1))
    pods = [each["metadata"]["uid"] for each in mesh.pods()]
    moves, revision = mesh.status()["moves"], mesh.status()["mapRevision"]

    mesh.processes.kill("operator")
    mesh.cluster.kubectl("delete", "pod", "clickers-1", "--namespace", mesh.namespace)
    asyncio.run(click(mesh, 2))
    assert asyncio.run(counted(mesh)) == {(2, True)}

    mesh.start()
    mesh.until("it leads", lambda: mesh.metric(LEADER) == 1.0)
    mesh.apply(target(minReplicas=3))
    mesh.until_ready(pods=3)
    assert mesh.pods()[0]["metadata"]["uid"] == pods[0]
    assert mesh.status()["moves"] == moves
    assert mesh.status()["mapRevision"] > revision
    assert asyncio.run(counted(mesh)) == {(2, True)}


@pytest.mark.row("CP-12", part="killed in the middle of a scale-down")
def test_an_operator_killed_while_pods_leave_ends_what_the_other_began(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=3))
    mesh.until_ready(pods=3)
    asyncio.run(click(mesh, 1))
    revision = mesh.status()["mapRevision"]
    scale(mesh, 1)
    mesh.until("the map has changed", lambda: mesh.events("(draining)") or mesh.status()["mapRevision"] > revision)
    mesh.processes.kill("operator")
    mesh.start()

    mesh.until_ready(pods=1)
    asyncio.run(click(mesh, 2))
    assert asyncio.run(counted(mesh)) == {(2, True)}


def test_a_nats_server_that_is_away_is_said_and_waited_for(
    mesh_cluster: Cluster, private_nats: EmbeddedServer, tmp_path: Path
) -> None:
    with operated(mesh_cluster, private_nats, tmp_path / "operator") as mesh:
        mesh.apply(code(), pool(replicas=1))
        mesh.until_ready(pods=1)
        asyncio.run(click(mesh, 1))

        asyncio.run(private_nats.kill())
        mesh.until("it is said", lambda: mesh.condition("Degraded")[:2] == ("True", "Unreachable"))
        asyncio.run(private_nats.start())

        mesh.until("it is well", lambda: mesh.condition("Degraded")[0] == "False")
        scale(mesh, 2)
        mesh.until_ready(pods=2)
        assert asyncio.run(counted(mesh)) == {(1, True)}
        assert all(each["status"]["containerStatuses"][0]["restartCount"] == 0 for each in mesh.pods())


@pytest.mark.row("CP-13", part="Prometheus gone: no moves, no scaling down, the condition says why")
def test_without_a_prometheus_the_number_of_pods_never_falls(
    mesh_cluster: Cluster, nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    gone = {"STARLING_PROMETHEUS_URL": "http://127.0.0.1:9"}
    with operated(mesh_cluster, nats_server, tmp_path / "operator", **gone) as mesh:
        lag = [{"type": "LagPerPod", "target": "10"}]
        mesh.apply(code(), pool(), target(signals=lag, behavior={"stabilizationSeconds": 1}))
        mesh.until_ready()
        looks = 'starling_operator_reconcile_seconds_count{result="ok"}'
        seen = mesh.metric(looks) or 0.0
        mesh.until("it was looked at", lambda: (mesh.metric(looks) or 0.0) >= seen + 4)
        assert mesh.owned("statefulsets")["spec"]["replicas"] == 2
        assert mesh.condition("MetricsAvailable")[:2] == ("False", "NoMeasurements")
        assert mesh.condition("MetricsAvailable", "AgentScalingTarget")[:2] == ("False", "NoMeasurements")
        assert mesh.status()["moves"] == 0


@pytest.mark.row("CP-8", part="the Kubernetes API unreachable")
def test_agents_answer_while_the_api_server_is_away_and_the_operator_goes_on_after_it(mesh: Operated) -> None:
    mesh.apply(code(), pool())
    mesh.until_ready()
    asyncio.run(click(mesh, 1))

    mesh.cluster.plane.kill("kube-apiserver")
    try:
        asyncio.run(click(mesh, 2))
        assert asyncio.run(counted(mesh)) == {(2, True)}
        # Longer than the lease holds: then the operator ends by itself, and somebody starts it again.
        mesh.until("the operator has ended", lambda: "operator" not in mesh.processes.alive())
    finally:
        mesh.cluster.plane.start("kube-apiserver")
    mesh.start()

    scale(mesh, 1)
    mesh.until_ready(pods=1, seconds=120)
    asyncio.run(click(mesh, 3))
    assert asyncio.run(counted(mesh)) == {(3, True)}


def test_an_api_server_that_blinks_does_not_end_the_operator(mesh: Operated) -> None:
    mesh.apply(code(), pool(replicas=1))
    mesh.until_ready(pods=1)
    before = mesh.processes.alive()["operator"]

    mesh.cluster.plane.kill("kube-apiserver")
    mesh.cluster.plane.start("kube-apiserver")

    scale(mesh, 2)
    mesh.until("it has acted", lambda: mesh.owned("statefulsets")["spec"]["replicas"] == 2)
    assert mesh.processes.alive()["operator"] == before
