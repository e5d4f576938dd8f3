"""One row of the fault suite: a mesh, a checked load on it, something that goes wrong, and a verdict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starling.client import Mesh
from starling.core.ids import PoolName
from starling.core.names import MeshNames
from starling.engine.dead import DeadLetter

from benchmarks.checked import CheckedLoad
from benchmarks.probes import answer_times
from benchmarks.stage import MESH, POOL, Stage, StageOptions, stage

BEFORE = 1.0
AFTER = 1.0
RECOVERY_TIMEOUT = 60.0


@dataclass(slots=True)
class Report:
    """What came of a row. recovery_seconds: from the fault to an answer of every shard; None: nothing was away."""

    name: str
    accepted: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    recovery_seconds: float | None = None
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is lost, doubled or out of order, and every check of the row holds."""
        return not (self.lost or self.doubled or self.out_of_order or self.failures)

    def check(self, holds: bool, text: str) -> None:
        """Note a check of the row that does not hold."""
        if not holds:
            self.failures.append(text)

    def line(self) -> str:
        """Return the row as one line."""
        recovery = "-" if self.recovery_seconds is None else f"{self.recovery_seconds:.2f} s"
        facts = "".join(f", {name} {value}" for name, value in self.facts.items())
        text = (
            f"{'ok    ' if self.ok else 'FAILED'} {self.name:34} lost {self.lost}, doubled {self.doubled}, "
            f"out of order {self.out_of_order}, of {self.accepted}; recovery {recovery}{facts}"
        )
        return f"{text}; {'; '.join(self.failures)}" if self.failures else text

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "lost": self.lost,
            "doubled": self.doubled,
            "out_of_order": self.out_of_order,
            "recovery_seconds": self.recovery_seconds,
            "accepted": self.accepted,
            "seconds": round(self.seconds, 2),
            "failures": self.failures,
            **self.facts,
        }


@dataclass(slots=True)
class Trial:
    """What a row works with: the mesh, a client, the load that runs, and its report."""

    mesh: Stage
    client: Mesh
    load: CheckedLoad
    report: Report

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def recovered(self, since: float, shards: Iterable[int] | None = None) -> None:
        """Call an agent of each shard; the slowest answer since then is the recovery time. Some can be added up."""
        count = self.mesh.options.shards
        try:
            times = await answer_times(
                self.client, range(count) if shards is None else shards, count, since=since, timeout=RECOVERY_TIMEOUT
            )
        except Exception as error:
            self.report.check(False, f"no answer of every shard: {type(error).__name__}: {error}")
            return
        self.report.recovery_seconds = max(self.report.recovery_seconds or 0.0, *times)

    async def until(self, what: str, holds: Any, timeout: float = 30.0) -> bool:
        """Wait until `holds()` is true, at most so long; a check of the row fails when it does not come."""
        end = self.now + timeout
        while not holds():
            if self.now > end:
                self.report.check(False, f"{what}: not within {timeout:.0f} s")
                return False
            await asyncio.sleep(0.02)
        return True

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters of the pool."""
        names = MeshNames(MESH).pool(PoolName(POOL))
        letters: list[DeadLetter] = []
        first = 1
        while page := await self.mesh.store.page(names.dead_letters, names.dead_subject, first):
            letters += [DeadLetter.unpack(message.data) for message in page]
            first = page[-1].sequence + 1
        return letters

    async def dead_count(self) -> int:
        """Number of dead letters, without reading them."""
        info = await self.mesh.store.stream_info(MeshNames(MESH).pool(PoolName(POOL)).dead_letters)
        return info.messages if info is not None else 0


@asynccontextmanager
async def trial(
    folder: Path,
    report: Report,
    *,
    per_second: float = 300.0,
    seconds_of_turn: float = 0.0,
    keys: int = 100,
    verdict_timeout: float = 90.0,
    **options: Any,
) -> AsyncIterator[Trial]:
    """Run a row's body under load; afterwards the load ends and every effect is compared. options: of the stage."""
    options = {"shards": 8, **options}
    async with stage(folder, StageOptions(**options)) as mesh, mesh.client("faults") as client:
        load = CheckedLoad(client, keys=keys, per_second=per_second, seconds_of_turn=seconds_of_turn)
        made = Trial(mesh, client, load, report)
        running = asyncio.create_task(load.run(), name="load")
        try:
            await asyncio.sleep(BEFORE)
            yield made
            await asyncio.sleep(AFTER)
        finally:
            load.stop()
            await asyncio.wait([running], timeout=150)
            if not running.done():
                running.cancel()
                report.check(False, "the load did not come to its end")
            await asyncio.gather(running, return_exceptions=True)
        verdict = await load.verdict(verdict_timeout)
        report.accepted = verdict.accepted
        report.lost, report.doubled, report.out_of_order = verdict.lost, verdict.doubled, verdict.out_of_order
        report.check(not verdict.unsure, f"{verdict.unsure} messages not accepted: {load.why}")
        report.check(not verdict.reason, f"agents did not answer: {verdict.reason}")
