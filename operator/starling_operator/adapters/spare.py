"""A worker process in waiting: whoever takes the place of a dead one has nothing to import any more."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
SETTLE: Final = 1.0
"""Seconds before a spare is made: a pod that starts now needs the processor more."""
FAILED_PAUSE: Final = 30.0


class Spare:
    """Keeps one process that waits to become a worker (m: a start takes 0.45 s of processor time, of which a spare
    saves all but 0.05)."""

    def __init__(self) -> None:
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._waiting: asyncio.subprocess.Process | None = None
        self._taken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a process waits."""
        return self._waiting is not None and self._waiting.returncode is None

    def keep(self) -> None:
        """Have one from now on; idempotent."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="spare worker")

    async def close(self) -> None:
        """End the process that waits; those that were taken go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def take(self, environment: Mapping[str, str], output: Path) -> asyncio.subprocess.Process | None:
        """Make the waiting process a worker; output: file that gets what it says.

        None when none waits, or when the environment differs in more than a worker's own settings.
        """
        process = self._waiting
        if process is None or process.returncode is not None or not self._fits(environment):
            return None
        assert process.stdin is not None
        process.stdin.write(json.dumps({"environment": dict(environment), "output": str(output)}).encode() + b"\n")
        process.stdin.close()
        self._waiting = None
        self._taken.set()
        return process

    def _fits(self, environment: Mapping[str, str]) -> bool:
        names = set(environment) | set(self._environment)
        return all(
            name.startswith("STARLING_") or environment.get(name) == self._environment.get(name) for name in names
        )

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(SETTLE)
            if not await self._one():
                await asyncio.sleep(FAILED_PAUSE)

    async def _one(self) -> bool:
        """Keep one process until it is taken; False when it ended before that."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "starling.node",
            "spare",
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self._taken.clear()
        ended = asyncio.ensure_future(process.wait())
        taken = asyncio.ensure_future(self._taken.wait())
        try:
            assert process.stdout is not None
            if not await process.stdout.readline():
                return False
            self._waiting = process
            await asyncio.wait({ended, taken}, return_when=asyncio.FIRST_COMPLETED)
            return taken.done()
        finally:
            if not taken.done():
                self._waiting = None
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            for wait in (ended, taken):
                wait.cancel()


def die_with_parent() -> None:
    """In a child before it becomes another program: it ends with the process that started it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
