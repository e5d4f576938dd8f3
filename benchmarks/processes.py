"""Processes that belong to a measurement: loads, peers' workers. They end with us."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOAD_TIMEOUT: Final = 600.0
_PR_SET_PDEATHSIG: Final = 1


class LoadFailed(Exception):
    """A process of a measurement failed; the text is the end of what it wrote."""


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _start(python: str, *arguments: str, cwd: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        python,
        *arguments,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


async def json_of(
    *command: str | Mapping[str, Any], cwd: Path = ROOT, python: str = sys.executable, timeout: float = LOAD_TIMEOUT
) -> dict[str, float]:
    """Run a Python program and return the JSON object of its last line. Mappings among its arguments go as JSON.

    Raises LoadFailed with the end of its standard error, also after `timeout` seconds.
    """
    arguments = [part if isinstance(part, str) else json.dumps(part) for part in command]
    process = await _start(python, *arguments, cwd=cwd)
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    except TimeoutError:
        raise LoadFailed(f"{' '.join(arguments)}: no result after {timeout:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not out.strip():
        raise LoadFailed(f"{' '.join(arguments)} ended with {process.returncode}: {_last_line(err)}")
    result: dict[str, float] = json.loads(out.splitlines()[-1])
    return result


@asynccontextmanager
async def running(
    *command: str | Mapping[str, Any], cwd: Path = ROOT, python: str = sys.executable
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a Python program that writes a line `ready` once it is, until the block ends. Raises LoadFailed."""
    arguments = [part if isinstance(part, str) else json.dumps(part) for part in command]
    process = await _start(python, *arguments, cwd=cwd)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        try:
            async with asyncio.timeout(30):
                while line := await process.stdout.readline():
                    if line.strip() == b"ready":
                        break
                else:
                    raise LoadFailed(f"{' '.join(arguments)}: {(await process.stderr.read()).decode()[-2000:]}")
        except TimeoutError:
            raise LoadFailed(f"{' '.join(arguments)}: not ready after 30 s") from None
        out, err = (asyncio.create_task(_tail(stream)) for stream in (process.stdout, process.stderr))
        try:
            yield process
        finally:
            ended = process.returncode
            if ended is None:
                process.kill()
            _, said = await asyncio.gather(out, err)
            if ended is not None:
                raise LoadFailed(f"{' '.join(arguments)} ended with {ended}: {_last_line(said)}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _last_line(said: bytes) -> str:
    """What a traceback comes down to."""
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """Read a pipe, so that it does not fill up, and return the end of what came."""
    tail = b""
    while piece := await stream.read(65536):
        tail = (tail + piece)[-2000:]
    return tail
