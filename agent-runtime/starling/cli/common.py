"""What all commands share: their options, a connection, and how answers are printed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from starling.client import Mesh, opened
from starling.core.ids import AgentId, PoolName, ShardId, check_mesh
from starling.core.names import MeshNames, bucket_stream
from starling.core.routes import PoolRoute, Routes
from starling.errors import SpecError, Unreachable
from starling.loops import run as run
from starling.ports.store import Store
from starling.provision import read_routes

if TYPE_CHECKING:
    from starling.adapters.nats import NatsStore

Nats = Annotated[str, typer.Option("--nats", envvar="STARLING_NATS_URL", help="Address of the NATS server.")]
MeshName = Annotated[str, typer.Option("--mesh", envvar="STARLING_MESH", help="Name of the mesh.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait at most.")]
PoolOption = Annotated[str | None, typer.Option("--pool", help="One pool only; default all pools of the mesh.")]

LOCAL_NATS: Final = "nats://127.0.0.1:4222"
LOCAL_MESH: Final = "dev"
_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


CREDENTIALS: ContextVar[Path | None] = ContextVar("CREDENTIALS", default=None)
"""The NATS credentials file of this call of the program."""


def counted(number: int, noun: str) -> str:
    """Return how many there are, in words for people."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@asynccontextmanager
async def connected(nats: str, name: str = "starling") -> AsyncIterator[NatsStore]:
    """A connection to the store. Raises Unreachable."""
    from starling.adapters.nats import connect

    store = await connect(nats, name=name, credentials=CREDENTIALS.get(), timeout=5.0)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def client_of(nats: str, mesh: str, name: str) -> AsyncIterator[Mesh]:
    """A client of the mesh. Raises Unreachable."""
    async with store_and_client(nats, mesh, name) as (_, client):
        yield client


@asynccontextmanager
async def store_and_client(nats: str, mesh: str, name: str) -> AsyncIterator[tuple[NatsStore, Mesh]]:
    """A connection to the store, and a client of the mesh over it. Raises Unreachable."""
    check_mesh(mesh)
    async with connected(nats, name) as store, opened(store, mesh, name=name) as client:
        yield store, client


async def routes_of(store: Store, mesh: str) -> Routes:
    """Return the mesh's route table. Raises SpecError, Unreachable when there is none: no pool was ever applied."""
    check_mesh(mesh)
    if await store.stream_info(bucket_stream(MeshNames(mesh).routes)) is None:
        raise Unreachable(f"there is no mesh {mesh!r} on this NATS server; --mesh names it, is a pool applied?")
    _, routes = await read_routes(store, mesh)
    return routes


async def pools_of(store: Store, mesh: str, pool: str | None) -> list[PoolRoute]:
    """Return the pools that a command is about. Raises SpecError when the mesh has no such pool."""
    routes = await routes_of(store, mesh)
    if pool is None:
        return [routes.pools[name] for name in sorted(routes.pools)]
    if pool not in routes.pools:
        known = ", ".join(sorted(routes.pools)) or "none"
        raise SpecError("pool", f"mesh {mesh!r} has no pool {pool!r}; it has: {known}")
    return [routes.pools[PoolName(pool)]]


async def one_shard(store: Store, mesh: str, text: str) -> tuple[PoolRoute, ShardId]:
    """Read "pool/shard". Raises SpecError."""
    name, slash, number = text.rpartition("/")
    if not slash or not number.isdigit():
        raise SpecError("shard", f"{text!r} is not of the form pool/number")
    (pool,) = await pools_of(store, mesh, name)
    if int(number) >= pool.shards:
        raise SpecError("shard", f"pool {name} has shards 0 to {pool.shards - 1}, not {number}")
    return pool, ShardId(int(number))


def agent_of(text: str) -> AgentId:
    """Read "type/key". Raises SpecError."""
    return AgentId.parse(text)


def message_of(text: str) -> tuple[str, bytes]:
    """Read a message as people write it: its name, and JSON unless it is empty. Raises SpecError."""
    name, _, body = text.strip().partition(" ")
    body = body.strip() or "{}"
    if not name:
        raise SpecError("message", "is empty; give its name and a JSON body: 'Ask {}'")
    if name[0] in '{["':
        raise SpecError("message", f"begins with its body, {name[:20]!r}; give its name first: 'Ask {{}}'")
    try:
        json.loads(body)
    except ValueError as error:
        raise SpecError("message", f"the body is no JSON: {error}") from error
    return name, body.encode()


def time_of(text: str | None, field: str) -> float | None:
    """Read "10m" (ago) or a time such as 2026-01-31T12:00:00Z; seconds since 1970. Raises SpecError."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text):
        return time.time() - float(ago[1]) * _SECONDS[ago[2]]
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise SpecError(
            field, f"{text!r} is neither a time such as 2026-01-31T12:00:00Z nor 30s, 10m, 2h, 1d"
        ) from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def clock(seconds: float) -> str:
    """Write a time for people and for programs: UTC with its zone."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def say(text: str) -> None:
    """Print a line."""
    print(text)  # noqa: T201


def show_json(value: object) -> None:
    """Print a value as JSON."""
    say(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns as wide as what stands in them; the same on a terminal and in a pipe."""
    lines = [tuple(columns), *(tuple("" if value is None else str(value) for value in row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def show(as_json: bool, value: Mapping[str, object], text: str) -> None:
    """Print the value as JSON, or the text."""
    if as_json:
        show_json(value)
    else:
        say(text)


def readable(body: bytes) -> object:
    """Return a body as JSON where it is JSON, else as text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="backslashreplace")
