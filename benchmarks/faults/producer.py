"""A producer that dies in the middle of what it publishes and begins again: same name, same ids.

As a program (`python -m benchmarks.faults.producer JSON`) it is that producer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from starling.client import Mesh, connect

from benchmarks.checked import CheckedLoad
from benchmarks.faults.trial import Report, Trial, trial
from benchmarks.processes import ROOT
from benchmarks.stage import MESH

NAME: Final = "restarted"
MESSAGES: Final = 3000
DEATHS: Final = (0.2, 0.5, 0.9, 1.4)
"""Seconds from the first message of each of its lives to its end."""
STARTED_WITHIN: Final = 30.0


def load(mesh: Mesh, source: str) -> CheckedLoad:
    """What every life of the producer publishes, from the first message on."""
    return CheckedLoad(mesh, keys=30, per_second=1000, prefix=NAME, source=source)


async def killed(folder: Path, report: Report) -> None:
    """SIGKILL of a producer, four times; each life publishes all again from the first, the last one to the end."""
    async with trial(folder, report) as it:
        source = f"lives-{it.now:.0f}"
        for seconds in DEATHS:
            await _live(it, source, seconds)
        async with it.mesh.client(NAME) as client:
            last = load(client, source)
            await last.run(MESSAGES)
            verdict = await last.verdict()
        report.check(verdict.ok, f"of the producer that died: {verdict}")
        report.facts["deaths"] = len(DEATHS)


async def _live(it: Trial, source: str, seconds: float) -> None:
    given = json.dumps({"url": it.mesh.url, "source": source})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.faults.producer", given, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(STARTED_WITHIN):
            started = await process.stdout.readline()
        it.report.check(bool(started), "the producer ended before its first message")
        await asyncio.sleep(seconds)
        it.report.check(process.returncode is None, "the producer had nothing left to publish when it should die")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _publish(url: str, source: str) -> None:
    async with connect(url, mesh=MESH, name=NAME) as mesh:
        print("publishing", flush=True)
        await load(mesh, source).run(MESSAGES)


if __name__ == "__main__":
    asyncio.run(_publish(**json.loads(sys.argv[1])))
