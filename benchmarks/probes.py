"""One agent for each shard, asked for an answer: how long a shard was away, as a caller sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count

from starling.client import Mesh
from starling.core.ids import AgentId, shard_of

from benchmarks.agents import AddNow


def key_in(shard: int, shards: int, kind: str = "counter", prefix: str = "probe") -> str:
    """Return a key whose agent lives in the shard."""
    return next(key for n in count() if int(shard_of(kind, key := f"{prefix}{n}", shards)) == shard)


class Probe:
    """Calls the agent of one shard again and again; `run` it in a task. longest: seconds of the slowest answer."""

    def __init__(self, mesh: Mesh, shard: int, shards: int, *, pause: float = 0.002) -> None:
        self._mesh = mesh
        self._target = AgentId("counter", key_in(shard, shards))
        self._pause = pause
        self.longest = 0.0
        self.answers = 0
        self.answered = asyncio.Event()

    async def run(self) -> None:
        """Probe until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            await self._mesh.call(self._target, AddNow(0), timeout=60.0)
            self.longest = max(self.longest, loop.time() - begun)
            self.answers += 1
            self.answered.set()
            await asyncio.sleep(self._pause)


async def answer_times(
    mesh: Mesh, affected: Iterable[int], shards: int, *, since: float, timeout: float = 60.0
) -> list[float]:
    """Call an agent in each affected shard; return the seconds from `since` (the loop's time) to each answer."""
    loop = asyncio.get_running_loop()

    async def answered(shard: int) -> float:
        await mesh.call(AgentId("counter", key_in(shard, shards)), AddNow(0), timeout=timeout)
        return loop.time() - since

    return list(await asyncio.gather(*(answered(shard) for shard in affected)))
