"""What compression saves and costs: zstd for large values in the object store, s2 for the files of streams."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from starling.adapters.nats import EmbeddedServer, NatsStore, connect
from starling.core.envelope import Envelope, frame_body
from starling.core.ids import AgentId, PoolName, ShardId
from starling.core.names import Inlet, Lane, MeshNames, Origin, object_stream
from starling.core.reference import BODY, refer
from starling.core.routes import PLAIN, ZSTD, PoolRoute, Routes
from starling.engine.objects import Objects
from starling.engine.routes_view import RoutesView
from starling.ports.store import Compression, Store, Stored, StreamSpec
from starling.provision import PoolStreams, large_objects, shard_streams

from benchmarks.bench import Bench, loading
from benchmarks.cost import Cost, cpu_seconds
from benchmarks.figures import Sample

MESH: Final = "bench"
POOL: Final = PoolName("packed")
NAMES: Final = MeshNames(MESH).pool(POOL)
AIRPORTS: Final = ("EWR", "JFK", "LGA", "ATL", "BOS", "ORD", "MIA", "SFO", "LAX", "DFW")
NEW_YEAR: Final = 1_356_998_400
"""The first second of 2013."""
YEAR: Final = 365 * 86_400
A_FRAME: Final = 16
AT_ONCE: Final = 64
SETTLED: Final = 1.0
"""Seconds without a change after which files count as written."""


def movements(number: int) -> list[dict[str, object]]:
    """The fixture: so many movements of aircraft as the flights example has them, always the same."""
    chance = random.Random(7)
    return [
        {
            "kind": chance.choice(("departed", "arrived")),
            "flight": f"{chance.choice(('UA', 'AA', 'B6', 'DL'))}{chance.randrange(1, 3000)}",
            "tail": f"N{chance.randrange(10_000, 99_999)}",
            "origin": chance.choice(AIRPORTS[:3]),
            "destination": chance.choice(AIRPORTS),
            "scheduled": datetime.fromtimestamp(NEW_YEAR + chance.randrange(YEAR), UTC).isoformat(),
            "delay_minutes": chance.randrange(-20, 120),
            "distance_miles": chance.randrange(90, 2600),
        }
        for _ in range(number)
    ]


async def compression(bench: Bench) -> None:
    """Both kinds, with and without, on a server of their own."""
    body = json.dumps(movements(bench.size(20_000, 3_000))).encode()
    times = bench.size(30, 3)
    frames = bench.size(20_000, 4_000)
    async with _server(bench.folder()) as (server, store):
        await bench.compare(
            f"{times} bodies of {len(body) / 1e6:.1f} MB of JSON, put into the object store and read back",
            {
                "as they are": loading(_large, server, store, PLAIN, body, times),
                "zstd": loading(_large, server, store, ZSTD, body, times),
            },
        )
        await bench.compare(
            f"{frames * A_FRAME:,} messages of a mailbox, {A_FRAME} a frame: what the server writes to disk",
            {
                "as they are": loading(_stream, server, store, "none", frames),
                "s2": loading(_stream, server, store, "s2", frames),
            },
        )


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[tuple[EmbeddedServer, NatsStore]]:
    server = EmbeddedServer(folder)
    await server.start()
    try:
        store = await connect(server.url, name="bench compression")
        try:
            yield server, store
        finally:
            await store.close()
    finally:
        await server.kill()


@asynccontextmanager
async def _made(store: Store, spec: StreamSpec) -> AsyncIterator[None]:
    await store.ensure_stream(spec)
    try:
        yield
    finally:
        await store.delete_stream(spec.name)


async def _large(server: EmbeddedServer, store: Store, how: str, body: bytes, times: int) -> Sample:
    """Put and read the body so many times."""
    route = PoolRoute(POOL, 1, "bench", how)
    objects = Objects(store, MESH, RoutesView(Routes({POOL: route})))
    references = [refer(POOL, ShardId(0), BODY, number, body) for number in range(times)]
    async with _made(store, large_objects(NAMES, PoolStreams(POOL))):
        meter = _Meter(server)
        for reference in references:
            await objects.put(reference, body)
            if await objects.get(reference) != body:
                raise ValueError(f"object {reference.name} came back as another")
        cost = meter.each(times)
        info = await store.stream_info(object_stream(NAMES.objects))
        assert info is not None
        return {"stored_mb": info.size_bytes / 1e6, **cost}


async def _stream(server: EmbeddedServer, store: Store, how: Compression, frames: int) -> Sample:
    """Publish the frames, and weigh the files once the server has written them."""
    streams = PoolStreams(POOL, shards=1, mailbox_limit=frames, compression=how)
    _, mailbox = shard_streams(NAMES, ShardId(0), streams, ())
    subject = NAMES.inlet_subject(ShardId(0), Inlet(Origin.OUTSIDE, Lane.NORMAL))
    bodies = _frames(frames)
    async with _made(store, mailbox):
        meter = _Meter(server)
        for start in range(0, frames, AT_ONCE):
            under_way = [await store.publish(subject, body) for body in bodies[start : start + AT_ONCE]]
            for answer in await asyncio.gather(*under_way):
                if not isinstance(answer, Stored):
                    raise ValueError(f"a frame was not stored: {answer}")
        files = await _written(server.directory / "data", mailbox.name)
        return {"sent_mb": sum(map(len, bodies)) / 1e6, "stored_mb": files / 1e6, **meter.each(frames * A_FRAME)}


def _frames(frames: int) -> list[bytes]:
    rows = iter(movements(frames * A_FRAME))
    return [
        frame_body(
            Envelope(
                id=f"{number}-{place}",
                type="Movement",
                body=json.dumps(row).encode(),
                target=AgentId("airport", str(row["origin"])),
            ).pack()
            for place, row in zip(range(A_FRAME), rows, strict=False)
        )
        for number in range(frames)
    ]


async def _written(data: Path, stream: str) -> int:
    """Bytes of a stream's files of messages, once they have not changed for a while: full blocks are packed later."""
    size, since = -1, 0.0
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while (now := _weight(data, stream)) != size or loop.time() - since < SETTLED:
            if now != size:
                size, since = now, loop.time()
            await asyncio.sleep(0.1)
    return size


def _weight(data: Path, stream: str) -> int:
    found = 0
    for file in data.glob(f"jetstream/*/streams/{stream}/msgs/*.blk"):
        try:
            found += file.stat().st_size
        except FileNotFoundError:  # it is being replaced
            continue
    return found


class _Meter:
    """CPU time from now on: of this process and the server together, and of the server alone."""

    def __init__(self, server: EmbeddedServer) -> None:
        assert server.pid is not None
        self._pid = server.pid
        self._all = Cost([server.pid])
        self._start = cpu_seconds(server.pid)

    def each(self, operations: int) -> dict[str, float]:
        """Return the microseconds of each operation."""
        server = (cpu_seconds(self._pid) - self._start) / operations * 1e6
        return {**self._all.each(operations), "server_cpu_us": server}
