"""A load whose effects are counted: numbered messages to checkers, which pass each on to a ledger."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from starling.client import Mesh
from starling.core.ids import AgentId, TopicId
from starling.errors import MeshError

from benchmarks.agents import NUMBERED, CheckedState, Read, Sequenced
from benchmarks.verdict import Effects, Verdict, effects

READ_AT_ONCE = 200
MOST_AT_ONCE = 200
STORED_WITHIN = 150.0
"""Seconds without any message stored after which a sender gives up: longer than any fault lasts."""


@dataclass(slots=True)
class CheckedLoad:
    """Sends at a steady rate until told to stop; `verdict` then compares. seconds_of_turn: 0 does not wait."""

    mesh: Mesh
    keys: int = 100
    per_second: float = 500.0
    seconds_of_turn: float = 0.0
    prefix: str = "key"
    source: str = field(default_factory=lambda: f"{random.SystemRandom().getrandbits(32):08x}")
    accepted: int = 0
    unsure: int = 0
    why: str = ""
    """Why it is not known of the last unsure messages whether they are stored."""
    _numbers: dict[int, int] = field(default_factory=dict)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def sent(self) -> int:
        """Messages handed over so far."""
        return sum(self._numbers.values())

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()

    async def run(self, messages: int | None = None) -> None:
        """Send until stopped, or so many messages; returns when all are stored. Full mailboxes hold it back."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        sent = 0
        while not self._stop.is_set() and (messages is None or sent < messages):
            due = min(int((loop.time() - started) * self.per_second) + 1 - sent, MOST_AT_ONCE)
            if messages is not None:
                due = min(due, messages - sent)
            if due > 0:
                await self.send([(sent + number) % self.keys for number in range(due)])
                sent += due
            await asyncio.sleep(0.005)

    async def send(self, keys: Sequence[int]) -> None:
        """Send the next message of each of these keys, in this order, and wait until all are stored."""
        rows = [self._next(key) for key in keys]
        try:
            await self.mesh.publish_all(rows, timeout=STORED_WITHIN)
        except (MeshError, TimeoutError) as error:
            self.unsure += len(rows)
            self.why = f"{type(error).__name__}: {error}"
        else:
            self.accepted += len(rows)

    def _next(self, key: int) -> tuple[TopicId, Sequenced, str]:
        number = self._numbers[key] = self._numbers.get(key, 0) + 1
        message = Sequenced(self.source, number, self.seconds_of_turn)
        return NUMBERED(f"{self.prefix}{key}"), message, f"{self.source}-{key}-{number}"

    async def handled(self) -> int:
        """Messages that the checkers have counted so far."""
        return sum([state.handled for state in await self._states("checker")])

    async def verdict(self, timeout: float = 90.0) -> Verdict:
        """Wait until everything sent has had its effect at both hops, or for so long, and compare."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        reason = ""
        checkers: list[CheckedState] = []
        ledgers: list[CheckedState] = []
        while True:
            try:
                checkers, ledgers = await self._states("checker"), await self._states("ledger")
                reason = ""
            except (MeshError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
            done = min(sum(c.handled for c in checkers), sum(entry.handled for entry in ledgers))
            if (checkers and done >= self.sent) or loop.time() > end:
                break
            await asyncio.sleep(0.2)
        if not checkers or not ledgers:
            return Verdict(self.accepted, self.sent, 0, 0, self.unsure, reason or "nobody answered")
        first, second = self._compared(checkers), self._compared(ledgers)
        both = Effects(*map(sum, zip(first, second, strict=True)))
        return Verdict(self.accepted, both.lost, both.doubled, both.out_of_order, self.unsure, reason)

    def _compared(self, states: list[CheckedState]) -> Effects:
        parts = [
            effects(self._numbers.get(key, 0), state.handled, state.doubled, state.gaps)
            for key, state in enumerate(states)
        ]
        return Effects(*map(sum, zip(*parts, strict=True)))

    async def _states(self, kind: str) -> list[CheckedState]:
        states: list[CheckedState] = [CheckedState()] * self.keys
        keys = iter(range(self.keys))

        async def worker() -> None:
            for key in keys:
                target = AgentId(kind, f"{self.prefix}{key}")
                states[key] = await self.mesh.call(target, Read(), timeout=30.0)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(READ_AT_ONCE, self.keys)):
                tasks.create_task(worker())
        return states
