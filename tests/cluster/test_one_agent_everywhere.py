"""The suite of all runtimes on a cluster: the operator, pods, and the same agents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from starling import Mesh
from starling.adapters.nats import EmbeddedServer

from hack.cluster.kit import Cluster
from tests.cluster.operated import Operated, operated
from tests.runtimes.objects import PODS, POOL, SHARDS, objects
from tests.runtimes.suite import Suite


@pytest.fixture(scope="module")
def running(
    mesh_cluster: Cluster, nats_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operated]:
    """The pool with all its shards served and its subscriptions routed."""
    with operated(mesh_cluster, nats_server, tmp_path_factory.mktemp("everywhere") / "operator") as made:
        made.apply(*objects())
        made.until_ready(POOL, pods=PODS, shards=SHARDS)
        names = [each["metadata"]["name"] for each in objects() if each["kind"] == "AgentSubscription"]
        made.until(
            "the subscriptions are routed",
            lambda: {made.condition("Ready", "AgentSubscription", name)[0] for name in names} == {"True"},
        )
        yield made


@pytest.fixture
async def mesh(running: Operated) -> AsyncIterator[Mesh]:
    async with running.mesh() as made:
        yield made


@pytest.mark.row("RT-31", part="on a cluster as on the other three", completes=True)
@pytest.mark.usefixtures("mesh_cluster")
class TestOnACluster(Suite):
    """Two pods of a StatefulSet."""
