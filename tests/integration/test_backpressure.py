"""A publisher that is faster than the handlers is slowed down; no process keeps what the others are not ready for."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starling import AgentId

from tests.integration.conftest import ROOT
from tests.integration.probes import Tell

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster
    from tests.integration.probes import Weighed

LIMIT = 400
MESSAGES = 700
BODY = 150_000
FLAT = 25_000_000
"""What a process may grow by while more than its weight is published: a fourth of that."""


def peak(pid: int) -> int | None:
    """Most bytes that a process has had in RAM so far; None when it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(found.group(1)) * 1024 if found else None


@pytest.mark.row("RT-25", part="a fast publisher is slowed; its memory and the worker's stay flat")
async def test_a_fast_publisher_is_slowed_and_nobody_grows_by_what_waits(cluster: Cluster) -> None:
    pool = await cluster.pool(agents={"scale": "tests.integration.probes:Scale"}, mailbox_limit=LIMIT)
    await pool.map("w-0")
    worker = pool.start("w-0")
    await pool.owns("w-0", 0)
    publisher = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.publisher"),
        *(cluster.server.url, cluster.mesh, str(MESSAGES), str(BODY)),
        cwd=ROOT,
        stdout=PIPE,
    )
    try:
        assert publisher.stdout is not None
        async with asyncio.timeout(120):
            assert await publisher.stdout.readline() == b"connected\n"
            pids = {"worker": worker.process.pid, "publisher": publisher.pid}
            begun = {name: peak(pid) or 0 for name, pid in pids.items()}
            assert await publisher.stdout.readline() == b"refused\n"
            ended = begun
            while not (line := await _line(publisher.stdout)):
                ended = {name: peak(pid) or ended[name] for name, pid in pids.items()}
            assert line.startswith(b"stored %d " % MESSAGES)
            async with cluster.client() as mesh:
                numbers: list[int] = []
                while len(numbers) < MESSAGES:
                    weighed: list[Weighed] = [
                        await mesh.query(AgentId("scale", f"k{n}"), Tell(), timeout=60) for n in range(16)
                    ]
                    numbers = [number for one in weighed for number in one.numbers]
    finally:
        if publisher.returncode is None:
            publisher.kill()
        await publisher.wait()
    assert sorted(numbers) == list(range(1, MESSAGES + 1))
    assert max(ended[name] - begun[name] for name in pids) < FLAT
    assert (await pool.owner()).epoch == 1  # a refused commit would have cost the shard


async def _line(stream: asyncio.StreamReader) -> bytes:
    """Return the next line; nothing after a while without one."""
    try:
        async with asyncio.timeout(0.2):
            return await stream.readline()
    except TimeoutError:
        return b""
