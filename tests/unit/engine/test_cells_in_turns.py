"""Named cells in turns: loaded on demand, committed with the turn, rolled back with it, gone with the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from starling import Agent, AgentId, Cells, Context, OneCell, cell, cells, event, message, rpc, testing
from starling.core.record import Cell
from starling.core.retry import RetryPolicy
from starling.named_cells import KEEP_BYTES

from tests.unit.engine.meshes import in_memory, shards


@message("cells_in_turns.Put")
@dataclass
class Put:
    name: str
    text: str = ""


@message("cells_in_turns.Copy")
@dataclass
class Copy:
    name: str
    to: str


@message("cells_in_turns.Drop")
@dataclass
class Drop:
    name: str = ""


@message("cells_in_turns.Look")
@dataclass
class Look:
    name: str = ""


@message("cells_in_turns.Names")
@dataclass
class Names:
    pass


@message("cells_in_turns.End")
@dataclass
class End:
    pass


@dataclass
class Part:
    text: str = ""


@dataclass
class History:
    lines: list[str] = field(default_factory=list)


class Yard(Agent):
    parts: Cells[Part] = cells(Part)
    history: OneCell[History] = cell(History)

    @event
    async def put(self, message: Put) -> None:
        (await self.parts.get(message.name)).text = message.text
        (await self.history.get()).lines.append(message.name)
        if message.text == "fail":
            raise ValueError("no")

    @event
    async def copy(self, message: Copy) -> None:
        (await self.parts.get(message.to)).text = (await self.parts.get(message.name)).text

    @event
    async def drop(self, message: Drop) -> None:
        self.parts.drop(message.name)

    @rpc
    async def look(self, message: Look) -> str:
        return (await self.parts.get(message.name)).text

    @rpc
    async def names(self, message: Names) -> list[str]:
        return await self.parts.names()

    @event
    async def end(self, message: End, ctx: Context) -> None:
        ctx.destroy()


YARD = AgentId("yard", "1")
ONCE = RetryPolicy(attempts=1)


async def test_cells_are_committed_with_their_turn_and_found_by_the_next_process() -> None:
    async with testing.mesh(Yard) as mesh:
        await mesh.send(YARD, Put("17", "a"))
        await mesh.send(YARD, Put("18", "b"))
        await mesh.idle()
        await mesh.crash()
        assert await mesh.call(YARD, Look("17")) == "a"
        assert await mesh.call(YARD, Names()) == ["17", "18"]


async def test_a_failed_turn_rolls_its_cells_back() -> None:
    async with testing.mesh(Yard, retry=ONCE) as mesh:
        await mesh.send(YARD, Put("17", "a"))
        await mesh.send(YARD, Put("17", "fail"))
        await mesh.send(YARD, Put("new", "fail"))
        await mesh.idle()
        assert await mesh.call(YARD, Look("17")) == "a"
        assert await mesh.call(YARD, Names()) == ["17"]
        assert len(await mesh.dead_letters()) == 2


@pytest.mark.row("RT-86")
async def test_of_ten_megabytes_in_a_hundred_cells_a_turn_reads_and_writes_the_one_that_it_touches() -> None:
    async with testing.mesh(Yard, shards=1) as mesh:
        for n in range(100):
            await mesh.call(YARD, Put(str(n), "x" * 100_000))  # an event that is called ends with its commit
        for shard in shards(mesh):
            while await shard.table.write_round(1e9, quiet=0, patience=0):
                pass
        await mesh.crash()
        (shard,) = shards(mesh)
        read: list[str] = []
        table_read = shard.table.read

        async def noted(keys: Sequence[str]) -> dict[str, Cell | None]:
            read.extend(keys)
            return await table_read(keys)

        shard.table.read = noted  # type: ignore[method-assign]
        before = shard._committer._bytes_since

        await mesh.call(YARD, Put("42", "y"))
        assert [key.rpartition(".")[2] for key in read] == ["parts=2F42", "history"]
        assert shard._committer._bytes_since - before < 5000
        assert await mesh.call(YARD, Look("41")) == "x" * 100_000


async def test_dropped_cells_and_those_of_a_destroyed_agent_are_gone_at_once_and_for_good() -> None:
    async with testing.mesh(Yard) as mesh:
        for name in ("17", "18"):
            await mesh.send(YARD, Put(name, "a"))
        await mesh.send(YARD, Drop("17"))
        assert await mesh.call(YARD, Look("17")) == ""
        assert await mesh.call(YARD, Names()) == ["18"]
        await mesh.send(YARD, End())
        assert await mesh.call(YARD, Look("18")) == ""
        assert await mesh.call(YARD, Names()) == []
        await mesh.crash()
        assert await mesh.call(YARD, Look("18")) == ""
        assert await mesh.call(YARD, Names()) == []


async def test_an_agent_that_is_destroyed_after_a_restart_loses_the_cells_that_it_never_touched() -> None:
    async with testing.mesh(Yard) as mesh:
        await mesh.send(YARD, Put("17", "a"))
        await mesh.idle()
        await mesh.crash()
        await mesh.send(YARD, End())
        assert await mesh.call(YARD, Look("17")) == ""
        await mesh.call(YARD, Put("19", "c"))
        assert await mesh.call(YARD, Names()) == ["19"]


async def test_more_cells_than_stay_in_memory_are_all_there() -> None:
    async with testing.mesh(Yard) as mesh:
        for n in range(8):
            await mesh.send(YARD, Put(str(n), str(n) * 100_000))
        for n in range(8):
            await mesh.call(YARD, Put(str(n), str(n)))
        for n in range(8):
            assert await mesh.call(YARD, Look(str(n))) == str(n)


async def test_only_so_much_of_them_stays_in_memory() -> None:
    async with testing.mesh(Yard) as mesh:
        for n in range(8):
            await mesh.call(YARD, Put(str(n), str(n) * 100_000))
        await mesh.call(YARD, Look("0"))
        held = in_memory(mesh)["yard/1"].cells
        assert held is not None
        assert sum(len(one.data or b"") for one in held._held.values()) <= KEEP_BYTES + 100_100


async def test_a_cell_that_is_not_committed_yet_stays_for_the_next_turns() -> None:
    async with testing.mesh(Yard, shards=1) as mesh:
        (shard,) = shards(mesh)
        async with shard._committer.no_record():  # no record is stored meanwhile
            for n in range(5):
                await mesh.send(YARD, Put(str(n), str(n) * 100_000))
            await mesh.send(YARD, Copy("0", "copy"))
            async with asyncio.timeout(5):
                while len(shard._turns.outcomes) < 6:
                    await asyncio.sleep(0)
        assert await mesh.call(YARD, Look("copy")) == "0" * 100_000
