"""The store port over a real NATS server."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starling.adapters.nats.acks import Acks
from starling.adapters.nats.connection import Connection
from starling.adapters.nats.direct import DirectGets
from starling.adapters.nats.link import Msg
from starling.adapters.nats.questions import Questions
from starling.adapters.nats.reader import NatsReader
from starling.adapters.nats.requests import ApiError, Requests
from starling.adapters.nats.streams import Streams
from starling.errors import SpecError, Unreachable
from starling.ports.store import (
    Answer,
    BucketSpec,
    Expect,
    Headers,
    LastValues,
    Message,
    Reader,
    Signal,
    StreamInfo,
    StreamSpec,
    Subscription,
)


async def connect(url: str, *, name: str, credentials: Path | None = None, timeout: float = 10.0) -> NatsStore:
    """Connect, and stay connected until closed: lost connections are made again for ever.

    url: one or more `nats://` or `tls://` addresses, separated by commas; may hold user and password.
    credentials: a NATS credentials file. timeout: seconds for the first connection; Unreachable after it.
    """
    servers = [server.strip() for server in url.split(",") if server.strip()]
    if not servers:
        raise SpecError("nats url", "empty; give nats://host:port")
    if credentials is not None:
        _check_credentials(credentials)
    connection = Connection(servers, name=name, credentials=None if credentials is None else str(credentials))
    await connection.open(timeout)
    store = NatsStore(connection)
    try:
        await store.open()
    except BaseException:
        await store.close()
        raise
    return store


class ServerFacts(NamedTuple):
    """What a server says of itself. stored_bytes: of our account, on disk; limit_bytes: 0 for none that it tells."""

    version: str
    jetstream: bool
    stored_bytes: int = 0
    limit_bytes: int = 0


class NatsStore:
    """One connection and what runs over it; made by `connect`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._requests = Requests(connection)
        self._questions = Questions(connection)
        self._acks = Acks(connection, self._requests)
        self._streams = Streams(self._requests)
        self._direct = DirectGets(self._requests, self._streams)

    async def open(self) -> None:
        """Subscribe to the inboxes. Raises Unreachable."""
        await self._requests.open()
        await self._questions.open()
        await self._acks.open()

    async def close(self) -> None:
        await self._acks.close()
        self._requests.close()
        self._questions.close()
        await self._connection.close()

    @property
    def connected_since(self) -> float | None:
        return self._connection.connected_since

    async def server(self) -> ServerFacts:
        """Ask the server about itself. Raises Unreachable when it is away; without JetStream the facts say so."""
        version = self._connection.server_version
        if self._connection.connected_since is None:
            raise Unreachable("not connected to NATS")
        try:
            account = await self._requests.api("INFO")
        except (Unreachable, ApiError):
            if self._connection.connected_since is None:
                raise
            return ServerFacts(version, jetstream=False)
        limit = account.get("limits", {}).get("max_storage", -1)
        return ServerFacts(version, jetstream=True, stored_bytes=account["storage"], limit_bytes=max(0, limit))

    async def publish(
        self, subject: str, data: bytes, headers: Headers | None = None, expect: Expect | None = None
    ) -> Awaitable[Answer]:
        return await self._acks.publish(subject, data, headers, expect)

    async def last(self, stream: str, subject: str) -> Message | None:
        return await self._direct.last(stream, subject)

    async def last_values(self, stream: str, subjects: Sequence[str]) -> LastValues:
        return await self._direct.last_values(stream, subjects)

    async def page(self, stream: str, subject: str, first: int) -> Sequence[Message]:
        return await self._direct.page(stream, subject, first)

    async def purge(self, stream: str, subject: str, below: int) -> None:
        await self._streams.purge(stream, subject, below)

    async def remove(self, stream: str, sequence: int) -> bool:
        return await self._streams.remove(stream, sequence)

    async def reader(self, stream: str, subject: str, after: int | None) -> Reader:
        reader = NatsReader(self._connection, self._requests, stream, subject, after)
        await reader.open()
        return reader

    async def ensure_stream(self, spec: StreamSpec) -> bool:
        return await self._streams.ensure(spec)

    async def delete_stream(self, name: str) -> None:
        await self._streams.delete(name)

    async def stream_info(self, name: str) -> StreamInfo | None:
        return await self._streams.info(name)

    async def ensure_bucket(self, spec: BucketSpec) -> None:
        await self._streams.ensure_bucket(spec)

    async def signal(self, subject: str, data: bytes = b"", reply: str = "") -> None:
        await self._connection.send(subject, data, reply)

    def answer(self, subject: str, data: bytes) -> bool:
        return self._connection.hand_over(subject, data)

    async def listen(self, subject: str, heard: Callable[[Signal], None]) -> Subscription:
        def pass_on(message: Msg) -> None:
            heard(Signal(message.subject, message.data, message.reply))

        return await self._connection.subscribe(subject, pass_on)

    def ask(self, subject: str, data: bytes, timeout: float) -> Coroutine[Any, Any, bytes | None]:
        return self._questions.ask(subject, data, timeout)


def _check_credentials(credentials: Path) -> None:
    if not credentials.is_file():
        raise SpecError("nats credentials", f"there is no file {credentials}")
    if importlib.util.find_spec("nkeys") is None:
        raise SpecError("nats credentials", "they need the package nkeys: install nkeys")
