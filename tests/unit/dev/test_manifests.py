"""Manifests of a folder: what is wrong in them is said with file and field, never with a stack."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from starling.errors import SpecError
from starling_operator.dev.manifests import read, stamp

POOL = """
apiVersion: starlingmesh.dev/v1alpha1
kind: AgentPool
metadata: {name: p}
spec: {shards: 4, code: {configMap: c}, agents: [{type: a, entrypoint: "m:A"}]}
"""
TARGET = """
apiVersion: starlingmesh.dev/v1alpha1
kind: AgentScalingTarget
metadata: {{name: {}}}
spec: {{poolRef: {{name: p}}, maxReplicas: 2, signals: [{{type: LagPerPod, target: "5"}}]}}
"""
GENERATOR = "kind: Kustomization\nconfigMapGenerator:"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", r"^m\.yaml: is no YAML"),
        ("- 1", r"^m\.yaml: holds a document that is no object"),
        (POOL.replace("{name: p}", "p"), r"^m\.yaml: AgentPool : metadata: is 'p', not an object"),
        (POOL.replace("shards: 4", "shards: many"), r"^m\.yaml: AgentPool p: spec\.shards"),
        (
            POOL.replace("starlingmesh.dev/v1alpha1", "v1"),
            r"AgentPool p: apiVersion: must be starlingmesh\.dev/v1alpha1, not 'v1'",
        ),
        (
            POOL.replace("apiVersion: starlingmesh.dev/v1alpha1", ""),
            r"AgentPool p: apiVersion: must be starlingmesh\.dev/v1alpha1, not None",
        ),
        (POOL.replace("shards: 4", "shard: 4"), r"^m\.yaml: AgentPool p: spec\.shard"),
        ("kind: ConfigMap\nmetadata: {name: c}\ndata: text", r"^m\.yaml: ConfigMap c: data: is 'text', not an object"),
        (f"{POOL}---{POOL}", r"^m\.yaml: AgentPool p: metadata\.name: 'p' is the name of another one already"),
        (
            f"{TARGET.format('s')}---{TARGET.format('t')}",
            r"AgentScalingTarget t: spec\.poolRef\.name: 'p' has a scaling",
        ),
        (f"{GENERATOR} c", r"^m\.yaml: Kustomization : configMapGenerator: is 'c', not a list"),
        (f"{GENERATOR} [c]", r"configMapGenerator\[0\]: is 'c', not an object"),
        (f"{GENERATOR} [{{name: c, files: x}}]", r"configMapGenerator\[0\]\.files: is 'x', not a list"),
        (f"{GENERATOR} [{{name: c, files: [no.py]}}]", r"configMapGenerator\[0\]\.files: cannot read no\.py: No such"),
        (f"{GENERATOR} [{{name: c, files: [odd.bin]}}]", r"odd\.bin: is no UTF-8 text: invalid start byte at byte 0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    (tmp_path / "odd.bin").write_bytes(b"\xff")
    with pytest.raises(SpecError, match=says):
        read(tmp_path)


def test_a_folder_without_manifests_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^-f: .* has no \.yaml files"):
        read(tmp_path)


def test_what_may_not_change_is_refused_against_what_was_read_before(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(POOL)
    before = read(tmp_path)
    (tmp_path / "m.yaml").write_text(POOL.replace("shards: 4", "shards: 8"))
    with pytest.raises(SpecError, match=r"^m\.yaml: AgentPool p: spec\.shards"):
        read(tmp_path, before)


def test_a_pool_without_its_config_map_says_which_one(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(POOL)
    found = read(tmp_path)
    with pytest.raises(SpecError, match=r"^AgentPool p: spec\.code\.configMap: there is no ConfigMap 'c' .*; add it"):
        found.code_of(found.pools["p"])


def test_what_does_nothing_as_it_stands_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(TARGET.format("s"))
    assert list(read(tmp_path).loose_ends()) == [
        "there is no AgentPool in these manifests: nothing runs",
        "AgentScalingTarget s: spec.poolRef.name: there is no AgentPool 'p'",
    ]
    (tmp_path / "pool.yaml").write_text(POOL)
    assert list(read(tmp_path).loose_ends()) == []


def test_objects_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(f"apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\n---{POOL}")
    assert list(read(tmp_path).pools) == ["p"]


def test_config_maps_come_as_objects_and_from_files_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "m.yaml").write_text(
        f"{GENERATOR} [{{name: made, files: [code.py, other.py=code.py]}}]\n---\n"
        "kind: ConfigMap\nmetadata: {name: given}\ndata: {a.py: text, n: 1}\n---\n"
    )
    assert read(tmp_path).config_maps == {
        "made": {"code.py": "x = 1\n", "other.py": "x = 1\n"},
        "given": {"a.py": "text", "n": "1"},
    }


def test_the_stamp_changes_with_manifests_and_code_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(POOL)
    seen = [stamp(tmp_path)]
    for name, counts in (("code.py", True), ("n.yml", True), ("notes.txt", False)):
        (tmp_path / name).write_text("x")
        seen.append(stamp(tmp_path))
        assert (seen[-1] != seen[-2]) is counts, name
    os.utime(tmp_path / "m.yaml", ns=(1, 1))
    assert stamp(tmp_path) != seen[-1]
    assert stamp(tmp_path / "m.yaml") == ((str(tmp_path / "m.yaml"), 1),)
