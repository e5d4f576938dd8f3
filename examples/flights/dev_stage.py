"""The demo on `starling dev`: one process with NATS, the control loop and the workers below it."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from examples.flights.stage import DemoFailed, Killed

MANIFESTS: Final = Path(__file__).parent
START_TIMEOUT: Final = 60.0
STOP_TIMEOUT: Final = 60.0
LOOK: Final = 0.1
LOG_TAIL: Final = 2000
_PR_SET_PDEATHSIG: Final = 1


class DevStage:
    """folder: for data and logs, made anew at each start."""

    name = "dev"

    def __init__(self, folder: Path, manifests: Path = MANIFESTS) -> None:
        self._manifests = manifests
        self._data = folder / "data"
        self._status_file = folder / "status.json"
        self._log = folder / "starling-dev.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def nats_url(self) -> str:
        return str(self._status().get("nats", ""))

    @property
    def mesh(self) -> str:
        return str(self._status().get("mesh", ""))

    async def start(self) -> None:
        self._status_file.unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, self._data, ignore_errors=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as out:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not self._status().get("ready"):
                    if self._process.returncode is not None:
                        raise DemoFailed(f"starling dev ended with {self._process.returncode}: {self._tail()}")
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise DemoFailed(f"starling dev was not ready after {START_TIMEOUT:.0f} s: {self._tail()}") from None

    def _command(self) -> list[str]:
        options = ["--file", str(self._manifests), "--data", str(self._data), "--port", "0", "--plain"]
        program = "from starling.cli import main; main()"
        return [sys.executable, "-c", program, "dev", *options, "--status", str(self._status_file)]

    async def stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise DemoFailed(f"starling dev did not end within {STOP_TIMEOUT:.0f} s: {self._tail()}") from None

    async def pods(self) -> Mapping[str, int]:
        return {name: len(pool["processes"]) for name, pool in self._pools().items()}

    async def moves(self) -> Sequence[str]:
        return [f"{pool}: {move}" for pool, move in self._status().get("moves", ())]

    async def scale_ups(self) -> Sequence[str]:
        return [f"{pool}: {replicas} pods" for pool, replicas in self._status().get("scaleUps", ())]

    async def kill_worker(self, pool: str) -> Killed:
        seen = self._pools().get(pool, {"processes": {}, "owners": {}})
        owners = list(seen["owners"].values())
        running = [pod for pod in sorted(seen["processes"]) if pod in owners]
        if not running:
            raise DemoFailed(f"no worker of pool {pool} owns a shard")
        pod = max(running, key=owners.count)
        try:
            os.kill(seen["processes"][pod], signal.SIGKILL)
        except ProcessLookupError:
            raise DemoFailed(f"worker {pod} had ended before it was killed") from None
        return Killed(pod, asyncio.get_running_loop().time())

    async def kill_operator(self) -> None:
        raise DemoFailed("in starling dev the operator is no process of its own; kill it in the cluster's demo")

    async def start_operator(self) -> None:
        raise DemoFailed("in starling dev the operator is no process of its own")

    async def checks(self) -> Mapping[str, tuple[bool, str]]:
        return {}

    def _pools(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._status().get("pools", {})
        return found

    def _status(self) -> Mapping[str, Any]:
        """What `starling dev` wrote last; empty before the first time."""
        try:
            found: Mapping[str, Any] = json.loads(self._status_file.read_text())
        except FileNotFoundError:
            return {}
        return found

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-LOG_TAIL:].strip()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
