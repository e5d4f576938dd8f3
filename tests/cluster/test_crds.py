"""A real API server takes our definitions, and refuses what the parser refuses, naming the same field."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from starling_operator.api import KINDS, AgentPool, parse

from hack.cluster.api import APPLY, MERGE, Json, wait_until
from hack.cluster.errors import ApiError
from hack.cluster.kit import Cluster, CommandFailed

ROOT = Path(__file__).parents[2]
OBJECTS = runpy.run_path(str(ROOT / "tests/unit/operator/api/objects.py"))
GROUP, VERSION = "starlingmesh.dev", "v1alpha1"
PLURALS = {model.resource_kind.name: model.resource_kind.plural for model in KINDS}
pool, subscription, target = OBJECTS["pool"], OBJECTS["subscription"], OBJECTS["target"]


def cases(name: str) -> list[Any]:
    return [pytest.param(*case[1:], id=case[0]) for case in OBJECTS[name]]


def path_of(namespace: str, obj: Json, *more: str) -> str:
    return "/".join((f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}", PLURALS[obj["kind"]], *more))


@pytest.fixture(scope="module")
def server(control_plane: Cluster) -> Cluster:
    """The control plane with our three kinds, served."""
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    names = [f"crd/{plural}.{GROUP}" for plural in PLURALS.values()]
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    paths = [f"/apis/{GROUP}/{VERSION}/{plural}" for plural in PLURALS.values()]
    wait_until("the kinds are served", lambda: all(control_plane.api.find(path) for path in paths))
    return control_plane


@pytest.fixture(scope="module")
def shared_namespace(server: Cluster) -> str:
    """For objects that are refused, or made under one name after another."""
    return server.new_namespace("crds")


@pytest.mark.row("CP-2")
def test_the_definitions_are_structural_and_established_without_a_warning(server: Cluster) -> None:
    for plural in PLURALS.values():
        found = server.api("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{GROUP}")
        conditions = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
        assert conditions["Established"] == conditions["NamesAccepted"] == "True"
        assert conditions.get("NonStructuralSchema", "False") == "False"


@pytest.mark.row("CP-2")
@pytest.mark.parametrize("good", cases("GOOD"))
def test_what_the_parser_takes_the_server_takes_with_the_same_defaults(
    server: Cluster, shared_namespace: str, good: Json
) -> None:
    stored = server.api("POST", path_of(shared_namespace, good) + "?dryRun=All&fieldValidation=Strict", good)

    assert parse(stored).spec == parse(good).spec


@pytest.mark.row("CP-2")
@pytest.mark.parametrize(("bad", "field"), cases("BAD"))
def test_what_the_parser_refuses_the_server_refuses_by_the_same_field(
    server: Cluster, shared_namespace: str, bad: Json, field: str
) -> None:
    with pytest.raises(ApiError) as refused:
        server.api("POST", path_of(shared_namespace, bad) + "?dryRun=All", bad)

    assert refused.value.status == 422
    assert field in refused.value.message


@pytest.mark.parametrize(("before", "after", "field"), cases("CHANGES"))
def test_what_is_fixed_for_life_is_refused_in_a_change(
    server: Cluster, bare_namespace: str, before: Json, after: Json, field: str
) -> None:
    path = path_of(bare_namespace, before, before["metadata"]["name"])
    server.api.apply(path, before)

    with pytest.raises(ApiError) as refused:
        server.api.apply(path, after)

    assert refused.value.status == 422
    assert f"{field}: Invalid value" in refused.value.message
    assert "fixed for the life of the pool" in refused.value.message
    server.api.apply(path, {**before, "spec": {**before["spec"], "drainSeconds": 5}})


def test_a_misspelt_field_is_refused_by_kubectl_apply(server: Cluster, bare_namespace: str) -> None:
    with pytest.raises(CommandFailed, match=r'unknown field "(spec\.)?drainSecond"'):
        server.apply(pool(drainSecond=3), namespace=bare_namespace)


def test_a_free_template_is_kept_as_it_is(server: Cluster, bare_namespace: str) -> None:
    template = {"spec": {"nodeSelector": {"disk": "fast"}, "x": [1, None, {"y": True}]}}
    server.apply(pool(template=template), namespace=bare_namespace)

    stored = server.api("GET", path_of(bare_namespace, pool(), "airports"))

    assert stored["spec"]["template"] == template
    made = parse(stored)
    assert isinstance(made, AgentPool)
    assert made.spec.template == template


def with_status(server: Cluster, namespace: str, obj: Json, status: Json) -> None:
    path = path_of(namespace, obj, obj["metadata"]["name"])
    server.api.apply(path, obj, manager="kubectl")
    body = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "status": status}
    server.api("PATCH", f"{path}/status?fieldManager=starling-status", body, content_type=APPLY)


def ready(*more: str) -> list[Json]:
    time = {"lastTransitionTime": "2026-11-24T12:00:00Z", "observedGeneration": 1}
    return [{"type": kind, "status": "True", "reason": "AllWell", "message": "", **time} for kind in ("Ready", *more)]


@pytest.mark.row("CP-2")
def test_kubectl_get_shows_what_people_want_to_know(server: Cluster, bare_namespace: str) -> None:
    move = {"shard": 3, "from": "airports-0", "to": "airports-1", "time": "2026-11-24T12:00:00Z"}
    counts = {"replicas": 2, "readyReplicas": 1, "shardsOwned": 15, "shardsTotal": 16, "moves": 4, "mapRevision": 9}
    loads = {"load": 0.75, "imbalance": 1.25, "lastMove": move, "selector": "starlingmesh.dev/pool=airports"}
    with_status(server, bare_namespace, pool(replicas=2), {**counts, **loads, "conditions": ready()})
    with_status(server, bare_namespace, subscription(), {"conditions": ready()})
    status = {"currentReplicas": 2, "desiredReplicas": 3, "conditions": ready("MetricsAvailable")}
    with_status(server, bare_namespace, target(), {**status, "signals": [{"type": "LagPerPod", "value": 512.5}]})

    printed = server.kubectl("get", "apool,asub,ast", "--namespace", bare_namespace)
    wide = server.kubectl("get", "apool", "--namespace", bare_namespace, "-o", "wide")

    rows = [line.split() for line in printed.splitlines() if line]
    assert rows[0] == ["NAME", "READY", "REPLICAS", "SHARDS", "OWNED", "LOAD", "IMBALANCE", "MOVES", "AGE"]
    assert rows[1][1:8] == ["True", "2", "16", "15", "0.75", "1.25", "4"]
    assert rows[2] == ["NAME", "TOPIC", "POOL", "AGENT", "READY", "AGE"]
    assert rows[3][1:5] == ["airport.movement", "airports", "airport", "True"]
    assert rows[4] == ["NAME", "POOL", "MIN", "MAX", "CURRENT", "DESIRED", "READY", "METRICS", "AGE"]
    assert rows[5][1:8] == ["airports", "1", "8", "2", "3", "True", "True"]
    assert wide.splitlines()[0].split()[-2:] == ["PODS-READY", "REASON"]
    assert wide.splitlines()[1].split()[-2:] == ["1", "AllWell"]


def test_a_status_comes_back_as_the_model_s(server: Cluster, bare_namespace: str) -> None:
    with_status(server, bare_namespace, pool(), {"moves": 4, "conditions": ready()})

    made = parse(server.api("GET", path_of(bare_namespace, pool(), "airports")))

    assert isinstance(made, AgentPool)
    assert made.status.moves == 4
    assert [condition.model_dump(mode="json", by_alias=True) for condition in made.status.conditions] == ready()


def test_all_kinds_are_found_by_their_category(server: Cluster, bare_namespace: str) -> None:
    server.apply(pool(), subscription(), target(), namespace=bare_namespace)

    printed = server.kubectl("get", "starling", "--namespace", bare_namespace, "-o", "name")

    assert sorted(line.partition(".")[0] for line in printed.split()) == sorted(
        model.resource_kind.singular for model in KINDS
    )


@pytest.mark.row("CP-2")
def test_kubectl_scale_sets_the_replicas_of_a_pool(server: Cluster, bare_namespace: str) -> None:
    with_status(server, bare_namespace, pool(replicas=2), {"replicas": 2, "selector": "starlingmesh.dev/pool=airports"})
    path = path_of(bare_namespace, pool(), "airports")

    scale = server.api("GET", f"{path}/scale")
    server.kubectl("scale", "apool/airports", "--replicas=3", "--namespace", bare_namespace)

    assert scale["status"] == {"replicas": 2, "selector": "starlingmesh.dev/pool=airports"}
    assert server.api("GET", path)["spec"]["replicas"] == 3
    with pytest.raises(CommandFailed, match=r"spec\.replicas"):
        server.kubectl("scale", "apool/airports", "--replicas=1001", "--namespace", bare_namespace)


def test_a_pool_without_replicas_has_none_and_its_first_number_is_a_patch(server: Cluster, bare_namespace: str) -> None:
    path = path_of(bare_namespace, pool(), "airports")
    server.api.apply(path, pool())

    assert "replicas" not in server.api("GET", path)["spec"]
    with pytest.raises(ApiError, match=r"\.spec\.replicas"):
        server.api("GET", f"{path}/scale")
    server.api("PATCH", path, {"spec": {"replicas": 1}}, content_type=MERGE)

    assert server.api("GET", f"{path}/scale")["spec"]["replicas"] == 1


def test_kubectl_explain_says_what_a_field_means(server: Cluster) -> None:
    def explained() -> str | None:
        try:
            return server.kubectl("explain", "agentpool.spec.shards")
        except CommandFailed:  # the server publishes a new kind's documentation a moment later
            return None

    text = " ".join(wait_until("the kind is documented", explained).split())

    assert "Fixed for the life of the pool" in text
    assert "rule of thumb: four to ten times the most pods" in text
