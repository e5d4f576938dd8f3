"""The suite in this process over a real NATS server, which keeps what agents have."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import starling
from starling import LocalRuntime
from starling.adapters.nats import EmbeddedServer, connect
from starling.core.ids import ShardId
from starling.core.names import MeshNames, bucket_stream
from starling.local_runtime import POOL
from starling.provision import remove_pool

from tests.runtimes.members import AskBalance, PaidIn, RunsAccount
from tests.runtimes.suite import AGENTS, SUBSCRIPTIONS, Suite

SHARDS = 2


@pytest.fixture
async def mesh_name(nats_server: EmbeddedServer) -> AsyncIterator[str]:
    """A name of this test's own, whose streams go with it."""
    name = f"one{random.getrandbits(32):08x}"
    yield name
    store = await connect(nats_server.url, name="cleaner")
    try:
        await remove_pool(store, name, POOL, SHARDS)
        names = MeshNames(name)
        for bucket in (names.maps, names.members, names.routes):
            await store.delete_stream(bucket_stream(bucket))
    finally:
        await store.close()


def runtime(server: EmbeddedServer, mesh: str) -> LocalRuntime:
    rows = list(SUBSCRIPTIONS.values())
    return starling.local(*AGENTS, subscriptions=rows, shards=SHARDS, nats=server.url, mesh=mesh)


@pytest.fixture
async def mesh(nats_server: EmbeddedServer, mesh_name: str) -> AsyncIterator[LocalRuntime]:
    async with runtime(nats_server, mesh_name) as made:
        yield made


class TestOnNats(Suite):
    """One process and a server."""


async def test_the_server_keeps_what_agents_have_for_the_next_process(
    nats_server: EmbeddedServer, mesh_name: str
) -> None:
    for before in (0, 5):
        async with runtime(nats_server, mesh_name) as one_process:
            agent = one_process.agent(RunsAccount, "kept")
            assert (await agent.balance(AskBalance(), timeout=30.0)).amount == before
            await one_process.send(starling.AgentId("account", "kept"), PaidIn(5))
            assert (await agent.balance(AskBalance(), timeout=30.0)).amount == before + 5


@pytest.mark.row("RT-92", part="compression of streams for agents in one process, off by default")
async def test_the_server_packs_its_files_for_a_process_that_asks_for_it(
    nats_server: EmbeddedServer, mesh_name: str
) -> None:
    agents: Any = {"shards": SHARDS, "nats": nats_server.url, "mesh": mesh_name}
    store = await connect(nats_server.url, name="test")
    journal = MeshNames(mesh_name).pool(POOL).journal(ShardId(0))
    try:
        async with starling.local(RunsAccount, **agents):
            info = await store.stream_info(journal)
            assert info is not None
            assert info.compression == "none"
        async with starling.local(RunsAccount, compression="s2", **agents) as one_process:
            assert (await one_process.agent(RunsAccount, "kept").balance(AskBalance(), timeout=30.0)).amount == 0
            info = await store.stream_info(journal)
            assert info is not None
            assert info.compression == "s2"
    finally:
        await store.close()
