"""A caller whose connection is cut while it is answered, on a real server: it gets its answer when it is back."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from starling import AgentId, Mesh
from starling.adapters.nats import connect
from starling.adapters.nats.server import HOST

from benchmarks.faults.proxy import Proxy
from tests.integration.probes import Nap, Tell

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster


@pytest.mark.row("RT-26", part="a caller that was cut off while it was answered gets its answer when it is back")
async def test_a_caller_that_was_cut_off_gets_the_answer_that_it_missed(
    private_cluster: Cluster, tmp_path: Path
) -> None:
    pool = await private_cluster.pool(agents={"sleeper": "tests.integration.probes:Sleeper"})
    await pool.map("w-0")
    pool.start("w-0")
    await pool.owns("w-0", 0)
    sleeper = AgentId("sleeper", "k")
    note = tmp_path / "naps"

    async def is_stored() -> bool:
        return any(one["t"] == "Tell" for one in await pool.mailbox())

    async def is_answered() -> bool:
        return bool((await pool.owner()).replies)

    async with Proxy(HOST, urlsplit(private_cluster.server.url).port or 0) as proxy:
        store = await connect(proxy.url, name="cut off")
        mesh = Mesh(store, private_cluster.mesh, name="cut off", chance=random.Random())
        try:
            await mesh.open()
            await mesh.send(sleeper, Nap(2.0, str(note)))
            call = asyncio.ensure_future(mesh.call(sleeper, Tell(), timeout=60))
            await private_cluster.until(is_stored)
            proxy.cut()
            await private_cluster.until(is_answered)
            assert not call.done()
            proxy.heal()
            async with asyncio.timeout(30):
                assert (await call).naps == 1
        finally:
            await mesh.close()
            await store.close()
