"""Publishing in bulk over a real server: order is kept, also while a mailbox is full."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starling import Mesh, Topic
from starling.adapters.nats import EmbeddedServer, NatsStore, connect
from starling.core.envelope import Envelope, open_frame
from starling.core.ids import PoolName, ShardId
from starling.core.names import Inlet, Lane, MeshNames, Origin
from starling.core.routes import PoolRoute, Routes
from starling.core.subscriptions import SubscriptionRoute
from starling.errors import DecodeError, MailboxFull, SpecError
from starling.ports.store import Message
from starling.provision import PoolStreams, provision_mesh, provision_pool, write_routes

POOL = PoolName("numbers")
NUMBERS = Topic("number")
BOUND = 30.0
SUBJECT_OF = Inlet(Origin.OUTSIDE, Lane.NORMAL)


@asynccontextmanager
async def _mesh(server: EmbeddedServer, name: str, mailbox_limit: int) -> AsyncIterator[tuple[Mesh, NatsStore]]:
    """A mesh whose only pool has one shard and no pods: what is published stays in the mailbox."""
    store = await connect(server.url, name="test")
    chance = random.Random(1)
    try:
        await provision_mesh(store, name)
        spec = PoolStreams(POOL, shards=1, mailbox_limit=mailbox_limit)
        incarnation = await provision_pool(store, name, spec, known=None, chance=chance)
        routes = Routes({POOL: PoolRoute(POOL, 1, incarnation)}, {"n": POOL}, (SubscriptionRoute("number", "n"),))
        assert await write_routes(store, name, routes, over=0)
        mesh = Mesh(store, name, name="feeder", chance=chance)
        await mesh.open()
        try:
            yield mesh, store
        finally:
            await mesh.close()
    finally:
        await store.close()


async def _take(store: NatsStore, name: str, count: int) -> list[int]:
    """Read and remove what is stored, a message at a time, until `count` numbers have come."""
    names = MeshNames(name).pool(POOL)
    subject = names.inlet_subject(ShardId(0), SUBJECT_OF)
    got: list[int] = []
    first = 1
    while len(got) < count:
        page = list(await store.page(names.mailbox(ShardId(0)), subject, first))
        for message in page[:1]:
            got += _numbers(message)
            first = message.sequence + 1
            await store.purge(names.mailbox(ShardId(0)), subject, first)
        if not page:
            await asyncio.sleep(0.005)
    return got


def _numbers(message: Message) -> list[int]:
    return [int(Envelope.from_map(value).body) for value in open_frame(message.data)]


async def test_order_is_kept_while_the_mailbox_is_full_again_and_again(private_nats: EmbeddedServer) -> None:
    async with asyncio.timeout(BOUND), _mesh(private_nats, "full", mailbox_limit=3) as (mesh, store):
        messages = ((NUMBERS("a"), n, f"id-{n}") for n in range(60))
        taking = asyncio.ensure_future(_take(store, "full", 60))
        assert await mesh.publish_all(messages, in_flight=20) == 60
        assert await taking == list(range(60))


async def test_one_that_is_published_alone_is_refused_by_the_same_full_mailbox(private_nats: EmbeddedServer) -> None:
    async with asyncio.timeout(BOUND), _mesh(private_nats, "alone", mailbox_limit=1) as (mesh, _):
        await mesh.publish(NUMBERS("a"), 1, id="1")
        with pytest.raises(MailboxFull):
            await mesh.publish(NUMBERS("a"), 2, id="2")


async def test_messages_without_ids_of_their_own_share_frames_and_keep_their_order(
    private_nats: EmbeddedServer,
) -> None:
    async with asyncio.timeout(BOUND), _mesh(private_nats, "frames", mailbox_limit=1000) as (mesh, store):
        assert await mesh.publish_all((NUMBERS("a"), n, None) for n in range(500)) == 500
        info = await store.stream_info(MeshNames("frames").pool(POOL).mailbox(ShardId(0)))
        assert info is not None
        assert info.messages < 50
        assert await _take(store, "frames", 500) == list(range(500))


async def test_a_mailbox_that_stays_full_ends_the_wait_and_gives_up_on_the_rest(private_nats: EmbeddedServer) -> None:
    async with asyncio.timeout(BOUND), _mesh(private_nats, "stuck", mailbox_limit=2) as (mesh, store):
        with pytest.raises(TimeoutError, match="none of 3 messages was stored"):
            await mesh.publish_all(((NUMBERS("a"), n, f"id-{n}") for n in range(5)), timeout=0.5)
        assert await _take(store, "stuck", 2) == [0, 1]


async def test_a_message_that_cannot_be_encoded_ends_it_with_its_own_error(private_nats: EmbeddedServer) -> None:
    async with asyncio.timeout(BOUND), _mesh(private_nats, "wrong", mailbox_limit=10) as (mesh, _):
        with pytest.raises(DecodeError):
            await mesh.publish_all([(NUMBERS("a"), 1, None), (NUMBERS("a"), [object()], None)])
        with pytest.raises(SpecError, match="in_flight: is 0"):
            await mesh.publish_all([], in_flight=0)
