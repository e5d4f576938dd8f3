"""The store under test: in memory, on a real NATS server, and on three with three replicas of everything."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from starling.adapters.memory import MemoryServer
from starling.adapters.nats import EmbeddedServer, connect
from starling.adapters.nats.server import binary, cluster
from starling.core.names import bucket_stream
from starling.errors import RetryLater, SpecError
from starling.ports.store import Answer, BucketSpec, Message, Reader, Store, StreamSpec, Unknown

Connector = Callable[[str], Awaitable[Store]]

STARTED = 60.0
"""Seconds within which three servers have chosen their leaders."""

BOUND = 15.0
"""Seconds after which a fact that should come is taken to be missing."""


class World:
    """One message store and connections to it; names of streams are its own."""

    def __init__(self, kind: str, connector: Connector) -> None:
        self.kind = kind
        self.replicas = 3 if kind == "cluster" else 1
        self._connector = connector
        self._stores: list[Store] = []
        self._streams: list[str] = []
        self._token = uuid.uuid4().hex[:12]

    async def connect(self, name: str = "test") -> Store:
        store = await self._connector(name)
        self._stores.append(store)
        return store

    def name(self, text: str) -> str:
        """Return a name that no other test uses, for a stream, a bucket or the first token of a subject."""
        return f"{text}_{self._token}"

    async def stream(self, store: Store, text: str = "s", **limits: object) -> tuple[str, str]:
        """Make a stream and return its name and the first token of its subjects."""
        name = self.name(text)
        self._streams.append(name)
        given = {"replicas": self.replicas, **limits}
        spec = StreamSpec(name=name, subjects=(f"{name}.>",), **given)  # type: ignore[arg-type]
        assert await store.ensure_stream(spec)
        return name, name

    async def bucket(self, store: Store, **limits: Any) -> tuple[str, str]:
        """Make a bucket and return its name and its stream's."""
        bucket = self.name("b")
        self._streams.append(bucket_stream(bucket))
        await store.ensure_bucket(BucketSpec(bucket, replicas=self.replicas, **limits))
        return bucket, bucket_stream(bucket)

    def remove_later(self, stream: str) -> None:
        """Delete a stream that the test makes itself when the test is over."""
        self._streams.append(stream)

    async def close(self) -> None:
        if self._stores:
            cleaner = await self._connector("cleaner")
            for name in self._streams:
                await cleaner.delete_stream(name)
            await cleaner.close()
        for store in self._stores:
            await store.close()


@pytest.fixture(scope="session")
def nats_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One of three servers that all tests of the suite share."""
    try:
        binary()
    except SpecError as error:
        pytest.skip(str(error))
    servers = cluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(_start(servers))
        yield servers[0]
    finally:
        for server in servers:
            asyncio.run(server.stop())


async def _start(servers: list[EmbeddedServer]) -> None:
    """Start them together, and wait until they make a stream of three replicas."""
    await asyncio.gather(*(server.start() for server in servers))
    store = await connect(servers[0].url, name="first")
    spec = StreamSpec(name="first", subjects=("first",), replicas=3)
    async with asyncio.timeout(STARTED):
        while True:
            try:
                await store.ensure_stream(spec)
                break
            except RetryLater:
                await asyncio.sleep(0.1)
    await store.close()


@pytest.fixture(params=["memory", "nats", "cluster"])
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def connector(kind: str, request: pytest.FixtureRequest) -> Connector:
    if kind == "memory":
        return _memory()
    return _nats(request.getfixturevalue("nats_server" if kind == "nats" else "nats_cluster"))


@pytest.fixture
async def world(kind: str, connector: Connector) -> AsyncIterator[World]:
    made = World(kind, connector)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def store(world: World) -> Store:
    return await world.connect()


def _memory() -> Connector:
    server = MemoryServer()

    async def connected(name: str) -> Store:
        return server.connect(name)

    return connected


def _nats(server: EmbeddedServer) -> Connector:
    async def connected(name: str) -> Store:
        return await connect(server.url, name=name)

    return connected


async def put(store: Store, subject: str, data: bytes = b"", **more: object) -> Answer:
    """Publish and wait for the answer; again as long as the stream, which may be new, has no leader."""
    async with asyncio.timeout(BOUND):
        while True:
            answer = await (await store.publish(subject, data, **more))  # type: ignore[arg-type]
            if not (isinstance(answer, Unknown) and answer.text.endswith("has no leader")):
                return answer


async def read_until(reader: Reader, count: int, messages: int = 64, size_bytes: int = 1 << 20) -> list[Message]:
    """Read until `count` messages have come; more than that fails the test."""
    got: list[Message] = []
    async with asyncio.timeout(BOUND):
        while len(got) < count:
            got.extend(await reader.read(messages, size_bytes))
    assert len(got) == count
    return got


def is_connected(store: Store) -> bool:
    return store.connected_since is not None


def has_caught_up(reader: Reader) -> bool:
    return reader.caught_up
