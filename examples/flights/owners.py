"""Who runs the shards of a pool, as the pods themselves report."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starling.core.ids import Epoch, PoolName, ShardId
from starling.core.limits import MIB
from starling.core.membership import Member
from starling.core.names import MeshNames, bucket_key, bucket_stream, bucket_subject
from starling.ports.store import Store, is_removal

Shards = Mapping[ShardId, Epoch]


class Owners:
    """Follows the member entries of one pool; `run` must run."""

    def __init__(self, store: Store, mesh: str, pool: str) -> None:
        self._store = store
        self._pool = PoolName(pool)
        self._bucket = MeshNames(mesh).members
        self._members: dict[str, Member] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled."""
        subject = bucket_subject(self._bucket, f"{self._pool}.*")
        reader = await self._store.reader(bucket_stream(self._bucket), subject, after=None)
        try:
            while True:
                for message in await reader.read(256, MIB):
                    pod = bucket_key(self._bucket, message.subject).removeprefix(f"{self._pool}.")
                    if is_removal(message):
                        self._members.pop(pod, None)
                    else:
                        self._members[pod] = Member.decode(message.data)
                self._changed.set()
        finally:
            await reader.close()

    def now(self) -> Mapping[str, Shards]:
        """Pod to its shards and their epochs."""
        return {pod: member.shards for pod, member in self._members.items()}

    async def taken_again(self, before: Shards) -> None:
        """Wait until each of these shards has an owner of a newer epoch."""
        while not all(self._newest(shard) > epoch for shard, epoch in before.items()):
            self._changed.clear()
            await self._changed.wait()

    def _newest(self, shard: ShardId) -> int:
        return max((member.shards.get(shard, 0) for member in self._members.values()), default=0)
