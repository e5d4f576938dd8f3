"""Real NATS servers for tests: one for the session, and private ones to be killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from starling.adapters.nats import EmbeddedServer

# Speed is for benchmarks: a busy machine fails no property.
settings.register_profile("starling", deadline=None)
settings.load_profile("starling")


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
