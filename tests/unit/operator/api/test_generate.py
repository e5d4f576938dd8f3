"""The definitions that are checked in are those of the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from starling_operator.api import KINDS
from starling_operator.api.crd import definition, definitions
from starling_operator.api.generate import main

CRDS = Path(__file__).parents[4] / "crds"


@pytest.mark.row("CP-2")
def test_the_checked_in_definitions_are_the_generated_ones() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in CRDS.glob("*.yaml")} == definitions()


def test_generating_writes_what_the_check_then_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(tmp_path)]) == 1
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    assert "agentpools.yaml: written" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def test_the_check_names_what_differs_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path)])
    (tmp_path / "agentpools.yaml").write_text("by hand")
    (tmp_path / "agentthings.yaml").write_text("of nobody")
    capsys.readouterr()

    assert main(["--check", str(tmp_path)]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.partition(":")[0]).name for line in lines] == ["agentpools.yaml", "agentthings.yaml"]
    assert (tmp_path / "agentpools.yaml").read_text() == "by hand"


def test_a_file_of_no_kind_is_removed_when_generating(tmp_path: Path) -> None:
    (tmp_path / "agentthings.yaml").write_text("of nobody")

    assert main([str(tmp_path)]) == 0

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(definitions())


@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.resource_kind.name)
def test_each_column_of_spec_or_status_shows_a_field_that_exists(model: type) -> None:
    version = definition(model)["spec"]["versions"][0]
    for column in version["additionalPrinterColumns"]:
        if column["jsonPath"].startswith(".metadata."):
            continue
        at = version["schema"]["openAPIV3Schema"]
        for part in column["jsonPath"].partition("[")[0].strip(".").split("."):
            assert part in at["properties"], column
            at = at["properties"][part]


@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.resource_kind.name)
def test_every_field_of_a_spec_is_explained(model: type) -> None:
    silent = []

    def walk(schema: dict, path: str) -> None:  # type: ignore[type-arg]
        for name, inner in schema.get("properties", {}).items():
            if not inner.get("description"):
                silent.append(f"{path}.{name}")
            walk(inner, f"{path}.{name}")
            walk(inner.get("items", {}), f"{path}.{name}[]")

    walk(definition(model)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")

    assert silent == []


def test_generated_text_is_yaml_of_the_same_document() -> None:
    for model in KINDS:
        made = definition(model)
        assert yaml.safe_load(definitions()[f"{model.resource_kind.plural}.yaml"]) == made
