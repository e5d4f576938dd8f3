"""The route table of one namespace: compiled whenever an object changed, and said on those objects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from starling.errors import MeshError, SpecError

from starling_operator.api import AgentPool, AgentSubscription, parse
from starling_operator.control import Control
from starling_operator.plan.values import ConditionWish
from starling_operator.status import StatusWriter

log = logging.getLogger(__name__)

GATHER: Final = 0.1
"""Seconds for which is waited after a change: what is applied together is compiled together."""
ERROR_PAUSE: Final = 2.0

Json = Mapping[str, Any]


class Routing:
    """Keeps the table. objects: kind to the objects of the namespace; on_taken: told of a pool whose types changed."""

    def __init__(
        self,
        control: Control,
        status: StatusWriter,
        *,
        objects: Callable[[str], Sequence[Json]],
        on_taken: Callable[[str], None],
    ) -> None:
        self._control = control
        self._status = status
        self._objects = objects
        self._on_taken = on_taken
        self._taken: dict[str, ConditionWish] = {}
        self.wanted = asyncio.Event()
        """Set it to have the table compiled anew."""

    def taken(self, pool: str) -> ConditionWish | None:
        """Why a pool does not get all of its agent types; None when it does."""
        return self._taken.get(pool)

    async def run(self) -> None:
        """Compile after each change, until cancelled."""
        while True:
            await self.wanted.wait()
            await asyncio.sleep(GATHER)
            self.wanted.clear()
            try:
                await self.compile()
            except (MeshError, OSError, TimeoutError) as error:
                log.warning("routes not compiled", extra={"error": str(error)})
                await asyncio.sleep(ERROR_PAUSE)
                self.wanted.set()

    async def compile(self) -> None:
        """Compile once and say on each object what came of it. Raises MeshError."""
        pools = [pool for _, pool in await self._parsed("AgentPool", AgentPool)]
        found = await self._parsed("AgentSubscription", AgentSubscription)
        subscriptions = {made.metadata.name: (body, made) for body, made in found}
        said = await self._control.route(pools, [made for _, made in subscriptions.values()])
        taken = {name: wish for (kind, name), wish in said.items() if kind == "AgentPool"}
        changed = {name for name in {*taken, *self._taken} if taken.get(name) != self._taken.get(name)}
        self._taken = taken
        for name in sorted(changed):
            self._on_taken(name)
        for (kind, name), wish in said.items():
            if kind == "AgentSubscription":
                await self._status.say(subscriptions[name][0], wish)
        await self._say_of_targets({pool.metadata.name for pool in pools})

    async def _parsed(self, kind: str, wanted: type[Any]) -> list[tuple[Json, Any]]:
        """The namespace's objects that can be read and are not on their way out; the others are told why."""
        found = []
        for body in self._objects(kind):
            if body["metadata"].get("deletionTimestamp"):
                continue
            try:
                made = parse(body)
            except SpecError as error:
                log.warning("object left out of the routes", extra={"error": str(error)})
                if kind != "AgentPool":  # a pool's own loop says it
                    await self._status.say(body, ConditionWish("Ready", False, "SpecWrong", str(error)))
                continue
            assert isinstance(made, wanted)
            found.append((body, made))
        return found

    async def _say_of_targets(self, pools: set[str]) -> None:
        """A target without a pool, or beside another one, would wait in silence."""
        first: dict[str, str] = {}
        for body in self._objects("AgentScalingTarget"):
            name, pool = body["metadata"]["name"], body["spec"]["poolRef"]["name"]
            if pool not in pools:
                await self._status.say(body, ConditionWish("Ready", False, "NoSuchPool", f"there is no pool {pool!r}"))
            elif (other := first.setdefault(pool, name)) != name:
                text = f"pool {pool} follows target {other}; remove one of them"
                await self._status.say(body, ConditionWish("Ready", False, "PoolHasTarget", text))
