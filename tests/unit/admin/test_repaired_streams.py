"""What a stream looks like that `starling repair` makes anew."""

from __future__ import annotations

import random
import time

from starling.adapters.memory import MemoryServer
from starling.admin.repair import _streams
from starling.core.ids import PoolName, ShardId
from starling.core.names import MeshNames
from starling.core.routes import PoolRoute
from starling.provision import PoolStreams, provision_pool

NAMES = MeshNames("m").pool(PoolName("p"))


async def test_a_stream_that_is_made_anew_looks_like_those_that_are_left() -> None:
    store = MemoryServer(wall=time.time).connect("test")
    spec = PoolStreams(NAMES.pool, 3, mailbox_limit=77, mailbox_bytes=2**20, compression="s2", storage="memory")
    incarnation = await provision_pool(store, "m", spec, known=None, chance=random.Random(1))
    await store.delete_stream(NAMES.mailbox(ShardId(0)))
    assert await _streams(store, NAMES, PoolRoute(NAMES.pool, 3, incarnation)) == spec
    for shard in range(1, 3):
        await store.delete_stream(NAMES.mailbox(ShardId(shard)))
    found = await _streams(store, NAMES, PoolRoute(NAMES.pool, 3, incarnation))
    assert found == PoolStreams(NAMES.pool, 3, compression="s2", storage="memory")
    await store.close()
