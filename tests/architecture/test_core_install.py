"""What the core install brings along, and that the import contracts are part of the checks."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
NOT_IN_CORE = {"grpcio", "openai", "anthropic", "autogen-core", "agentscope", "protobuf"}


def installed_with(name: str) -> set[str]:
    """Names of all packages that come with one, itself among them, without extras."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop().lower().replace("_", "-")
        if one in found:
            continue
        try:
            needed = [Requirement(text) for text in requires(one) or ()]
        except PackageNotFoundError:
            continue  # for another system
        found.add(one)
        waiting += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.row("RT-88", part="the core installs without grpcio and without a provider's library")
def test_the_core_install_brings_no_grpc_and_no_library_of_a_provider() -> None:
    found = installed_with("starling-mesh")
    assert {"msgpack", "pydantic"} <= found
    assert not found & NOT_IN_CORE


@pytest.mark.row("RT-88", part="import contracts are part of make check")
def test_the_import_contracts_are_part_of_the_checks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert len(contracts) >= 9
    assert "lint-imports" in (ROOT / "hack" / "check").read_text(encoding="utf-8")
