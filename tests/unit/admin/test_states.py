"""Agents' cells read from outside, while their shard goes on committing and writing behind."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping

import pytest
from starling.adapters.memory import MemoryServer
from starling.admin.states import StateReader
from starling.core.ids import AgentId, PoolName, ShardId
from starling.core.names import MeshNames, bucket_subject, cell_key
from starling.core.overlay import TableValue
from starling.core.record import Cell
from starling.core.routes import PoolRoute
from starling.engine.amend import amend
from starling.ports.store import Store
from starling.provision import PoolStreams, provision_pool

POOL = PoolName("p")
NAMES = MeshNames("m").pool(POOL)
SHARD = ShardId(0)
AGENT = AgentId("a", "k")


class World:
    """A shard without pods whose journal and table we write."""

    def __init__(self) -> None:
        self.store: Store = MemoryServer().connect("test")
        self.incarnation = ""

    async def open(self) -> World:
        spec = PoolStreams(POOL, shards=1)
        self.incarnation = await provision_pool(self.store, "m", spec, known=None, chance=random.Random(1))
        return self

    @property
    def route(self) -> PoolRoute:
        return PoolRoute(POOL, 1, self.incarnation)

    async def commit(self, value: int, agent: AgentId = AGENT, names: tuple[str, ...] = ("left", "right")) -> int:
        """Commit the same value in the cells together; return the record's sequence."""
        cells = {cell_key(SHARD, agent, name): Cell(1, str(value).encode()) for name in names}
        await amend(self.store, NAMES, SHARD, [cells], incarnation=self.incarnation, who="test/1")
        info = await self.store.stream_info(NAMES.journal(SHARD))
        assert info is not None
        return info.last_sequence - 1  # the last one says that the shard is free

    async def write_behind(self, name: str, journal: int, value: int | None, agent: AgentId = AGENT) -> None:
        data = TableValue(journal, 1, None if value is None else str(value).encode()).encode()
        await (await self.store.publish(bucket_subject(NAMES.table, cell_key(SHARD, agent, name)), data))

    async def purge(self, below: int) -> None:
        await self.store.purge(NAMES.journal(SHARD), NAMES.journal_subject(SHARD), below)


class Interrupted(StateReader):
    """Something happens between the reading of the journal and that of the table."""

    def __init__(self, world: World, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__(world.store, "m", world.route, SHARD)
        self._meanwhile: Callable[[], Awaitable[None]] | None = meanwhile

    async def _table(self, pattern: str) -> Mapping[str, bytes]:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return await super()._table(pattern)


async def _values(reader: StateReader) -> dict[str, int]:
    found = await reader.read()
    assert found.failed == {}
    return {name: int(cell.data) for name, cell in found.agents.get(AGENT, {}).items()}


async def test_what_is_in_the_journal_only_is_read() -> None:
    world = await World().open()
    await world.commit(1)
    assert await _values(StateReader(world.store, "m", world.route, SHARD)) == {"left": 1, "right": 1}


async def test_the_newer_of_journal_and_table_counts() -> None:
    world = await World().open()
    first = await world.commit(1)
    await world.write_behind("left", first, 1)
    await world.write_behind("right", first, 1)
    await world.commit(2)
    assert await _values(StateReader(world.store, "m", world.route, SHARD)) == {"left": 2, "right": 2}


async def test_a_purged_journal_leaves_what_the_table_has() -> None:
    world = await World().open()
    first = await world.commit(1)
    for name in ("left", "right"):
        await world.write_behind(name, first, 1)
    await world.purge(first + 1)
    assert await _values(StateReader(world.store, "m", world.route, SHARD)) == {"left": 1, "right": 1}


async def test_an_agent_is_read_as_of_one_commit_although_one_cell_is_written_behind_meanwhile() -> None:
    world = await World().open()
    await world.commit(1)

    async def meanwhile() -> None:
        second = await world.commit(2)
        await world.write_behind("left", second, 2)

    values = await _values(Interrupted(world, meanwhile))
    assert values == {"left": 2, "right": 2}


async def test_an_agent_is_found_that_was_written_behind_and_purged_between_both_reads() -> None:
    world = await World().open()
    await world.commit(7, AgentId("a", "other"))

    async def meanwhile() -> None:
        made = await world.commit(1)
        await world.write_behind("left", made, 1)
        await world.write_behind("right", made, 1)
        await world.purge(made + 1)

    assert await _values(Interrupted(world, meanwhile)) == {"left": 1, "right": 1}


@pytest.mark.parametrize("where", ["journal", "table"])
async def test_destroyed_cells_are_not_there(where: str) -> None:
    world = await World().open()
    made = await world.commit(1)
    key = cell_key(SHARD, AGENT, "left")
    groups = [{key: Cell(1, None)}]
    await amend(world.store, NAMES, SHARD, groups, incarnation=world.incarnation, who="test/1")
    if where == "table":
        info = await world.store.stream_info(NAMES.journal(SHARD))
        assert info is not None
        await world.write_behind("left", info.last_sequence - 1, None)
        await world.write_behind("right", made, 1)
        await world.purge(info.last_sequence)
    assert await _values(StateReader(world.store, "m", world.route, SHARD)) == {"right": 1}


async def test_an_agent_that_changes_during_every_look_is_told_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starling.admin.states._PAUSE", 0.0)
    world = await World().open()
    await world.commit(1)

    class Restless(StateReader):
        async def _table(self, pattern: str) -> Mapping[str, bytes]:
            made = await world.commit(2)
            await world.write_behind("left", made, 2)
            return await super()._table(pattern)

    found = await Restless(world.store, "m", world.route, SHARD).read()
    assert found.agents == {}
    assert found.failed == {AGENT: "changed during every look at it; try again"}
