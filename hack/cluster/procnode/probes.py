"""Probes: asking a container how it is, and what a row of answers means."""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.api import Json
from hack.cluster.errors import KitError
from hack.cluster.procnode.texts import port_of

EAGER_SECONDS = 0.2  # until first ready a container is asked often, as the kubelet does when one starts
EAGER_TIMES = 50


class Kind(enum.Enum):
    """The three probes of a container, by their names in a manifest."""

    STARTUP = "startupProbe"
    READINESS = "readinessProbe"
    LIVENESS = "livenessProbe"


@dataclass(slots=True)
class Answers:
    """The current row of equal answers to one probe."""

    spec: Json
    good: int = 0
    bad: int = 0

    def heard(self, ok: bool) -> bool | None:
        """Take in one answer; return True or False once the row is long enough to count, None before."""
        self.good, self.bad = (self.good + 1, 0) if ok else (0, self.bad + 1)
        if self.good >= self.spec.get("successThreshold", 1):
            return True
        return False if self.bad >= self.spec.get("failureThreshold", 3) else None

    def pause(self, *, eager: bool) -> float:
        """Return the seconds until the next question."""
        period = float(self.spec.get("periodSeconds", 10))
        return min(period, EAGER_SECONDS) if eager and self.bad <= EAGER_TIMES else period


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a probe asks: the container's manifest, its pod's address, and where its own commands run."""

    container: Json
    ip: str
    env: Mapping[str, str]
    cwd: Path


async def ask(probe: Json, target: Target) -> bool:
    """Return whether the container answers as it should, within the probe's own time limit."""
    try:
        async with asyncio.timeout(probe.get("timeoutSeconds", 1)):
            if "exec" in probe:
                return await run(probe["exec"]["command"], target) == 0
            if "tcpSocket" in probe:
                return await _connects(probe["tcpSocket"], target)
            return await _answers(probe["httpGet"], target)
    except (KitError, OSError, TimeoutError, IndexError, ValueError):
        return False


async def run(command: list[str], target: Target) -> int:
    """Run a command beside the container and return its exit code; cancelled, it is killed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=target.env,
        cwd=target.cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)


async def _connects(where: Json, target: Target) -> bool:
    port = port_of(where["port"], target.container)
    _, writer = await asyncio.open_connection(where.get("host") or target.ip, port)
    writer.close()
    return True


async def _answers(where: Json, target: Target) -> bool:
    port = port_of(where["port"], target.container)
    reader, writer = await asyncio.open_connection(where.get("host") or target.ip, port)
    try:
        path = where.get("path", "/")
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {target.ip}\r\nConnection: close\r\n\r\n".encode())
        return 200 <= int((await reader.readline()).split()[1]) < 400
    finally:
        writer.close()
