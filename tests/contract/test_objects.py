"""Large objects over each store: whole, named once, gone when deleted; what is missing or damaged says so."""

from __future__ import annotations

import random

import pytest
from starling.core.ids import PoolName, ShardId
from starling.core.names import PoolNames, object_chunks, object_stream
from starling.core.reference import BODY, Reference, refer
from starling.engine.objects import CHUNK, Objects
from starling.errors import ObjectLost, UnknownPool
from starling.ports.store import Store
from starling.provision import PoolStreams, large_objects

from .conftest import World

POOL = PoolName("p")
CHANCE = random.Random(5)


def reference(data: bytes) -> Reference:
    return refer(POOL, ShardId(3), BODY, CHANCE.getrandbits(96), data)


@pytest.fixture
async def objects(world: World, store: Store) -> Objects:
    mesh = world.name("mesh")
    spec = large_objects(PoolNames(mesh, POOL), PoolStreams(POOL, replicas=world.replicas))
    world.remove_later(spec.name)
    assert await store.ensure_stream(spec)
    return Objects(store, mesh)


@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 1, 5_000_000], ids=str)
async def test_an_object_arrives_as_it_was_put(objects: Objects, size: int) -> None:
    data = random.Random(size).randbytes(size)
    name = reference(data)
    await objects.put(name, data)
    assert await objects.get(name) == data
    assert await objects.names(POOL) == [name.name]


async def test_two_objects_of_the_same_bytes_do_not_share_their_fate(objects: Objects) -> None:
    one, other = reference(b"same"), reference(b"same")
    await objects.put(one, b"same")
    await objects.put(other, b"same")
    await objects.delete(POOL, one.name)
    assert await objects.get(other) == b"same"


async def test_a_deleted_object_leaves_nothing_and_is_lost(
    objects: Objects, world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starling.engine.objects.LOOKS", 2)
    name = reference(b"x" * CHUNK * 3)
    await objects.put(name, b"x" * CHUNK * 3)
    await objects.delete(POOL, name.name)
    await objects.delete(POOL, name.name)
    info = await store.stream_info(object_stream(PoolNames(world.name("mesh"), POOL).objects))
    assert info is not None
    assert info.messages == 0
    with pytest.raises(ObjectLost, match=f"{name.name} of .* is missing"):
        await objects.get(name)


async def test_an_object_with_a_chunk_gone_is_damaged(
    objects: Objects, world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starling.engine.objects.LOOKS", 2)
    data = b"y" * (CHUNK + 10)
    name = reference(data)
    await objects.put(name, data)
    bucket = PoolNames(world.name("mesh"), POOL).objects
    last = await store.last(object_stream(bucket), object_chunks(bucket, f"{name.name}-0"))
    assert last is not None
    await store.remove(object_stream(bucket), last.sequence)
    with pytest.raises(ObjectLost, match=r"damaged: 131072 bytes"):
        await objects.get(name)


async def test_bytes_that_are_not_those_of_the_reference_are_damaged(objects: Objects) -> None:
    name = reference(b"right")
    await objects.put(name, b"wrong")
    with pytest.raises(ObjectLost, match="damaged"):
        await objects.get(name)


async def test_a_shared_object_goes_when_the_last_of_those_that_share_it_is_done(objects: Objects) -> None:
    name = reference(b"shared")._replace(share=3)
    await objects.put(name, b"shared")
    for who in ("one", "two", "two", "one"):
        await objects.done(name, who)
    assert await objects.get(name) == b"shared"
    await objects.done(name, "three")
    assert await objects.names(POOL) == []


async def test_touching_an_old_object_makes_it_young_and_changes_nothing(objects: Objects) -> None:
    name = reference(b"data")
    await objects.put(name, b"data", key="k")
    (before,) = await objects.described(POOL)
    await objects.touch(POOL, name.name, older_than=before.time - 1)
    assert await objects.described(POOL) == [before]
    await objects.touch(POOL, name.name, older_than=before.time + 1)
    (after,) = await objects.described(POOL)
    assert after[:2] == before[:2] == (name.name, "k")
    assert await objects.get(name) == b"data"
    await objects.touch(POOL, "gone", older_than=after.time + 1)
    assert await objects.names(POOL) == [name.name]


async def test_a_pool_without_a_store_says_so(world: World, store: Store) -> None:
    elsewhere = Objects(store, world.name("nowhere"))
    with pytest.raises(UnknownPool, match="is the pool applied"):
        await elsewhere.put(reference(b"1"), b"1")
    with pytest.raises(ObjectLost, match="lost with its store"):
        await elsewhere.get(reference(b"1"))
