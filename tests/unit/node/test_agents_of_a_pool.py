"""What a pool's manifest says over its agents' classes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from starling.errors import SpecError
from starling.node.settings import PoolConfig
from starling.node.worker import load_agents

CODE = """
from dataclasses import dataclass
from starling import Agent, cells

@dataclass
class Cents:
    n: int = 0

class Till(Agent[Cents], idle=60.0): ...

class Fast(Agent[Cents], durability="none"): ...

class Yard(Agent):
    parts = cells(Cents)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "pool_of_tills.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pool_of_tills", raising=False)
    return "pool_of_tills"


def config(*agents: dict[str, Any]) -> PoolConfig:
    return PoolConfig.model_validate({"pool": "p", "shards": 4, "incarnation": "i", "agents": agents})


def test_the_manifest_is_over_the_class_which_is_over_the_default(module: str) -> None:
    agents = load_agents(
        config(
            {"type": "till", "entrypoint": f"{module}:Till", "passivation": {"idleSeconds": 5, "maxActive": 7}},
            {"type": "fast", "entrypoint": f"{module}:Fast", "passivation": {}},
        )
    )
    till, fast = agents["till"].options, agents["fast"].options
    assert (till.idle, till.max_active, till.durability) == (5.0, 7, "committed")
    assert (fast.idle, fast.max_active, fast.durability) == (600.0, None, "none")
    again = load_agents(config({"type": "till", "entrypoint": f"{module}:Till", "durability": "none"}))["till"]
    assert (again.options.durability, again.options.idle) == ("none", 60.0)


def test_a_durability_that_the_class_cannot_have_is_refused_by_its_field(module: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.agents\[0\]\.durability: is 'none', and cells have to be recorded"):
        load_agents(config({"type": "yard", "entrypoint": f"{module}:Yard", "durability": "none"}))
