"""Real NATS servers for tests, and message names of each module's own."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from starling.adapters.nats import EmbeddedServer
from starling.codec import Codec
from starling.messages import registry

# Speed is for benchmarks: a busy machine fails no property.
settings.register_profile("starling", deadline=None)
settings.load_profile("starling")

# All tests run in one process, where a message name is one class's; programs of users are a process each. So each test
# module has its names to itself: between its tests its classes are not registered, nor are those of what it imports.
_of_starling = frozenset(registry._by_class)
_of_module: dict[str, list[Codec]] = {}
_of_helpers: dict[Any, Codec] = {}


def is_of(module: str, cls: Any) -> bool:
    """Whether a message class, or a list or dict of some, was made in a module."""
    return getattr(cls, "__module__", "") == module or any(is_of(module, part) for part in typing.get_args(cls))


def take_out(module: str) -> None:
    """Take all message classes that tests have made out of the registry, and keep those of this module apart."""
    for cls, codec in list(registry._by_class.items()):
        if cls not in _of_starling:
            del registry._by_class[cls]
            registry._by_name.pop(codec.name, None)
            if is_of(module, cls):
                _of_module.setdefault(module, []).append(codec)
            else:
                _of_helpers[cls] = codec


def put_back(module: str) -> None:
    """Register the message classes of what tests import, and over them those of this module."""
    for codec in _of_helpers.values():
        other = registry._by_name.get(codec.name, codec)
        assert other.cls == codec.cls, f"{codec.name!r} is {other.cls} and {codec.cls}: rename one, both are imported"
        registry._add(codec)
    for codec in _of_module.pop(module, []):
        registry._add(codec)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    try:
        return (yield)
    finally:
        if isinstance(collector, pytest.Module):
            take_out(_module_at(collector.path))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    put_back(_module_at(item.path))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    take_out(_module_at(item.path))


def _module_at(path: Path) -> str:
    """Return the name under which pytest imports a file of this folder."""
    return ".".join(path.relative_to(Path(__file__).parents[1]).with_suffix("").parts)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """The server that all tests share; nobody stops it. Use names of your own for streams."""
    server = EmbeddedServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    try:
        yield server
    finally:
        asyncio.run(server.stop())


@pytest.fixture
async def private_nats(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A running server of this test alone: kill it, freeze it, start it again."""
    server = EmbeddedServer(tmp_path / "nats")
    await server.start()
    try:
        yield server
    finally:
        server.resume()
        await server.kill()
