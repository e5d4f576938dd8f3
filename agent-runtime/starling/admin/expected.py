"""Whether a message is one that an agent type takes, by what the pods of its pool have said of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from starling.admin.registry import agents_of
from starling.admin.schema import nearest_first, wrong_in
from starling.core.ids import AgentId
from starling.core.routes import Routes
from starling.errors import CantHandle, DecodeError
from starling.ports.store import Store


async def unchecked_because(store: Store, mesh: str, routes: Routes, target: AgentId, name: str, body: bytes) -> str:
    """Return "" for a message that the agent takes, else why that cannot be said. body: JSON.

    Raises CantHandle for a message that the type does not take, DecodeError naming the field, UnknownAgentType.
    """
    pool = routes.target(target).pool.pool
    described = await agents_of(store, mesh, routes, pool)
    agent = next((one for one in described if one["type"] == target.type), None)
    if agent is None or "takes_others" not in agent:
        return f"no pod has said yet what {target.type} takes"
    taken = _taken(agent, ("event", "rpc"))
    if name not in taken:
        if agent["takes_others"] or not agent["handlers"]:
            return f"{target.type} also takes messages that it does not name"
        raise CantHandle(_refusal(agent, name, taken))
    if wrong := wrong_in(taken[name], json.loads(body), name):
        raise DecodeError(wrong)
    return ""


def _taken(agent: Mapping[str, Any], kinds: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Message name to its schema."""
    return {
        name: schema
        for handler in agent["handlers"]
        if handler["kind"] in kinds
        for name, schema in handler["takes"].items()
    }


def _refusal(agent: Mapping[str, Any], name: str, taken: Iterable[str]) -> str:
    if name in _taken(agent, ("query",)):
        return f"{agent['type']} takes {name} only as a query: `starling query`"
    known = ", ".join(nearest_first(name, taken)) or "none but queries"
    return f"{agent['type']} has no handler that takes {name}; it takes: {known}"
