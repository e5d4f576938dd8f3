"""Agents saved to a file and restored from it: JSON lines, a head, a line per agent, and an end that counts them."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

from starling.admin.states import StateReader, StoredCell
from starling.core import limits
from starling.core.ids import AgentId, PoolName, ShardId, shard_of
from starling.core.names import MeshNames, cell_key
from starling.core.record import Cell
from starling.core.reference import CELL, refer
from starling.core.routes import PoolRoute, Routes
from starling.engine.amend import amend
from starling.engine.objects import Objects
from starling.errors import MeshError, SpecError
from starling.ports.store import Store

FORMAT: Final = "starling agents"
VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which agents are meant: all that fit everything given. agents: those and no others."""

    pool: str | None = None
    type: str | None = None
    agents: tuple[AgentId, ...] | None = None

    def takes(self, agent: AgentId) -> bool:
        """Whether an agent is meant, whatever its pool."""
        return self.type in (None, agent.type) and (self.agents is None or agent in self.agents)


@dataclass(slots=True)
class Saved:
    """How an export or an import went. done: agents saved or restored; failed: name to the reason."""

    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)


async def export(store: Store, mesh: str, routes: Routes, wanted: Selection, out: IO[str], *, now: str) -> Saved:
    """Write the agents that are meant, each as of one commit; shard after shard. now: the time for the head.

    What cannot be read is in the result, and the others are saved. Raises SpecError for a pool or type that is
    not there, Unreachable.
    """
    saved = Saved()
    _write(out, {"format": FORMAT, "version": VERSION, "mesh": mesh, "time": now})
    for route in pools_meant(routes, wanted):
        for shard in map(ShardId, range(route.shards)):
            await _export_shard(store, mesh, route, shard, wanted, out, saved)
    for agent in wanted.agents or ():
        if str(agent) not in saved.failed and not wanted.takes(agent):
            saved.failed[str(agent)] = f"is not of type {wanted.type!r}"
    _write(out, {"end": True, "saved": saved.done, "failed": saved.failed})
    return saved


async def _export_shard(
    store: Store, mesh: str, route: PoolRoute, shard: ShardId, wanted: Selection, out: IO[str], saved: Saved
) -> None:
    chosen = None
    if wanted.agents is not None:
        chosen = [a for a in wanted.agents if wanted.takes(a) and shard_of(a.type, a.key, route.shards) == shard]
        if not chosen:
            return
    try:
        states = await StateReader(store, mesh, route, shard).read(agent_type=wanted.type, agents=chosen)
    except MeshError as error:
        saved.failed[f"{route.pool}/{shard} (all its agents)"] = f"{type(error).__name__}: {error}"
        return
    saved.failed.update({str(agent): reason for agent, reason in states.failed.items()})
    for agent, cells in sorted(states.agents.items()):
        _write(out, {"agent": str(agent), "cells": {name: _cell_json(cell) for name, cell in cells.items()}})
        saved.done += 1
    for agent in chosen or ():
        if agent not in states.agents and agent not in states.failed:
            saved.failed[str(agent)] = "has no state"


def pools_meant(routes: Routes, wanted: Selection) -> list[PoolRoute]:
    """Return the pools that may hold what is meant. Raises SpecError, UnknownAgentType."""
    if wanted.pool is not None and wanted.pool not in routes.pools:
        known = ", ".join(sorted(routes.pools)) or "none"
        raise SpecError("pool", f"the mesh has no pool {wanted.pool!r}; it has: {known}")
    names = set(routes.pools) if wanted.pool is None else {PoolName(wanted.pool)}
    types = {agent.type for agent in wanted.agents or ()} | ({wanted.type} if wanted.type is not None else set())
    if types:
        names &= {routes.target(AgentId(kind, "any")).pool.pool for kind in types}
    return [routes.pools[name] for name in sorted(names)]


def read_archive(lines: Iterable[str]) -> Iterator[tuple[AgentId, dict[str, Cell]]]:
    """Yield the agents of an exported file. Raises SpecError naming the line; also when the file has no end."""
    ended = False
    for number, line in enumerate(lines, start=1):
        try:
            value: Mapping[str, Any] = json.loads(line)
            if number == 1:
                _check_head(value)
            elif "end" in value:
                ended = True
            else:
                cells = {name: _cell_of(told) for name, told in value["cells"].items()}
                yield AgentId.parse(value["agent"]), cells
        except SpecError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SpecError(f"line {number}", f"is no line of an export: {error!r}") from error
    if not ended:
        raise SpecError("file", "has no end: the export was cut off, nothing is restored from it")


def _check_head(value: Mapping[str, Any]) -> None:
    if value.get("format") != FORMAT:
        raise SpecError("line 1", f"is not the head of an export ({FORMAT!r})")
    if value.get("version") != VERSION:
        raise SpecError("line 1", f"is of version {value.get('version')!r}, this program reads {VERSION}")


async def restore(
    store: Store, mesh: str, routes: Routes, agents: Sequence[tuple[AgentId, Mapping[str, Cell]]], *, who: str
) -> Saved:
    """Give agents the cells that they have in an archive, and no others; agents that are not in it stay as they are.

    Each shard is taken for about a second and given back; its messages wait meanwhile. Large cells are in the pool's
    object store before that. Raises Unreachable.
    """
    saved = Saved()
    by_shard: dict[tuple[PoolRoute, ShardId], list[tuple[AgentId, Mapping[str, Cell]]]] = {}
    for agent, cells in agents:
        try:
            target = routes.target(agent)
        except MeshError as error:
            saved.failed[str(agent)] = str(error)
            continue
        by_shard.setdefault((target.pool, target.shard), []).append((agent, cells))
    for (route, shard), group in by_shard.items():
        try:
            await _restore_shard(store, mesh, route, shard, group, who=who)
            saved.done += len(group)
        except (MeshError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}"
            saved.failed.update({str(agent): reason for agent, _ in group})
    return saved


async def _restore_shard(
    store: Store,
    mesh: str,
    route: PoolRoute,
    shard: ShardId,
    group: Sequence[tuple[AgentId, Mapping[str, Cell]]],
    *,
    who: str,
) -> None:
    before = await StateReader(store, mesh, route, shard).read(agents=[agent for agent, _ in group])
    objects = Objects(store, mesh)

    async def by_reference(key: str, cell: Cell) -> Cell:
        if cell.data is None or len(cell.data) <= limits.MAX_BODY:
            return cell
        reference = refer(route.pool, shard, CELL, secrets.randbits(96), cell.data)
        await objects.put(reference, cell.data, key=key)
        return Cell(cell.version, reference.in_cell())

    groups = []
    for agent, cells in group:
        gone = before.agents.get(agent, {}).keys() - cells.keys()
        changes = {name: Cell(1, None) for name in gone} | dict(cells)
        keys = {cell_key(shard, agent, name): cell for name, cell in changes.items()}
        groups.append({key: await by_reference(key, cell) for key, cell in keys.items()})
    names = MeshNames(mesh).pool(route.pool)
    await amend(store, names, shard, groups, incarnation=route.incarnation, who=who)


def _write(out: IO[str], value: Mapping[str, Any]) -> None:
    out.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def _cell_json(cell: StoredCell) -> dict[str, Any]:
    """The cell as JSON where that gives the same bytes back, else as base64."""
    try:
        value = json.loads(cell.data)
        if _dumped(value) == cell.data:
            return {"version": cell.version, "value": value}
    except ValueError:
        pass
    return {"version": cell.version, "base64": base64.b64encode(cell.data).decode()}


def _cell_of(told: Mapping[str, Any]) -> Cell:
    data = base64.b64decode(told["base64"], validate=True) if "base64" in told else _dumped(told["value"])
    return Cell(int(told["version"]), data)


def _dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
