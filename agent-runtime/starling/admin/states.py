"""Agents' cells as they are committed, read from outside: from the table, and from the journal what is not there yet.

Each agent is read as of one commit, so between two of its turns. Nobody is asked and nothing waits: a pod that is in
the middle of a long turn, or that is gone, changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from starling.core import limits
from starling.core.ids import AgentId, ShardId, token
from starling.core.names import MeshNames, bucket_key, bucket_stream, bucket_subject, parse_cell_key
from starling.core.overlay import TableValue
from starling.core.record import Record
from starling.core.reference import Reference, cell_reference
from starling.core.replay import Replay
from starling.core.routes import PoolRoute
from starling.engine.objects import Objects
from starling.errors import DecodeError, ObjectLost, RetryLater
from starling.ports.store import Store, is_removal

_ROUNDS: Final = 40
_PAUSE: Final = 0.1
_PATIENCE: Final = 30.0


class StoredCell(NamedTuple):
    """A committed cell. journal: sequence of the record that made it; version: of the state's class."""

    journal: int
    version: int
    data: bytes


@dataclass(slots=True)
class ShardStates:
    """What was read of one shard: agent to cell name to cell, and why the others could not be read."""

    agents: dict[AgentId, dict[str, StoredCell]] = field(default_factory=dict)
    failed: dict[AgentId, str] = field(default_factory=dict)


class StateReader:
    """Reads the agents of one shard."""

    def __init__(self, store: Store, mesh: str, route: PoolRoute, shard: ShardId) -> None:
        self._store = store
        self._names = MeshNames(mesh).pool(route.pool)
        self._shard = shard
        self._journal = Replay()
        self._objects = Objects(store, mesh)
        self._missed: dict[AgentId, Reference] = {}
        """Large cells that were not there at the last look: replaced meanwhile, or lost."""

    async def read(self, *, agent_type: str | None = None, agents: Iterable[AgentId] | None = None) -> ShardStates:
        """Read all agents of the shard, those of one type, or those given. An agent without state is left out.

        Raises JournalLost, UnknownPool, Unreachable, DecodeError for a journal that cannot be read.
        """
        wanted = None if agents is None else set(agents)
        if wanted is not None:
            patterns = [_pattern(self._shard, agent) for agent in sorted(wanted)]
        elif agent_type is not None:
            patterns = [f"{self._shard}.a.{token(agent_type)}.>"]
        else:
            patterns = [f"{self._shard}.a.>"]

        def takes(agent: AgentId) -> bool:
            return agent in wanted if wanted is not None else agent_type in (None, agent.type)

        await self._advance()
        found = ShardStates()
        ahead = await self._merge(patterns, takes, found)
        for _ in range(_ROUNDS):
            if not ahead:
                return found
            await asyncio.sleep(_PAUSE)
            await self._advance()
            changed = set(ahead)
            ahead = await self._merge([_pattern(self._shard, agent) for agent in ahead], changed.__contains__, found)
        found.failed.update(dict.fromkeys(ahead, "changed during every look at it; try again"))
        return found

    async def _advance(self) -> None:
        """Read the journal on to its end."""
        stream, subject = self._names.journal(self._shard), self._names.journal_subject(self._shard)
        while page := await self._store.page(stream, subject, self._journal.last + 1):
            for message in page:
                self._journal.apply(message.sequence, Record.decode(message.data))

    async def _merge(self, patterns: list[str], takes: Callable[[AgentId], bool], found: ShardStates) -> list[AgentId]:
        """Put agents together of journal and table; return those whose table is ahead of the journal that we read."""
        cells: dict[AgentId, dict[str, StoredCell | None]] = {}
        for key, (sequence, cell) in self._journal.overlay.items():
            parsed = parse_cell_key(key)
            if parsed is not None and takes(parsed[1]):
                stored = None if cell.data is None else StoredCell(sequence, cell.version, cell.data)
                cells.setdefault(parsed[1], {})[parsed[2]] = stored
        versions = {
            (parsed[1], parsed[2]): sequence
            for key, (sequence, _) in self._journal.overlay.items()
            if (parsed := parse_cell_key(key)) is not None
        }
        ahead: set[AgentId] = set()
        for pattern in patterns:
            for key, data in (await self._table(pattern)).items():
                parsed = parse_cell_key(key)
                if parsed is None or not takes(parsed[1]):
                    continue
                _, agent, name = parsed
                try:
                    value = TableValue.decode(data)
                except DecodeError as error:
                    found.failed[agent] = str(error)
                    continue
                if value.journal > self._journal.last:
                    ahead.add(agent)
                elif value.journal > versions.get((agent, name), 0):
                    stored = None if value.data is None else StoredCell(value.journal, value.version, value.data)
                    cells.setdefault(agent, {})[name] = stored
        for agent, by_name in cells.items():
            kept = {name: cell for name, cell in sorted(by_name.items()) if cell is not None}
            if kept and agent not in ahead and agent not in found.failed:
                try:
                    found.agents[agent] = {name: await self._whole(agent, cell) for name, cell in kept.items()}
                except RetryLater:
                    ahead.add(agent)
                except ObjectLost as error:
                    found.failed[agent] = str(error)
        return sorted(ahead)

    async def _whole(self, agent: AgentId, cell: StoredCell) -> StoredCell:
        """Return the cell with its content, wherever that is. Raises RetryLater when it is not there at a first look:
        perhaps the cell has a successor by now; ObjectLost at a second one."""
        reference = cell_reference(cell.data)
        if reference is None:
            return cell
        try:
            return cell._replace(data=await self._objects.get(reference))
        except ObjectLost as error:
            if self._missed.get(agent) == reference:
                raise
            self._missed[agent] = reference
            raise RetryLater(str(error)) from error

    async def _table(self, pattern: str) -> Mapping[str, bytes]:
        """Last values of the table under a pattern: key to value."""
        bucket = self._names.table
        reader = await self._store.reader(bucket_stream(bucket), bucket_subject(bucket, pattern), after=None)
        values: dict[str, bytes] = {}
        try:
            while not reader.caught_up:
                async with asyncio.timeout(_PATIENCE):
                    messages = await reader.read(1024, 4 * limits.MIB)
                for message in messages:
                    key = bucket_key(bucket, message.subject)
                    values.pop(key, None)
                    if not is_removal(message):
                        values[key] = message.data
        finally:
            await reader.close()
        return values


def _pattern(shard: ShardId, agent: AgentId) -> str:
    return f"{shard}.a.{token(agent.type)}.{token(agent.key)}.>"
