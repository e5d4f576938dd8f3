"""The chart, installed, upgraded and removed by a real Helm on a real API server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster.api import Json, wait_until
from hack.cluster.apiserver import Shape
from hack.cluster.errors import ApiError
from hack.cluster.kit import Cluster, CommandFailed, running
from hack.tools.builder import wait_for
from hack.tools.programs import missing

CHART = Path(__file__).parents[2] / "charts" / "starling"
TRIAL = ("--set", "nats.dev.enabled=true")
KINDS = ("agentpools", "agentscalingtargets", "agentsubscriptions")
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for this file alone: the chart's definitions come and go for the whole cluster."""
    shape = Shape()
    programs = (*shape.programs, "helm")
    wait_for(programs, float(os.environ.get("STARLING_TOOLS_WAIT") or 0))
    if why := missing(programs):
        pytest.skip(why)
    with running(tmp_path_factory.mktemp("helm") / "plane", shape) as cluster:
        yield cluster


@pytest.fixture
def bare_cluster(control_plane: Cluster) -> Iterator[Cluster]:
    """The same, without any definition of ours before and after the test."""
    yield control_plane
    wait_until_served(control_plane)
    for release in json.loads(control_plane.helm("list", "--all-namespaces", "--output", "json")):
        control_plane.helm("uninstall", release["name"], "--namespace", release["namespace"])
    control_plane.kubectl("delete", "crd", "--ignore-not-found", *(f"{kind}.starlingmesh.dev" for kind in KINDS))
    assert definitions(control_plane) == {}


def definitions(cluster: Cluster) -> dict[str, Json]:
    """Return our definitions that the server has, by their plural."""
    found = cluster.api("GET", DEFINITIONS)["items"]
    return {each["spec"]["names"]["plural"]: each for each in found if each["spec"]["group"] == "starlingmesh.dev"}


def established(definition: Json) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def served(cluster: Cluster, kind: str) -> Any:
    """Return the list of a kind; None for the moment in which the server sets its storage up."""
    try:
        return cluster.api("GET", f"/apis/starlingmesh.dev/v1alpha1/{kind}")
    except ApiError as error:
        if error.status in (404, 429):
            return None
        raise


def wait_until_served(cluster: Cluster) -> None:
    """Wait for the storage of every definition there is: one that is deleted before can be minutes in going.

    The server's finalizer lists the objects first, is told "storage is (re)initializing" and backs off.
    """
    for kind in definitions(cluster):
        assert wait_until(f"{kind} are served", partial(served, cluster, kind))["items"] == []


def install(cluster: Cluster, namespace: str, *arguments: str, name: str = "mesh") -> str:
    return cluster.helm("install", name, str(CHART), "--namespace", namespace, *arguments)


def environment(cluster: Cluster, namespace: str) -> dict[str, str]:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/mesh-starling"
    container = cluster.api("GET", path)["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each.get("value", "") for each in container["env"]}


def may(cluster: Cluster, account: str, verb: str, resource: str, namespace: str) -> bool:
    """Ask the server whether the account may do this."""
    group, _, plural = resource.rpartition("/") if not resource.endswith("/status") else ("", "", resource)
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": account,
            "resourceAttributes": {"verb": verb, "group": group, "resource": plural, "namespace": namespace},
        },
    }
    answer = cluster.api("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def test_lint_has_nothing_to_say(control_plane: Cluster) -> None:
    printed = control_plane.helm("lint", str(CHART), "--strict", *TRIAL)

    assert "1 chart(s) linted, 0 chart(s) failed" in printed
    assert "WARNING" not in printed


@pytest.mark.row("CP-18", part="install, upgrade, roll back, remove")
def test_the_chart_is_installed_upgraded_rolled_back_and_removed(bare_cluster: Cluster, bare_namespace: str) -> None:
    cluster, namespace = bare_cluster, bare_namespace

    notes = install(cluster, namespace, *TRIAL)

    assert f"nats://mesh-starling-nats.{namespace}.svc:4222" in notes
    found = wait_until(
        "the definitions are established",
        lambda: there if all(map(established, (there := definitions(cluster)).values())) else None,
    )
    assert sorted(found) == sorted(KINDS)
    assert environment(cluster, namespace)["STARLING_PROMETHEUS_URL"] == ""
    wait_until_served(cluster)

    address = "http://prometheus.monitoring.svc:9090"
    cluster.helm(
        *("upgrade", "mesh", str(CHART), "--namespace", namespace, "--reuse-values"),
        *("--set", f"prometheus.url={address}"),
    )
    assert environment(cluster, namespace)["STARLING_PROMETHEUS_URL"] == address
    history = json.loads(cluster.helm("history", "mesh", "--namespace", namespace, "--output", "json"))
    assert [each["revision"] for each in history] == [1, 2]

    cluster.helm("rollback", "mesh", "1", "--namespace", namespace)
    assert environment(cluster, namespace)["STARLING_PROMETHEUS_URL"] == ""

    cluster.helm("uninstall", "mesh", "--namespace", namespace)
    listed = "deployments,statefulsets,services,configmaps,serviceaccounts,roles,rolebindings"
    left = cluster.kubectl("get", listed, "--namespace", namespace, "--output", "name")
    assert [line for line in left.splitlines() if "kube-root-ca" not in line] == []
    roles = cluster.kubectl("get", "clusterroles,clusterrolebindings", "--output", "name")
    assert [line for line in roles.splitlines() if namespace in line] == []


def test_definitions_stay_when_they_are_kept_and_a_new_install_takes_them_over(
    bare_cluster: Cluster, bare_namespace: str
) -> None:
    install(bare_cluster, bare_namespace, *TRIAL)
    before = {kind: each["metadata"]["uid"] for kind, each in definitions(bare_cluster).items()}
    bare_cluster.helm("uninstall", "mesh", "--namespace", bare_namespace)

    assert sorted(before) == sorted(KINDS)
    assert {kind: each["metadata"]["uid"] for kind, each in definitions(bare_cluster).items()} == before

    elsewhere = bare_cluster.new_namespace()
    with pytest.raises(CommandFailed, match="cannot be imported into the current release"):
        install(bare_cluster, elsewhere, *TRIAL)
    install(bare_cluster, elsewhere, *TRIAL, "--take-ownership")
    assert {kind: each["metadata"]["uid"] for kind, each in definitions(bare_cluster).items()} == before


def test_definitions_go_with_the_release_when_they_are_not_kept(bare_cluster: Cluster, bare_namespace: str) -> None:
    install(bare_cluster, bare_namespace, *TRIAL, "--set", "crds.keep=false")
    assert sorted(definitions(bare_cluster)) == sorted(KINDS)
    wait_until_served(bare_cluster)

    bare_cluster.helm("uninstall", "mesh", "--namespace", bare_namespace)

    wait_until("the definitions are gone", lambda: not definitions(bare_cluster))


def test_an_install_without_definitions_brings_none(bare_cluster: Cluster, bare_namespace: str) -> None:
    install(bare_cluster, bare_namespace, *TRIAL, "--set", "crds.enabled=false")

    assert definitions(bare_cluster) == {}


@pytest.mark.row("CP-18", part="a wrong key is refused")
def test_a_wrong_key_installs_nothing(bare_cluster: Cluster, bare_namespace: str) -> None:
    with pytest.raises(CommandFailed, match="natss"):
        install(bare_cluster, bare_namespace, *TRIAL, "--set", "natss.url=nats://nats:4222")

    assert json.loads(bare_cluster.helm("list", "--all", "--namespace", bare_namespace, "--output", "json")) == []


def test_the_server_accepts_every_pod_of_the_chart_where_pod_security_is_restricted(
    control_plane: Cluster, bare_namespace: str
) -> None:
    path = f"/api/v1/namespaces/{bare_namespace}"
    control_plane.api("PATCH", path, {"metadata": {"labels": RESTRICTED}}, content_type="application/merge-patch+json")
    persistence = ("--set", "nats.dev.persistence.enabled=false")
    rendered = control_plane.helm("template", "mesh", str(CHART), "--kube-version", "1.34.0", *TRIAL, *persistence)

    kinds = {each["kind"]: each for each in yaml.safe_load_all(rendered) if each}
    for kind in ("Deployment", "StatefulSet"):
        pod: Any = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "trial"}}
        pod["spec"] = kinds[kind]["spec"]["template"]["spec"]
        control_plane.api("POST", f"{path}/pods?dryRun=All", pod)

        del pod["spec"]["containers"][0]["securityContext"]
        with pytest.raises(ApiError, match="violates PodSecurity"):
            control_plane.api("POST", f"{path}/pods?dryRun=All", pod)


def test_the_operator_may_do_its_work_everywhere_and_read_no_secrets(
    bare_cluster: Cluster, bare_namespace: str
) -> None:
    install(bare_cluster, bare_namespace, *TRIAL)
    account = f"system:serviceaccount:{bare_namespace}:mesh-starling"

    def allowed(verb: str, resource: str, namespace: str = "default") -> bool:
        return may(bare_cluster, account, verb, resource, namespace)

    assert allowed("patch", "apps/statefulsets")
    assert allowed("watch", "starlingmesh.dev/agentpools")
    assert allowed("delete", "pods")
    assert allowed("watch", "nodes", "")
    assert allowed("create", "coordination.k8s.io/leases", bare_namespace)
    assert not allowed("create", "coordination.k8s.io/leases")
    assert not allowed("get", "secrets", bare_namespace)
    assert not allowed("create", "pods")
    assert not allowed("create", "starlingmesh.dev/agentpools")
    assert not allowed("patch", "rbac.authorization.k8s.io/roles", bare_namespace)


def test_the_operator_of_one_namespace_may_do_nothing_in_others(bare_cluster: Cluster, bare_namespace: str) -> None:
    served = bare_cluster.new_namespace()
    install(bare_cluster, bare_namespace, *TRIAL, "--set", f"watchNamespaces={{{served}}}")
    account = f"system:serviceaccount:{bare_namespace}:mesh-starling"

    for verb, resource in (("patch", "apps/statefulsets"), ("watch", "starlingmesh.dev/agentpools"), ("list", "pods")):
        assert may(bare_cluster, account, verb, resource, served)
        assert not may(bare_cluster, account, verb, resource, "default")
        assert not may(bare_cluster, account, verb, resource, bare_namespace)
    assert not may(bare_cluster, account, "list", "apiextensions.k8s.io/customresourcedefinitions", "")
    assert may(bare_cluster, account, "list", "nodes", "")
