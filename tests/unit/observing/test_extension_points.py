"""What comes from outside without a fork."""

from __future__ import annotations

import importlib
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import starling.testing
from starling import Agent, AgentId, LocalRuntime, register_codec, rpc
from starling.adapters.memory import MemoryServer
from starling.entrypoints import registered
from starling.errors import DecodeError, SpecError
from starling.node.settings import AgentConfig, PoolConfig
from starling.node.worker import load_agents
from starling.ports.store import Store

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


class Point:
    """A class that no codec of ours takes."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y


class Fixed:
    """Two numbers in eight bytes."""

    def dump(self, value: Point) -> bytes:
        return struct.pack("<ii", value.x, value.y)

    def load(self, body: bytes) -> Point:
        return Point(*struct.unpack("<ii", body))


register_codec(Point, Fixed(), name="extension.point")


class Plotter(Agent, type="extension_plotter"):
    @rpc
    async def mirror(self, message: Point) -> Point:
        return Point(message.y, message.x)


@pytest.mark.row("RT-87", part="a codec from outside")
async def test_a_class_travels_by_a_codec_from_outside() -> None:
    async with starling.testing.mesh(Plotter) as mesh:
        mirrored = await mesh.agent(Plotter, "1").mirror(Point(3, -7), timeout=10.0)
        assert (mirrored.x, mirrored.y) == (-7, 3)
        with pytest.raises(DecodeError, match=r"extension\.point: its codec cannot write it: 'i' format"):
            await mesh.agent(Plotter, "1").mirror(Point(1 << 40, 0), timeout=10.0)
        with pytest.raises(DecodeError, match=r"extension\.point: its codec cannot read it"):
            await mesh.call_raw(AgentId("extension_plotter", "1"), "extension.point", b"short", timeout=10.0)


def test_a_codec_needs_both_ways_and_a_free_name() -> None:
    with pytest.raises(SpecError, match="needs a method 'dump'"):
        register_codec(int, object())  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="has a codec already"):
        register_codec(Point, Fixed(), name="extension.other")
    other = type("Other", (Point,), {})
    with pytest.raises(SpecError, match=r"'extension\.point' is .*Point already"):
        register_codec(other, Fixed(), name="extension.point")


@pytest.mark.row("RT-87", part="a store from outside")
async def test_a_mesh_runs_on_a_store_from_outside() -> None:
    """Whatever has the methods of the port will do: here one that passes all on, and counts."""
    server, counted = MemoryServer(wall=time.time), Counter[str]()

    class Counting:
        def __init__(self, inner: Store) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            counted[name] += 1
            return getattr(self._inner, name)

    def connected(name: str) -> Store:
        return cast("Store", Counting(server.connect(name)))

    runtime = LocalRuntime(connect=connected)
    runtime.register(Plotter)
    async with runtime:
        mirrored = await runtime.agent(Plotter, "1").mirror(Point(1, 2), timeout=10.0)
    assert (mirrored.x, mirrored.y) == (2, 1)
    assert counted["publish"] > 0
