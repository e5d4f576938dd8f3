"""Volumes as folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack.cluster.api import Json
from hack.cluster.errors import BadPod
from hack.cluster.procnode.volumes import Source, data_of, files_of, fill, folders_of, nest, sources_of


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        pytest.param({"emptyDir": {}}, (), id="emptyDir"),
        pytest.param({"configMap": {"name": "c"}}, (Source("configmaps", "c"),), id="configMap"),
        pytest.param(
            {"configMap": {"name": "c", "optional": True}}, (Source("configmaps", "c", None, True),), id="optional"
        ),
        pytest.param(
            {"secret": {"secretName": "s", "items": [{"key": "k", "path": "p/q"}]}},
            (Source("secrets", "s", (("k", "p/q"),)),),
            id="secret with items",
        ),
        pytest.param(
            {"projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}]}},
            (Source("configmaps", "c"), Source("secrets", "s")),
            id="projected",
        ),
    ],
)
def test_sources_are_read_from_a_volume(volume: Json, expected: tuple[Source, ...]) -> None:
    assert sources_of({"name": "v", **volume}) == expected


@pytest.mark.parametrize("volume", [{"hostPath": {"path": "/"}}, {"persistentVolumeClaim": {"claimName": "x"}}])
def test_a_volume_that_a_folder_cannot_stand_for_is_refused_by_name(volume: Json) -> None:
    with pytest.raises(BadPod, match="volume data: "):
        sources_of({"name": "data", **volume})


def test_contents_are_text_of_config_maps_and_decoded_bytes_of_secrets() -> None:
    assert data_of({"data": {"a": "ä"}, "binaryData": {"b": "AAE="}}, "configmaps") == {"a": b"\xc3\xa4", "b": b"\0\1"}
    assert data_of({"data": {"a": "AAE="}}, "secrets") == {"a": b"\0\1"}
    assert data_of({"data": None}, "configmaps") == {}
    assert data_of(None, "secrets") == {}


def test_items_choose_keys_and_names_and_a_missing_key_is_named() -> None:
    data = {"a": b"1", "b": b"2"}
    assert files_of(Source("configmaps", "c"), data) == data
    assert files_of(Source("configmaps", "c", (("a", "x"),)), data) == {"x": b"1"}
    assert files_of(Source("configmaps", "c", (("z", "x"),), True), data) == {}
    with pytest.raises(BadPod, match="configmaps c: no key z"):
        files_of(Source("configmaps", "c", (("z", "x"),)), data)


def test_a_folder_follows_its_contents_and_keeps_what_others_wrote_into_it(tmp_path: Path) -> None:
    first = {"a": b"1", "b": b"2", "deep/c": b"3"}
    fill(tmp_path, first)
    (tmp_path / "__pycache__").mkdir()
    unchanged = (tmp_path / "b").stat().st_ino

    fill(tmp_path, {"a": b"9", "b": b"2"}, first)

    assert (tmp_path / "a").read_bytes() == b"9"
    assert (tmp_path / "b").stat().st_ino == unchanged
    assert not (tmp_path / "deep" / "c").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "deep", "__pycache__"}


def test_a_file_that_somebody_reads_is_replaced_and_never_half_written(tmp_path: Path) -> None:
    fill(tmp_path, {"a": b"old"})
    with (tmp_path / "a").open("rb") as reader:
        fill(tmp_path, {"a": b"new and longer"}, {"a": b"old"})
        assert reader.read() == b"old"


def test_mounts_lead_to_folders_and_the_service_accounts_own_volume_is_left_out(tmp_path: Path) -> None:
    mounts = [
        {"name": "config", "mountPath": "/etc/app/"},
        {"name": "data", "mountPath": "/data", "subPath": "one"},
        {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
    ]
    assert list(folders_of({"volumeMounts": mounts}, tmp_path)) == [
        ("config", "/etc/app", tmp_path / "config"),
        ("data", "/data", tmp_path / "data" / "one"),
    ]
    assert list(folders_of({}, tmp_path)) == []


def test_a_mount_below_another_one_is_seen_there(tmp_path: Path) -> None:
    fill(tmp_path / "config", {"pool.json": b"{}"})
    fill(tmp_path / "code", {"flights.py": b""})
    mounts = {"/etc/app": str(tmp_path / "config"), "/etc/app/code": str(tmp_path / "code")}

    nest(mounts)
    nest(mounts)  # a restarted container mounts again

    assert (tmp_path / "config" / "code" / "flights.py").exists()
