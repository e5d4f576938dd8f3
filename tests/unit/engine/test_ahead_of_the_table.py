"""A shard runs ahead of its table only so far, however many agents its messages are for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from starling import Agent, AgentId, event, message, testing
from starling.core import limits
from starling.engine import commit, table
from starling.engine.shard import OwnedShard

from tests.unit.engine.meshes import in_memory, shards

AHEAD = 40
WINDOW = 32


@message("ahead.Add")
@dataclass
class Add:
    n: int = 1


@dataclass
class Count:
    n: int = 0


class Seen(Agent[Count], idle=0.5):
    @event
    async def add(self, message: Add) -> None:
        self.state.n += message.n


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIRTY_CELLS", AHEAD)
    monkeypatch.setattr(limits, "KNOWN_CELLS", AHEAD)


def only_shard(mesh: testing.TestMesh) -> OwnedShard:
    (shard,) = shards(mesh)
    return shard


def sizes(shard: OwnedShard) -> Iterator[tuple[str, int]]:
    """How much a shard has in memory, by what it is."""
    residents, table = shard._turns.residents, shard.table
    passivation = residents._passivation
    assert passivation is not None
    yield "dirty cells", len(table.overlay.entries)
    yield "known cells", len(table.overlay.known)
    yield "agents", len(residents.agents)
    yield "agents in line to leave", sum(len(kind.heap) for kind in passivation._types.values())
    yield "messages read", sum(intake.positions.unfinished for intake in shard._intakes.values())
    yield "outcomes", len(shard._turns.outcomes) + len(shard._turns.lazy)
    yield "recorded replies", len(shard._turns._replied)


@pytest.mark.row("RT-7", part="what a shard keeps is bounded over 20,000 distinct keys", completes=True)
async def test_what_a_shard_keeps_in_memory_does_not_grow_with_the_number_of_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = 20_000
    largest: dict[str, int] = {}
    monkeypatch.setattr(limits, "DIRTY_CELLS", 1000)
    monkeypatch.setattr(limits, "KNOWN_CELLS", 1000)
    async with testing.mesh(Seen, shards=1, max_active=1000) as mesh:
        shard = only_shard(mesh)
        for start in range(0, keys, 500):
            await asyncio.gather(*(mesh.send(AgentId("seen", str(n)), Add(n)) for n in range(start, start + 500)))
            await mesh.idle()
            for name, size in sizes(shard):
                largest[name] = max(size, largest.get(name, 0))
        assert {name: size for name, size in largest.items() if size > keys // 4} == {}
        await mesh.advance(1.0)
        async with asyncio.timeout(30):
            while in_memory(mesh):
                await asyncio.sleep(0.01)
        assert [(await mesh.state(Seen, str(n))).n for n in (1, 9_999, keys - 1)] == [1, 9_999, keys - 1]


def handled(shard: OwnedShard) -> int:
    return sum(count for (_, result), count in shard.stats.turns.items() if result == "ok")


async def test_no_message_is_read_while_too_many_cells_wait_for_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    messages, most = 300, 0
    monkeypatch.setattr(limits, "WINDOW", WINDOW)
    async with testing.mesh(Seen, shards=1) as mesh, asyncio.timeout(60):
        shard = only_shard(mesh)
        ids = (f"{n}" for n in range(messages))  # a message with an id is a frame of its own
        sent = [asyncio.ensure_future(mesh.send(AgentId("seen", one), Add(), id=one)) for one in ids]
        while handled(shard) < messages:
            most = max(most, len(shard.table.overlay.entries))
            await asyncio.sleep(0)
        await asyncio.gather(*sent)
    assert AHEAD < most <= AHEAD + WINDOW


async def test_a_snapshot_that_cannot_name_all_that_is_dirty_waits_for_the_table_before_more_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = 200
    monkeypatch.setattr(limits, "DIRTY_CELLS", 10 * keys)
    monkeypatch.setattr(commit, "MAX_REFS", keys // 2)
    monkeypatch.setattr(table, "ROUND", 3600.0)
    async with testing.mesh(Seen, shards=1) as mesh, asyncio.timeout(60):
        shard = only_shard(mesh)
        await asyncio.gather(*(mesh.send(AgentId("seen", str(n)), Add()) for n in range(keys)))
        await mesh.committed()
        monkeypatch.setattr(limits, "SNAPSHOT_RECORDS", 1)
        for key in ("0", "1"):  # one for the pause, one for the read that was under way
            await mesh.send(AgentId("seen", key), Add())
            await mesh.committed()
        assert all(intake.paused for intake in shard._intakes.values())
        assert not shard._committer.snapshot

        await shard.table.write_round(asyncio.get_running_loop().time(), quiet=0.0, patience=0.0)
        shard.table.on_round()
        await mesh.send(AgentId("seen", "one more"), Add())
        await mesh.committed()
        assert handled(shard) == keys + 3
        while not shard._committer.snapshot:
            await asyncio.sleep(0.001)
