"""A worker process in waiting: it takes the place of one that dies, and is gone when its supervisor is."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starling_operator.adapters.spare import Spare

BOUND = 30.0


@pytest.fixture
async def spare() -> AsyncIterator[Spare]:
    made = Spare()
    made.keep()
    try:
        await ready(made)
        yield made
    finally:
        await made.close()


async def ready(spare: Spare) -> None:
    async with asyncio.timeout(BOUND):
        while not spare.is_ready:
            await asyncio.sleep(0.01)


def settings(spare: Spare, **more: str) -> dict[str, str]:
    return {**spare._environment, "STARLING_MESH": "m", **more}


async def test_it_becomes_the_worker_that_it_is_told_to_be_and_another_takes_its_place(
    spare: Spare, tmp_path: Path
) -> None:
    output = tmp_path / "pod.log"
    missing = tmp_path / "no-such-pool.json"
    worker = spare.take(
        settings(
            spare, STARLING_POOL="p", STARLING_POD="p-0", STARLING_CONFIG=str(missing), STARLING_POD_IP="127.0.0.1"
        ),
        output,
    )
    assert worker is not None
    assert not spare.is_ready
    async with asyncio.timeout(BOUND):
        assert await worker.wait() == 2  # as an ordinary worker with wrong settings
    assert f"STARLING_CONFIG: cannot read {missing}" in output.read_text()
    await ready(spare)


async def test_an_environment_that_is_not_its_own_needs_a_new_process(spare: Spare, tmp_path: Path) -> None:
    assert spare.take(settings(spare, PYTHONPATH="elsewhere"), tmp_path / "log") is None
    missing = settings(spare)
    del missing["PATH"]
    assert spare.take(missing, tmp_path / "log") is None
    assert spare.is_ready


async def test_one_that_dies_in_waiting_is_not_handed_out(spare: Spare, tmp_path: Path) -> None:
    assert spare._waiting is not None
    os.kill(spare._waiting.pid, signal.SIGKILL)
    async with asyncio.timeout(BOUND):
        while spare.is_ready:
            await asyncio.sleep(0.01)
    assert spare.take(settings(spare), tmp_path / "log") is None


async def test_one_that_is_not_needed_ends_with_its_supervisor(spare: Spare) -> None:
    waiting = spare._waiting
    assert waiting is not None
    await spare.close()
    assert waiting.returncode == -signal.SIGKILL


async def test_without_a_line_it_ends_well() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "starling.node", "spare", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(BOUND):
        said, _ = await process.communicate()
    assert (process.returncode, said) == (0, b"ready\n")
