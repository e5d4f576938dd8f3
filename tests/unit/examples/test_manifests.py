"""The example's manifests, read as `starling dev` reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from starling.entrypoints import load
from starling_operator.dev.manifests import read

FOLDER = Path(__file__).parents[3] / "examples" / "flights"


def test_the_manifests_are_taken_and_hold_two_pools_that_start_with_two_pods() -> None:
    found = read(FOLDER)
    assert {name: (pool.spec.replicas, pool.spec.shards) for name, pool in found.pools.items()} == {
        "aircraft": (2, 16),
        "airports": (2, 16),
    }
    assert {(s.spec.topic, s.spec.agent_type) for s in found.subscriptions.values()} == {
        ("flight.departed", "aircraft"),
        ("airport.movement", "airport"),
    }


def test_the_pools_code_is_the_example_and_its_entrypoints_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(FOLDER)
    for pool in found.pools.values():
        assert found.code_of(pool) == {"flights.py": (FOLDER / "flights.py").read_text()}
        for agent in pool.spec.agents:
            assert agent.entrypoint
            made = load(agent.entrypoint.replace("flights:", "examples.flights.flights:"), agent.type)
            assert made.type == agent.type


def test_every_pool_moves_shards_on_the_times_that_a_short_replay_needs() -> None:
    found = read(FOLDER)
    assert set(found.targets) == set(found.pools)
    for target in found.targets.values():
        rebalance = target.spec.rebalance
        assert (rebalance.interval_seconds, rebalance.settle_seconds, rebalance.window_seconds) == (5, 10, 15)
        assert target.spec.behavior.stabilization_seconds == 5
    assert found.targets["aircraft"].spec.max_replicas == 3
