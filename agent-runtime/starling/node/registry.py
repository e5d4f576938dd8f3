"""The pods of a pool describe their agents where everybody can read it: what each type takes and gives."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from starling.agent import AgentDefinition
from starling.core.ids import PoolName
from starling.core.names import MeshNames, agents_key, bucket_stream, bucket_subject
from starling.errors import MeshError
from starling.introspection import describe
from starling.ports.store import Expect, Store

log = logging.getLogger(__name__)


async def publish_agents(store: Store, mesh: str, pool: PoolName, agents: Iterable[AgentDefinition]) -> None:
    """Write the pool's agent types, unless they stand there already. What goes wrong is logged, and work goes on."""
    bucket = MeshNames(mesh).routes
    subject = bucket_subject(bucket, agents_key(pool))
    try:
        described = [describe(definition).to_json() for definition in sorted(agents, key=lambda one: one.type)]
        data = json.dumps(described, sort_keys=True).encode()
        found = await store.last(bucket_stream(bucket), subject)
        if found is None or found.data != data:
            await (await store.publish(subject, data, expect=Expect(found.sequence if found else 0)))
    except MeshError as error:
        log.warning("agents are not described", extra={"error": str(error)})
