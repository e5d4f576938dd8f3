"""The control plane of the test kit is a real one."""

from __future__ import annotations

import pytest

from hack.cluster.api import wait_until
from hack.cluster.apiserver import ControlPlane, Shape
from hack.cluster.errors import ApiError, MissingProgram
from hack.cluster.kit import Cluster, CommandFailed
from hack.cluster.processes import started_at


def config_map(**data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flights"}, "data": data}


def test_kubectl_applies_a_config_map_and_reads_it_back(control_plane: Cluster, bare_namespace: str) -> None:
    printed = control_plane.apply(config_map(airports="3"), namespace=bare_namespace)

    assert "configmap/flights created" in printed
    stored = control_plane.api("GET", f"/api/v1/namespaces/{bare_namespace}/configmaps/flights")
    assert stored["data"] == {"airports": "3"}


def test_the_server_says_the_pinned_version(control_plane: Cluster) -> None:
    assert control_plane.api("GET", "/version")["gitVersion"].startswith("v1.34.")


def test_server_side_apply_refuses_the_field_of_another_manager(control_plane: Cluster, bare_namespace: str) -> None:
    path = f"/api/v1/namespaces/{bare_namespace}/configmaps/flights"
    control_plane.api.apply(path, config_map(airports="3"), manager="first", force=False)

    with pytest.raises(ApiError) as refused:
        control_plane.api.apply(path, config_map(airports="4"), manager="second", force=False)

    assert refused.value.status == 409
    assert "first" in refused.value.message
    assert ".data.airports" in refused.value.message
    assert control_plane.api("GET", path)["data"] == {"airports": "3"}


def test_a_forced_apply_takes_the_field_over(control_plane: Cluster, bare_namespace: str) -> None:
    path = f"/api/v1/namespaces/{bare_namespace}/configmaps/flights"
    control_plane.api.apply(path, config_map(airports="3"), manager="first")

    taken = control_plane.api.apply(path, config_map(airports="4"), manager="second")

    assert taken["data"] == {"airports": "4"}


def test_an_object_that_is_wrong_is_refused_with_its_field(control_plane: Cluster, bare_namespace: str) -> None:
    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Not a name"}}

    with pytest.raises(CommandFailed, match=r"metadata\.name: Invalid value"):
        control_plane.apply(wrong, namespace=bare_namespace)


def test_namespaces_of_tests_never_share_a_name(control_plane: Cluster) -> None:
    names = {control_plane.new_namespace("same") for _ in range(5)}

    assert len(names) == 5


def test_a_killed_api_server_comes_back_with_its_data(control_plane: Cluster, bare_namespace: str) -> None:
    control_plane.apply(config_map(airports="3"), namespace=bare_namespace)

    control_plane.plane.kill("kube-apiserver")
    assert "kube-apiserver" not in control_plane.plane.processes.alive()
    control_plane.plane.start("kube-apiserver")

    path = f"/api/v1/namespaces/{bare_namespace}/configmaps/flights"
    assert wait_until("the object is back", lambda: control_plane.api.find(path))["data"] == {"airports": "3"}


def test_a_control_plane_that_is_down_leaves_no_process(
    control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    del control_plane  # its skip is ours: the programs are there
    plane = ControlPlane(tmp_path_factory.mktemp("second"), tied=True)
    plane.up(Shape())
    pids = plane.processes.alive()
    assert set(pids) == {"etcd", "kube-apiserver"}

    plane.down()

    assert [name for name, pid in pids.items() if started_at(pid)] == []


def test_missing_programs_are_named_with_the_places_where_they_were_looked_for(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setenv("STARLING_TOOLS", str(empty))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)

    with pytest.raises(MissingProgram, match=r"no etcd, kube-apiserver, kubectl: .*Go is not installed"):
        ControlPlane(empty / "plane").up(Shape())
