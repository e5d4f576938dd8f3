"""Looking at an agent's cells as its shard has committed them, and mending those of a parked agent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgpack

from starling.agent import AgentDefinition
from starling.core.ids import AgentId, ShardId
from starling.core.names import cell_key
from starling.core.record import Cell
from starling.engine.work import Outcome
from starling.errors import DecodeError, SpecError, StateUnreadable, Unreachable
from starling.migrations import STATE
from starling.named_cells import INDEX, names_in

log = logging.getLogger(__name__)

CELLS: Final = "starling.cells"
"""Message type of the question for all cells of an agent; the answer is a msgpack map: name to [version, bytes]."""
REPAIR: Final = "starling.repair"
"""Message type of a repair: a msgpack map with `cell` (default "state"), `data`, `version` (default: the code's), or
`destroy`: true."""
_TRIES: Final = 20


class Shard(Protocol):
    """What repairs need of their shard."""

    def parked(self, agent: AgentId) -> str | None: ...

    def unpark(self, agent: AgentId) -> None: ...

    def end_later(self, agent: AgentId) -> list[str]:
        """Return the keys of an agent's timers and delayed messages, of which no turn starts any more."""
        ...

    async def read(self, keys: Sequence[str]) -> Mapping[str, Cell | None]: ...

    async def commit(self, outcome: Outcome) -> None: ...


class Repairs:
    """For one shard, at its owner."""

    def __init__(self, shard: ShardId, owner: Shard) -> None:
        self._shard = shard
        self._owner = owner

    async def cells(self, agent: AgentId, definition: AgentDefinition, body: bytes) -> bytes:
        """Return all cells of an agent as they were between two commits. Raises StateUnreadable, Unreachable."""
        before = await self._read_all(agent)
        for _ in range(_TRIES):
            now = await self._read_all(agent)
            if now == before:
                return msgpack.packb({name: tuple(cell) for name, cell in now.items()})  # type: ignore[no-any-return]
            before = now
        raise Unreachable(f"{agent} changed during each of {_TRIES} looks at it; try again")

    async def repair(self, agent: AgentId, definition: AgentDefinition, body: bytes) -> bytes:
        """Give a parked agent a state that loads, or destroy it; it takes messages again when this returns.

        What was parked are dead letters: replay those. Raises StateUnreadable for data that does not load
        either, SpecError for a wrong request.
        """
        wanted = _request(body)
        if self._owner.parked(agent) is None:
            raise SpecError("agent", f"{agent} is not parked; change its state by messages")
        outcome = Outcome()
        if wanted.get("destroy"):
            await self._destroy(agent, outcome)
        else:
            name, data = wanted.get("cell", STATE), wanted["data"]
            version = wanted.get("version", definition.state_version)
            _check(definition, name, data, version)
            outcome.cell(cell_key(self._shard, agent, name), Cell(version, data))
        await self._owner.commit(outcome)
        self._owner.unpark(agent)
        log.warning("agent repaired", extra={"agent": str(agent), "destroyed": bool(wanted.get("destroy"))})
        return b""

    async def _destroy(self, agent: AgentId, outcome: Outcome) -> None:
        try:
            names = list(await self._names(agent))
        except StateUnreadable:
            names = []  # the list itself is what does not load: its cells stay, and nothing finds them
        for name in (STATE, INDEX, *names):
            outcome.cell(cell_key(self._shard, agent, name), Cell(1, None))
        outcome.undue = self._owner.end_later(agent)

    async def _names(self, agent: AgentId) -> Sequence[str]:
        key = cell_key(self._shard, agent, INDEX)
        index = (await self._owner.read([key]))[key]
        return list(names_in(index.data if index else None))

    async def _read_all(self, agent: AgentId) -> dict[str, Cell]:
        names = [STATE, INDEX, *await self._names(agent)]
        keys = {name: cell_key(self._shard, agent, name) for name in names}
        found = await self._owner.read(list(keys.values()))
        cells = {name: found[key] for name, key in keys.items()}
        return {name: cell for name, cell in cells.items() if cell is not None and cell.data is not None}


def _request(body: bytes) -> dict[str, Any]:
    try:
        wanted = msgpack.unpackb(body)
    except Exception as error:
        raise SpecError("repair", f"is no msgpack map: {error!r}") from error
    if not isinstance(wanted, dict) or not (wanted.get("destroy") or isinstance(wanted.get("data"), bytes)):
        raise SpecError("repair", "give `data`, the bytes of the cell, or `destroy`: true")
    return wanted


def _check(definition: AgentDefinition, name: str, data: bytes, version: int) -> None:
    """Raise StateUnreadable unless the data would load, SpecError for a cell that the class does not have."""
    if name == STATE:
        if not definition.has_state:
            raise SpecError("repair.cell", f"{definition.type} has no state")
        definition.load_state(definition.upgraded(data, version))
        return
    field = definition.cells.get(name.partition("/")[0])
    if name == INDEX:
        list(names_in(data))
    elif field is None:
        raise SpecError("repair.cell", f"{definition.type} has no cell {name!r}")
    else:
        try:
            field.codec.load(definition.migrations.upgraded(data, version, field.name))
        except DecodeError as error:
            raise StateUnreadable(str(error)) from error
