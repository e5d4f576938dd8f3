"""`starling agents`: the agent types of a mesh, what they take and give, and which agents have state."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from starling.admin.registry import agents_of
from starling.cli.common import (
    LOCAL_MESH,
    LOCAL_NATS,
    AsJson,
    MeshName,
    Nats,
    PoolOption,
    connected,
    pools_of,
    routes_of,
    run,
    show_json,
    show_table,
)
from starling.errors import UnknownAgentType


def agents(
    agent_type: Annotated[str | None, typer.Argument(metavar="TYPE", help="Print its JSON Schema.")] = None,
    pool: PoolOption = None,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """List agent types; with TYPE print what it takes and gives, as JSON Schema."""

    async def work() -> None:
        async with connected(nats) as store:
            routes = await routes_of(store, mesh)
            found = [
                described
                for route in await pools_of(store, mesh, pool)
                for described in await agents_of(store, mesh, routes, route.pool)
            ]
        if agent_type is not None:
            show_json(_one(found, agent_type))
        elif as_json:
            show_json(found)
        else:
            show_table(("TYPE", "POOL", "TAKES", "DESCRIPTION"), [_row(one) for one in found])

    run(work())


def _one(found: list[dict[str, Any]], agent_type: str) -> dict[str, Any]:
    for one in found:
        if one["type"] == agent_type:
            return one
    known = ", ".join(one["type"] for one in found) or "none"
    raise UnknownAgentType(f"no pool of this mesh runs agent type {agent_type!r}; there are: {known}")


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    takes = sorted({name for handler in one["handlers"] for name in handler["takes"]})
    first, *_ = one["description"].splitlines() or [""]
    return one["type"], one["pool"], ", ".join(takes), first
