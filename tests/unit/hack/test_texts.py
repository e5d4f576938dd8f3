"""Variables, mount paths and fields in manifests, as a process node reads them."""

from __future__ import annotations

import pytest

from hack.cluster.errors import BadPod
from hack.cluster.procnode.texts import entrypoint_of, expand, field_of, port_of, rewrite

POD = {
    "metadata": {
        "name": "airports-0",
        "namespace": "demo",
        "uid": "u1",
        "labels": {"starlingmesh.dev/pool": "airports"},
    },
    "spec": {"nodeName": "node1", "serviceAccountName": "worker"},
}
MOUNTS = {"/etc/starling": "/run/config", "/etc/starling/code": "/run/code", "/data": "/run/data"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("$(A)", "1", id="known"),
        pytest.param("$(A)-$(B.c)", "1-2", id="several, dots in a name"),
        pytest.param("$(C)", "$(C)", id="unknown stays"),
        pytest.param("$$(A)", "$(A)", id="two dollar signs are one"),
        pytest.param("$A ${A}", "$A ${A}", id="the shell's own variables stay"),
        pytest.param("$(EMPTY)x", "x", id="empty is a value"),
    ],
)
def test_variables_are_replaced_as_kubernetes_does(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B.c": "2", "EMPTY": ""}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/etc/starling", "/run/config", id="the path itself"),
        pytest.param("/etc/starling/pool.json", "/run/config/pool.json", id="a file below it"),
        pytest.param("/etc/starling/code", "/run/code", id="the longer path wins"),
        pytest.param("/etc/starling/code:/etc/starling", "/run/code:/run/config", id="a list of paths"),
        pytest.param("--config=/etc/starling/a", "--config=/run/config/a", id="in an option"),
        pytest.param("/etc/starlings/a", "/etc/starlings/a", id="a longer name is another folder"),
        pytest.param("/etc/starling-old", "/etc/starling-old", id="a name with a dash is another folder"),
        pytest.param("/host/etc/starling", "/host/etc/starling", id="the end of a longer path is not it"),
        pytest.param("cat /data/x", "cat /run/data/x", id="in a shell command"),
        pytest.param("/run/data/x", "/run/data/x", id="what was replaced once is not replaced again"),
    ],
)
def test_mount_paths_are_replaced_by_the_folders_that_stand_for_them(text: str, expected: str) -> None:
    assert rewrite(text, MOUNTS) == expected


def test_without_mounts_a_text_stays_as_it_is() -> None:
    assert rewrite("/etc/starling", {}) == "/etc/starling"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("status.podIP", "127.64.0.3"),
        ("status.hostIP", "127.64.0.1"),
        ("metadata.name", "airports-0"),
        ("metadata.namespace", "demo"),
        ("metadata.uid", "u1"),
        ("spec.nodeName", "node1"),
        ("spec.serviceAccountName", "worker"),
        ("metadata.labels['starlingmesh.dev/pool']", "airports"),
        ("metadata.annotations['none']", ""),
    ],
)
def test_fields_are_those_of_the_pod(path: str, expected: str) -> None:
    assert field_of(POD, path, pod_ip="127.64.0.3", host_ip="127.64.0.1") == expected


@pytest.mark.parametrize("path", ["status.phase.x", "nonsense", "metadata.labels.x", "status.phase"])
def test_a_field_that_no_pod_can_ask_for_is_refused_by_its_path(path: str) -> None:
    with pytest.raises(BadPod, match=f"fieldRef {path}"):
        field_of(POD, path, pod_ip="", host_ip="")


def test_a_named_port_is_looked_up_and_an_unknown_name_refused() -> None:
    container = {"name": "worker", "ports": [{"name": "http", "containerPort": 8080}]}
    assert [port_of(port, container) for port in (9, "9", "http")] == [9, 9, 8080]
    with pytest.raises(BadPod, match="container worker: no port is named grpc"):
        port_of("grpc", container)


@pytest.mark.parametrize(
    "image",
    ["app", "app:1.0", "example.org/app:1.0", "example.org:5000/x/app", "example.org/app@sha256:ab"],
)
def test_an_image_is_found_by_its_last_part(image: str) -> None:
    assert entrypoint_of(image, {"app": "python3 -m app 'one word'"}) == ["python3", "-m", "app", "one word"]


def test_an_image_is_found_by_its_full_name_first() -> None:
    commands = {"app": "c", "example.org/app": "b", "example.org/app:1": "a"}
    assert entrypoint_of("example.org/app:1", commands) == ["a"]
    assert entrypoint_of("example.org/app:2", commands) == ["b"]
    assert entrypoint_of("other/app:2", commands) == ["c"]


def test_an_image_without_an_entrypoint_is_refused_by_name() -> None:
    with pytest.raises(BadPod, match=r"no --entrypoint for image example\.org/other:1"):
        entrypoint_of("example.org/other:1", {"app": "c"})
