"""What comes from outside without a fork."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starling.entrypoints import registered
from starling.errors import SpecError
from starling.node.settings import AgentConfig, PoolConfig
from starling.node.worker import load_agents

Install = Callable[[str, str, str], None]

MODULE = """
import starling

class Parrot(starling.Agent, type="{type}"):
    @starling.rpc
    async def say(self, message: str) -> str:
        return message
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package as an installer leaves it: modules, and metadata with its entry points."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def put(package: str, agent_type: str, entrypoint: str) -> None:
        (tmp_path / f"{package}.py").write_text(MODULE.format(type=agent_type))
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[starling.agents]\n{agent_type} = {entrypoint}\n")
        made.append(package)
        importlib.invalidate_caches()

    yield put
    for package in made:
        sys.modules.pop(package, None)


@pytest.mark.row("RT-87", part="an installed package registers its type")
def test_a_pool_runs_a_type_that_an_installed_package_registers(install: Install) -> None:
    install("parrots", "parrot_a", "parrots:Parrot")
    config = PoolConfig(pool="birds", shards=1, incarnation="abc", agents=[AgentConfig(type="parrot_a")])
    agents = load_agents(config)
    assert agents["parrot_a"].cls.__module__ == "parrots"


def test_a_type_that_no_package_registers_is_named() -> None:
    config = PoolConfig(pool="birds", shards=1, incarnation="abc", agents=[AgentConfig(type="nobody")])
    with pytest.raises(SpecError, match=r"spec\.agents\[0\]\.entrypoint: no installed package registers .*'nobody'"):
        load_agents(config)


def test_two_packages_with_one_type_are_both_named(install: Install) -> None:
    install("parrots_one", "parrot_b", "parrots_one:Parrot")
    install("parrots_two", "parrot_b", "parrots_two:Parrot")
    with pytest.raises(SpecError, match=r"parrots_one \(parrots_one:Parrot\), parrots_two \(parrots_two:Parrot\)"):
        registered("parrot_b")


def test_a_package_that_registers_another_type_than_its_class_has_is_refused(install: Install) -> None:
    install("parrots_wrong", "parrot_c", "parrots_wrong:Parrot")
    module = Path(sys.path[0]) / "parrots_wrong.py"
    module.write_text(MODULE.format(type="parrot_d"))
    with pytest.raises(SpecError, match="says type 'parrot_c', but parrots_wrong:Parrot says 'parrot_d'"):
        registered("parrot_c")
