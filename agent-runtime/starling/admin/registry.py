"""Which agent types a mesh has and what they take and give, as the pods of each pool described them."""

from __future__ import annotations

import json
from typing import Any

from starling.core.ids import PoolName
from starling.core.names import MeshNames, agents_key, bucket_stream, bucket_subject
from starling.core.routes import Routes
from starling.ports.store import Store, is_removal


async def agents_of(store: Store, mesh: str, routes: Routes, pool: PoolName) -> list[dict[str, Any]]:
    """Return the descriptions of the pool's agent types; one that no pod has described yet has its type only."""
    bucket = MeshNames(mesh).routes
    found = await store.last(bucket_stream(bucket), bucket_subject(bucket, agents_key(pool)))
    described = [] if found is None or is_removal(found) else json.loads(found.data)
    known = {one["type"]: one for one in described}
    types = sorted(kind for kind, where in routes.agent_types.items() if where == pool)
    return [known.get(kind, {"type": kind, "description": "", "handlers": []}) | {"pool": pool} for kind in types]
