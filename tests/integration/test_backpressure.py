"""A publisher that is faster than the handlers is slowed down; no process keeps what the others are not ready for."""

from __future__ import annotations

import asyncio
import re
import sys
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starling import AgentId
from starling.adapters.nats import EmbeddedServer
from starling.adapters.nats.server import HOST, free_port

from tests.integration.conftest import ROOT, mesh_on
from tests.integration.probes import Tell

if TYPE_CHECKING:
    from tests.integration.probes import Weighed

LIMIT = 400
MESSAGES = 3 * LIMIT
BODY = 150_000
FLAT = 40_000_000
"""What publisher and worker may grow by, while a hundred megabytes and more go through them."""
MAILBOX = LIMIT * BODY
"""What a full mailbox holds; a server has all of it in memory for some seconds after it was written."""
SERVER = 35_000_000
"""What a server may need beside: for itself, for what is under way, for what was purged and is in memory still."""
SOFT = 2 * MAILBOX
"""Where the server collects garbage whatever its share: twice what lives, so that it need not do so all the time."""
OTHERS = 30_000_000
"""The program, its threads, and what came in while garbage was collected: Go's limit is a soft one."""


def peak(pid: int) -> int | None:
    """Most bytes that a process has had in RAM so far; None when it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(found.group(1)) * 1024 if found else None


def living(port: int) -> int:
    """Bytes that a Go program holds once its garbage is collected, twice: the first leaves what is kept for reuse."""
    for _ in range(2):
        with urllib.request.urlopen(f"http://{HOST}:{port}/debug/pprof/heap?gc=1&debug=1", timeout=30) as answer:
            text = answer.read().decode()
    found = re.search(r"^# HeapAlloc = (\d+)$", text, re.MULTILINE)
    assert found is not None
    return int(found.group(1))


@pytest.mark.timeout(240)  # what was handled leaves a mailbox after 30 s: three fillings are a minute
@pytest.mark.row("RT-25", part="a fast publisher is slowed; the memory of all processes stays flat", completes=True)
async def test_a_fast_publisher_is_slowed_and_nobody_grows_by_what_waits(tmp_path: Path) -> None:
    port = free_port()
    server = EmbeddedServer(tmp_path / "nats", arguments=("--profile", str(port)), soft_memory=SOFT)
    async with running(server), mesh_on(server, tmp_path) as cluster:
        pool = await cluster.pool(agents={"scale": "tests.integration.probes:Scale"}, mailbox_limit=LIMIT)
        await pool.map("w-0")
        worker = pool.start("w-0")
        await pool.owns("w-0", 0)
        lives = [await asyncio.to_thread(living, port)]
        async with publishing(server.url, cluster.mesh) as publisher:
            assert await said(publisher) == b"connected\n"
            pids = {"worker": worker.process.pid, "publisher": publisher.pid}
            begun = ended = {name: peak(pid) or 0 for name, pid in pids.items()}
            lines: list[bytes] = []
            while not (lines and lines[-1].startswith(b"stored %d " % MESSAGES)):
                lives.append(await asyncio.to_thread(living, port))
                ended = {name: peak(pid) or ended[name] for name, pid in pids.items()}
                if line := await said(publisher, within=1.0):
                    lines.append(line)
        lives.append(await asyncio.to_thread(living, port))
        async with cluster.client() as mesh:
            numbers: list[int] = []
            while len(numbers) < MESSAGES:
                weighed: list[Weighed] = [
                    await mesh.query(AgentId("scale", f"k{n}"), Tell(), timeout=60) for n in range(16)
                ]
                numbers = [number for one in weighed for number in one.numbers]
        assert server.pid is not None
        resident = peak(server.pid) or 0
        assert (await pool.owner()).epoch == 1  # a refused commit would have cost the shard
    third = max(1, len(lives) // 3)
    print(f"server: {max(lives) / 1e6:.0f} MB live at most, {max(lives[-third:]) / 1e6:.0f} in the last third of")
    print(f"{len(lives)} looks, {resident / 1e6:.0f} MB resident at most; others grew by", end=" ")
    print({name: (ended[name] - begun[name]) // 1_000_000 for name in pids})
    assert sorted(numbers) == list(range(1, MESSAGES + 1))
    assert lines[0] == b"refused\n"
    assert max(ended[name] - begun[name] for name in pids) < FLAT
    assert max(lives) < MAILBOX + SERVER
    assert max(lives[-third:]) < max(lives[:third]) + SERVER
    assert resident < SOFT + OTHERS


@asynccontextmanager
async def running(server: EmbeddedServer) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        await server.kill()


@asynccontextmanager
async def publishing(url: str, mesh: str) -> AsyncIterator[Process]:
    """A process that publishes as fast as it may."""
    publisher = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.publisher", url, mesh, str(MESSAGES), str(BODY)),
        cwd=ROOT,
        stdout=PIPE,
    )
    try:
        yield publisher
    finally:
        if publisher.returncode is None:
            publisher.kill()
        await publisher.wait()


async def said(publisher: Process, *, within: float = 60.0) -> bytes:
    """Return the next line; nothing after so many seconds without one."""
    assert publisher.stdout is not None
    try:
        async with asyncio.timeout(within):
            line = await publisher.stdout.readline()
    except TimeoutError:
        return b""
    assert line, "the publisher ended without having stored everything"
    return line
