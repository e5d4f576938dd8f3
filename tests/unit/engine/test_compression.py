"""Large bodies, answers and cells packed by zstd: off by default, read by everyone with the extra, lost by nobody."""

from __future__ import annotations

import json
import logging
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import zstandard
from starling import Agent, AgentId, event, message, rpc, testing
from starling.admin.letters import DeadLetters
from starling.admin.replay import Replayer
from starling.core.ids import PoolName, ShardId
from starling.core.names import MeshNames, object_description, object_stream
from starling.core.reference import BODY, refer
from starling.core.routes import PLAIN, ZSTD, PoolRoute, Routes
from starling.engine import compression
from starling.engine.objects import Objects
from starling.errors import ObjectLost, ObjectUnreadable, StateUnreadable
from starling.provision import read_routes, write_routes
from starling.testing import MESH, TestMesh

TEXT = "one flight after the other, " * 15_000  # 420 kB, of which little is left
NOISE = random.Random(1).randbytes(300_000).hex()
POOL = PoolName("shelf")
SHELF = AgentId("shelf", "s")


@message("compression.Page")
@dataclass
class Page:
    text: str


@message("compression.Show")
@dataclass
class Show:
    pass


@dataclass
class Pages:
    number: int = 0
    last: str = ""


class Shelf(Agent[Pages]):
    """Keeps the last page."""

    @event
    async def page(self, message: Page) -> None:
        self.state.number += 1
        self.state.last = message.text

    @rpc
    async def show(self, message: Show) -> str:
        return self.state.last

    @rpc
    async def measure(self, message: Page) -> int:
        return len(message.text)


async def pack(mesh: TestMesh, how: str) -> None:
    """Let the pool's route say how large values are packed, and wait until everyone has heard it."""
    over, routes = await read_routes(mesh._admin, MESH)
    changed = {POOL: replace(routes.pools[POOL], large_compression=how)}
    assert await write_routes(mesh._admin, MESH, replace(routes, pools=changed), over=over)
    views = [mesh._routes, *(worker.routes for pool in mesh._pools for worker in pool.workers)]
    for _ in range(50):
        if all(view.current.pools[POOL].large_compression == how for view in views):
            return
        await mesh.advance(0.1)
    raise AssertionError("the routes were not heard")


@asynccontextmanager
async def packing() -> AsyncIterator[TestMesh]:
    async with testing.mesh(Shelf, shards=1) as mesh:
        await pack(mesh, ZSTD)
        yield mesh


async def kinds(mesh: TestMesh) -> dict[str, list[str]]:
    """Kind of object (b, r, c) to how those that are stored are packed."""
    found: dict[str, list[str]] = {}
    for name in await Objects(mesh._admin, MESH).names(POOL):
        metadata = (await description(mesh, name))["metadata"]
        found.setdefault(name.split("-")[1], []).append(metadata.get("encoding", ""))
    return found


async def description(mesh: TestMesh, name: str) -> dict[str, Any]:
    bucket = MeshNames(MESH).pool(POOL).objects
    found = await mesh._admin.last(object_stream(bucket), object_description(bucket, name))
    assert found is not None
    value: dict[str, Any] = json.loads(found.data)
    return value


@pytest.mark.row("RT-92", part="large bodies are not packed by default")
async def test_without_the_setting_nothing_is_packed() -> None:
    async with testing.mesh(Shelf, shards=1) as mesh:
        await mesh.send(SHELF, Page(TEXT))
        await mesh.idle()
        assert (await kinds(mesh))["c"] == [""]


@pytest.mark.row("RT-92", part="with the setting large bodies, answers and cells are packed and arrive as they were")
async def test_with_the_setting_bodies_answers_and_state_are_packed_and_arrive_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed: list[int] = []
    really = compression.packed

    async def seen(data: bytes) -> bytes | None:
        made = await really(data)
        packed.append(len(made or b""))
        return made

    monkeypatch.setattr(compression, "packed", seen)
    async with packing() as mesh:
        await mesh.send(SHELF, Page(TEXT))
        await mesh.idle()
        assert await mesh.call(SHELF, Show()) == TEXT
        assert await mesh.call(SHELF, Page(TEXT)) == len(TEXT)
        await mesh.crash()
        assert (await mesh.state(Shelf, "s")).last == TEXT
        assert (await kinds(mesh))["c"] == [ZSTD]
    assert len(packed) == 4  # two bodies, the state, the answer
    assert 0 < max(packed) < len(TEXT) / 100


async def test_what_is_packed_is_read_where_the_setting_is_off_and_what_is_not_where_it_is_on() -> None:
    async with packing() as mesh:
        await mesh.send(SHELF, Page(TEXT))
        await mesh.idle()
        await pack(mesh, PLAIN)
        await mesh.crash()
        assert await mesh.call(SHELF, Show()) == TEXT
        await mesh.send(SHELF, Page(TEXT + "!"))
        await mesh.idle()
        assert "" in (await kinds(mesh))["c"]
        await pack(mesh, ZSTD)
        await mesh.crash()
        assert await mesh.call(SHELF, Show()) == TEXT + "!"


async def test_what_cannot_be_made_smaller_is_stored_as_it_is() -> None:
    async with packing() as mesh:
        stored = Objects(mesh._admin, MESH, mesh._routes)
        data = bytes.fromhex(NOISE)
        reference = refer(POOL, ShardId(0), BODY, 1, data)
        await stored.put(reference, data)
        assert await stored.get(reference) == data
        assert "encoding" not in (await description(mesh, reference.name))["metadata"]


async def test_a_worker_without_the_extra_makes_a_dead_letter_that_names_it_and_can_be_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with packing() as mesh:
        await mesh.send(SHELF, Page(TEXT))
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "zstandard", None)
            await mesh.idle()
        (letter,) = await mesh.dead_letters()
        assert (letter.reason, letter.attempts) == ("ObjectUnreadable", 1)
        assert "install starling-mesh[zstd]" in letter.text
        letters = DeadLetters(mesh._admin, MESH, POOL)
        (kept,) = [each async for each in letters.each()]
        await Replayer(mesh._admin, MESH, letters, mesh._routes.current).replay(kept)
        await mesh.idle()
        assert (await mesh.state(Shelf, "s")).last == TEXT


async def test_a_caller_without_the_extra_is_told_so_and_the_answer_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with packing() as mesh:
        await mesh.send(SHELF, Page(TEXT))
        await mesh.idle()
        really = compression.unpacked

        async def without_the_extra(*given: Any) -> bytes:
            with monkeypatch.context() as without:
                without.setitem(sys.modules, "zstandard", None)
                return await really(*given)

        with monkeypatch.context() as at_the_caller:
            at_the_caller.setattr(compression, "unpacked", without_the_extra)
            with pytest.raises(ObjectUnreadable, match=r"install starling-mesh\[zstd\]"):
                await mesh.call(SHELF, Show(), id="again")
        assert await mesh.call(SHELF, Show(), id="again") == TEXT


async def test_an_agent_whose_state_needs_the_extra_is_parked_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with packing() as mesh:
        await mesh.send(SHELF, Page(TEXT))
        await mesh.idle()
        with monkeypatch.context() as without, caplog.at_level(logging.ERROR):
            without.setitem(sys.modules, "zstandard", None)
            await mesh.crash()
            with pytest.raises(StateUnreadable):
                await mesh.call(SHELF, Show())
        assert any("starling-mesh[zstd]" in getattr(record, "error", "") for record in caplog.records)
        await mesh.crash()
        assert await mesh.call(SHELF, Show()) == TEXT


async def test_a_writer_without_the_extra_stores_values_as_they_are_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compression, "_said", False)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    async with packing() as mesh:
        for _ in range(2):
            await mesh.send(SHELF, Page(TEXT))
            await mesh.idle()
        assert (await mesh.state(Shelf, "s")).number == 2
        assert set((await kinds(mesh))["c"]) == {""}
    assert len([record for record in caplog.records if "starling-mesh[zstd]" in record.message]) == 1


def test_a_pool_that_packs_says_so_in_its_route_and_others_are_written_as_before() -> None:
    plain, packs = PoolRoute(PoolName("a"), 1, "inc"), PoolRoute(PoolName("b"), 1, "inc", ZSTD)
    routes = Routes({plain.pool: plain, packs.pool: packs})
    assert Routes.decode(routes.encode()) == routes
    assert json.loads(routes.encode())["pools"] == {
        "a": {"shards": 1, "incarnation": "inc"},
        "b": {"shards": 1, "incarnation": "inc", "largeCompression": "zstd"},
    }


@pytest.mark.parametrize(
    ("stored", "encoding", "error", "text"),
    [
        (b"no frame at all", ZSTD, ObjectLost, "is damaged"),
        (zstandard.ZstdCompressor().compress(b"x" * 101), ZSTD, ObjectLost, "holds 101 bytes that are not its own"),
        (zstandard.ZstdCompressor().compress(b"x" * 100)[:-3], ZSTD, ObjectLost, "is damaged"),
        (b"x", "brotli", ObjectUnreadable, "packed as 'brotli': a newer Starling can read it"),
    ],
    ids=["no frame", "another size", "cut off", "an encoding of the future"],
)
async def test_a_damaged_frame_is_refused_before_it_takes_memory(
    stored: bytes, encoding: str, error: type[Exception], text: str
) -> None:
    reference = refer(POOL, ShardId(0), BODY, 3, b"x" * 100)
    with pytest.raises(error, match=text) as raised:
        await compression.unpacked(stored, encoding, reference)
    assert type(raised.value) is error


async def test_a_body_of_megabytes_is_packed_in_a_thread_and_arrives() -> None:
    data = b"one after the other, " * 100_000
    made = await compression.packed(data)
    assert made is not None
    assert len(data) > compression.IN_PLACE
    assert await compression.unpacked(made, ZSTD, refer(POOL, ShardId(0), BODY, 4, data)) == data
