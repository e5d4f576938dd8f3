"""Which agents leave the memory of a process, and when: idle ones, over the active limit, under memory pressure.

Every agent in memory stands in a heap of its type by the time of its last turn as it was when it was put there.
A turn does not touch the heap: an entry that comes to the front with an older time than its agent's is put back.
So the cost of a turn is nothing, and the agent that leaves is always the one that has been idle longest.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, Protocol

from starling.core import limits
from starling.engine.memory_use import MemoryUse, give_back, memory_use

if TYPE_CHECKING:
    from starling.agent import AgentDefinition
    from starling.engine.activation import Activation

log = logging.getLogger(__name__)

LOOK: Final = 0.25
"""Seconds between looks for agents that have been idle for long enough."""
MEMORY_LOOK: Final = 3.0
PRESSURE: Final = 0.80
RELIEF: Final = 0.75
BATCH: Final = 256
"""Agents that leave before another look at the memory."""
EXPIRING: Final = 1024
"""Agents that leave before the loop gets a chance (2 to 3 us each). Under load it goes round thirty times a second, and
as many new agents may come as a worker has turns: with 256 they stayed until there were `max_active` of them."""


class Holder(Protocol):
    """The shard that holds an agent."""

    def passivate(self, activation: Activation) -> bool:
        """Let the agent leave memory; False when it is in use, or is not here any more."""
        ...

    def holds(self, activation: Activation) -> bool:
        """Whether the agent is in memory here."""
        ...


_Entry = tuple[float, int, "Activation", Holder]


class _Type:
    """The agents of one type in memory."""

    __slots__ = ("active", "heap", "idle", "max_active")

    def __init__(self, idle: float, max_active: float) -> None:
        self.idle = idle
        self.max_active = max_active
        self.active = 0
        self.heap: list[_Entry] = []


class Passivation:
    """Chooses among all agents of a process. max_active: how many may be in memory at once."""

    def __init__(
        self,
        *,
        max_active: int = limits.MAX_ACTIVE,
        memory: MemoryUse = memory_use,
        relieve: Callable[[], None] = give_back,
    ) -> None:
        self._max_active = max_active
        self._memory = memory
        self._relieve = relieve
        self._types: dict[str, _Type] = {}
        self._numbers = itertools.count()
        self.active = 0
        self.passivated = 0
        """Agents that have left so far."""

    def added(self, activation: Activation, holder: Holder) -> None:
        """An agent is in memory from now on; over a limit the one that has been idle longest leaves for it."""
        definition = activation.definition
        kind = self._types.get(definition.type)
        if kind is None:
            kind = self._types[definition.type] = _Type(definition.idle, _max_active(definition))
        self.active += 1
        kind.active += 1
        heapq.heappush(kind.heap, (activation.used, next(self._numbers), activation, holder))
        if kind.active > kind.max_active:
            self._leave([kind], 1)
        if self.active > self._max_active:
            self._leave(self._types.values(), 1)

    def gone(self, activation: Activation) -> None:
        """An agent that was added is not in memory any more; its entry goes when it comes to the front."""
        self.active -= 1
        self._types[activation.definition.type].active -= 1

    def forget(self, holder: Holder) -> None:
        """A shard goes with all its agents."""
        for kind in self._types.values():
            left = [entry for entry in kind.heap if entry[3] is not holder]
            gone = sum(entry[3] is holder and holder.holds(entry[2]) for entry in kind.heap)
            kind.active -= gone
            self.active -= gone
            kind.heap = left
            heapq.heapify(left)

    async def run(self) -> None:
        """Let agents leave, until cancelled."""
        loop = asyncio.get_running_loop()
        memory_at = loop.time()
        while True:
            await asyncio.sleep(LOOK)
            await self.expire(loop.time())
            if loop.time() >= memory_at:
                memory_at = loop.time() + MEMORY_LOOK
                await self.relieve()

    async def expire(self, now: float) -> None:
        """Let all agents leave that have been idle for the time of their type."""
        for kind in list(self._types.values()):
            if kind.idle == math.inf:
                continue
            while self._leave([kind], EXPIRING, idle_since=now - kind.idle) == EXPIRING:
                await asyncio.sleep(0)

    async def relieve(self) -> None:
        """Under memory pressure let agents leave, the longest idle first, until it is over or none can."""
        share = self._memory()
        if share is None or share < PRESSURE:
            return
        before, first = self.passivated, share
        while share is not None and share > RELIEF and self._leave(self._types.values(), BATCH):
            await asyncio.sleep(0)  # also lets closing hooks run
            self._relieve()
            share = self._memory()
        log.warning(
            "memory pressure: idle agents left",
            extra={"agents": self.passivated - before, "before": first, "after": share},
        )

    def _leave(self, kinds: Collection[_Type], count: int, *, idle_since: float = math.inf) -> int:
        """Let up to `count` agents leave whose last turn was before `idle_since`; return how many did.

        One that is in use counts as used just now. After too many of those it is given up: the limits are soft.
        """
        now = asyncio.get_running_loop().time()
        left = busy = 0
        while left < count and busy < BATCH and (kind := self._oldest(kinds, min(idle_since, now))) is not None:
            _, number, activation, holder = heapq.heappop(kind.heap)
            if holder.passivate(activation):
                left += 1
                self.passivated += 1
            else:
                busy += 1
                activation.used = now
                heapq.heappush(kind.heap, (now, number, activation, holder))
        return left

    def _oldest(self, kinds: Collection[_Type], idle_since: float) -> _Type | None:
        """The type whose agent has been idle longest, with that agent at the front of its heap."""
        best: _Type | None = None
        for kind in kinds:
            heap = kind.heap
            while heap:
                used, number, activation, holder = heap[0]
                if not holder.holds(activation):
                    heapq.heappop(heap)
                elif activation.used != used:
                    heapq.heapreplace(heap, (activation.used, number, activation, holder))
                else:
                    break
            if heap and heap[0][0] < idle_since and (best is None or heap[0][0] < best.heap[0][0]):
                best = kind
        return best


def _max_active(definition: AgentDefinition) -> float:
    return math.inf if definition.options.max_active is None else definition.options.max_active
