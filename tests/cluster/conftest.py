"""A real control plane for the tests: started once a session, skipped with the reason where it cannot be."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # at the end: nothing of ours may hide a library
    sys.path.append(str(ROOT))

from hack.cluster.apiserver import Shape, node_arguments  # noqa: E402
from hack.cluster.kit import Cluster, running  # noqa: E402
from hack.tools.builder import wait_for  # noqa: E402
from hack.tools.programs import missing  # noqa: E402

FIXTURES = {"control_plane", "cluster", "mesh_cluster"}
START_SECONDS = 120.0
NODES = 2


def tools_wait() -> float:
    """Return for how many seconds a build that is running is waited for."""
    return float(os.environ.get("STARLING_TOOLS_WAIT") or 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests last where a build is waited for, and give them the time for it."""
    needy = [item for item in items if FIXTURES & set(getattr(item, "fixturenames", ()))]
    for item in needy:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(START_SECONDS + tools_wait() + 120.0))
    if needy and tools_wait():
        items.sort(key=lambda item: item in needy)


def start(shape: Shape, folder: Path) -> Iterator[Cluster]:
    """Yield a running cluster; skip when its programs are not on this machine."""
    wait_for(shape.programs, tools_wait())
    if why := missing(shape.programs):
        pytest.skip(why)
    with running(folder, shape) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """etcd and the API server only: admission, defaulting, conflicts, watches; nothing acts on objects."""
    yield from start(Shape(), tmp_path_factory.mktemp("control-plane") / "plane")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The same with controllers, scheduler and two process nodes: StatefulSets run as local processes."""
    shape = Shape(nodes=NODES, node_arguments=node_arguments(entrypoints=["greeter=echo hello from"]))
    yield from start(shape, tmp_path_factory.mktemp("cluster") / "cluster")


@pytest.fixture(scope="session")
def mesh_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Another one, with our definitions: the chart's tests install and remove their own."""
    shape = Shape(nodes=NODES, node_arguments=node_arguments())
    for cluster in start(shape, tmp_path_factory.mktemp("mesh") / "cluster"):
        cluster.kubectl("apply", "--filename", str(ROOT / "crds"))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all")
        yield cluster


@pytest.fixture
def bare_namespace(control_plane: Cluster) -> str:
    """A fresh namespace of `control_plane`."""
    return control_plane.new_namespace()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace of `cluster`; its pods end after the test."""
    name = cluster.new_namespace()
    yield name
    cluster.drop_namespace(name)
