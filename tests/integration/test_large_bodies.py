"""Large bodies over a real server and real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nats
import pytest
import zstandard
from starling import AgentId
from starling.core import limits
from starling.core.ids import ShardId
from starling.core.names import bucket_stream
from starling.core.reference import BODY, refer
from starling.core.routes import ZSTD, PoolRoute, Routes
from starling.engine.objects import Objects
from starling.engine.routes_view import RoutesView
from starling.errors import TooLarge

from tests.integration.photos import Photo, Show

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster

IMAGE = "".join(f"{n:08x}" for n in range(5_000_000 // 8))
WALL = AgentId("wall", "w")


@pytest.mark.row("RT-47")
@pytest.mark.row("TR-16")
@pytest.mark.row("TR-129")
async def test_five_megabytes_arrive_intact_outlive_their_worker_and_no_stored_message_is_large(
    cluster: Cluster,
) -> None:
    pool = await cluster.pool("walls", agents={"wall": "tests.integration.photos:Wall"})
    await pool.map("a")
    first = pool.start("a")
    await pool.owns("a", 0)
    objects = Objects(cluster.store, cluster.mesh)
    async with cluster.client() as mesh:
        assert await mesh.call(WALL, Photo(IMAGE), timeout=30.0) == len(IMAGE)
        first.kill()
        await first.ended()
        await pool.map("b")
        pool.start("b")
        await pool.owns("b", 0)
        assert await mesh.call(WALL, Show(), timeout=30.0) == IMAGE

        mailbox = pool.names.mailbox(ShardId(0))
        before = await cluster.store.stream_info(mailbox)
        with pytest.raises(TooLarge, match=f"at most {limits.MAX_LARGE}"):
            await mesh.call(WALL, Photo("x" * limits.MAX_LARGE))
        after = await cluster.store.stream_info(mailbox)
        assert before is not None
        assert after is not None
        assert after.last_sequence == before.last_sequence

    for stream in (mailbox, pool.names.journal(ShardId(0)), bucket_stream(pool.names.table)):
        stored = await cluster.store.page(stream, ">", 1)
        assert max((len(message.data) for message in stored), default=0) < 1_048_576

    async def only_the_state_is_left() -> bool:
        kinds = [name.split("-")[1] for name in await objects.names(pool.name)]
        return kinds.count("r") == 0 and kinds.count("c") == 1

    await cluster.until(only_the_state_is_left)


@pytest.mark.row("RT-92", part="what is packed can be read by whoever has JetStream and zstd, without Starling")
async def test_a_packed_object_is_a_zstd_frame_for_any_reader_of_the_object_store(cluster: Cluster) -> None:
    pool = await cluster.pool("walls", agents={"wall": "tests.integration.photos:Wall"})
    route = PoolRoute(pool.name, 1, pool.incarnation, ZSTD)
    data = ("one after the other, " * 50_000).encode()
    reference = refer(pool.name, ShardId(0), BODY, 1, data)
    await Objects(cluster.store, cluster.mesh, RoutesView(Routes({pool.name: route}))).put(reference, data)

    connection = await nats.connect(cluster.server.url)
    try:
        bucket = await connection.jetstream().object_store(pool.names.objects)
        found = await bucket.get(reference.name)  # compares size and digest by itself
    finally:
        await connection.close()

    assert found.data is not None
    assert len(found.data) < len(data) / 100
    assert zstandard.ZstdDecompressor().decompress(found.data) == data
    assert await Objects(cluster.store, cluster.mesh).get(reference) == data
