"""The chart carries what the repository has, and its values are closed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack import chart
from hack.boards.build import text_of
from hack.boards.content import BOARDS
from hack.chart import CHART, ChartError, stale, sync, wanted

SECRETS = ("password", "passwd", "token", "secret", "apikey")


def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return loaded


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, node


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small copy: two definitions and the chart without its generated files."""
    (tmp_path / "crds").mkdir()
    for name in ("one", "two"):
        (tmp_path / "crds" / f"{name}.yaml").write_text(f"metadata: {{name: {name}}}\n")
    shutil.copytree(CHART, tmp_path / "charts" / "starling", ignore=shutil.ignore_patterns("crds", "dashboards"))
    return tmp_path


def test_the_files_of_the_chart_are_those_of_the_repository() -> None:
    assert stale(CHART, wanted()) == [], "run `python -m hack.chart`"


def test_a_changed_a_missing_and_an_orphaned_file_are_out_of_date(repository: Path) -> None:
    made, files = repository / "charts" / "starling", wanted(repository)
    sync(made, files)
    assert stale(made, files) == []

    (made / "files/crds/one.yaml").write_text("changed\n")
    (made / "files/dashboards/starling.json").unlink()
    (made / "files/crds/gone.yaml").write_text("of a kind that is no more\n")

    expected = [
        Path("files/crds/gone.yaml"),
        Path("files/crds/one.yaml"),
        Path("files/dashboards/starling.json"),
    ]
    assert stale(made, files) == expected
    assert sync(made, files) == expected
    assert stale(made, files) == []
    assert not (made / "files/crds/gone.yaml").exists()


def test_without_definitions_there_is_nothing_to_copy_and_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChartError, match="make crds"):
        wanted(tmp_path)


def test_the_same_board_gives_the_same_text() -> None:
    for board in BOARDS.values():
        assert text_of(board) == text_of(board)


def test_the_table_of_values_names_every_default() -> None:
    shown = chart.table((CHART / "values.yaml").read_text())

    for path, default in leaves(values()):
        if ".resources." not in f".{path}":
            assert f"| `{path}` | `{json.dumps(default)}` |" in shown
    assert "| `nats.dev.resources` |" in shown


@pytest.mark.row("CP-18", part="no password has a default")
def test_no_password_has_a_default() -> None:
    suspects = {path: value for path, value in leaves(values()) if any(word in path.lower() for word in SECRETS)}

    assert suspects == {"imagePullSecrets": [], "nats.credentials.secretName": ""}


def test_every_value_is_in_the_schema_and_every_property_of_it_has_a_default() -> None:
    definitions = schema()["definitions"]

    def compare(value: Any, node: dict[str, Any], path: str) -> None:
        node = definitions[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        if "properties" not in node or path.endswith((".resources", ".affinity")):
            return
        expected = set(node["properties"]) - {"global"}
        assert set(value) == expected, path
        for key in expected:
            compare(value[key], node["properties"][key], f"{path}.{key}")

    compare(values(), schema(), "")


def test_no_object_of_the_schema_takes_any_key_but_where_kubernetes_checks() -> None:
    def objects(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for value in node.values():
                yield from objects(value)
        elif isinstance(node, list):
            for value in node:
                yield from objects(value)

    found = list(objects(schema()))
    open_ones = [node for node in found if node.get("additionalProperties") is True]
    assert [node["$comment"] for node in open_ones] == [
        "Helm hands a parent chart's globals down",
        "checked by the API server",
    ]
    assert all("additionalProperties" in node for node in found)
    assert len(found) > 15
