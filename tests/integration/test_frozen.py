"""What a worker has loaded at its start is no part of its looks for reference cycles, in a real process."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starling import Agent, AgentId, rpc

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster


@dataclass
class Look:
    """Asks how many objects the process has, by whether they are looked at."""


@dataclass
class Looked:
    frozen: int
    looked_at: int


class Heap(Agent[None]):
    @rpc
    async def look(self, message: Look) -> Looked:
        return Looked(gc.get_freeze_count(), len(gc.get_objects()))


async def test_what_a_worker_has_loaded_at_its_start_is_not_looked_at_for_garbage(cluster: Cluster) -> None:
    pool = await cluster.pool("heaps", agents={"heap": "tests.integration.test_frozen:Heap"})
    await pool.map("a")
    pool.start("a")
    await pool.owns("a", 0)
    async with cluster.client() as mesh:
        heap = await mesh.call(AgentId("heap", "h"), Look(), timeout=30.0)
    assert isinstance(heap, Looked)
    assert heap.frozen > 10_000  # modules and classes alone are more
    assert heap.looked_at < heap.frozen / 2
