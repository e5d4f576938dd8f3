"""What tests over a mesh in memory look at beside its public face."""

from __future__ import annotations

from collections.abc import Iterator

from starling.engine.activation import Activation
from starling.engine.shard import OwnedShard
from starling.testing import TestMesh


def shards(mesh: TestMesh) -> Iterator[OwnedShard]:
    """All shards of all pods."""
    for pool in mesh._pools:
        for worker in pool.workers:
            yield from worker.ownership.owned.values()


def in_memory(mesh: TestMesh) -> dict[str, Activation]:
    """The agents that are in memory, by their address."""
    return {str(agent): one for shard in shards(mesh) for agent, one in shard._turns.residents.agents.items()}


def commits(mesh: TestMesh) -> int:
    """Records of turns that all shards have stored since they were taken."""
    return sum(shard.stats.commits for shard in shards(mesh))


def parked(mesh: TestMesh) -> int:
    """Agents that are parked, as the metric counts them."""
    return sum(shard.stats.quarantined_agents for shard in shards(mesh))
