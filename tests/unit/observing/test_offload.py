"""CPU-bound work in other processes."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import starling.testing
from starling import Agent, rpc
from starling.errors import SpecError, SystemFailed
from starling.offload import Offload, close_offload, offload

sys.path.insert(0, str(Path(__file__).parent))  # the other processes look there for the functions
work_elsewhere = importlib.import_module("work_elsewhere")


@pytest.fixture
async def pool() -> AsyncIterator[Offload]:
    made = Offload(2)
    yield made
    await made.close()
    assert not multiprocessing.active_children()


async def test_a_function_runs_in_another_process(pool: Offload) -> None:
    pid, square = await pool.run(work_elsewhere.pid_and_square, 7)
    assert square == 49
    assert pid != os.getpid()


async def test_the_loop_goes_on_while_a_function_computes(pool: Offload) -> None:
    computing = asyncio.create_task(pool.run(work_elsewhere.compute, 0.5))
    turns = 0
    while not computing.done():
        turns += 1
        await asyncio.sleep(0)
    assert await computing > 0
    assert turns > 100


async def test_what_the_function_raises_comes_out(pool: Offload) -> None:
    with pytest.raises(ValueError, match="not today"):
        await pool.run(work_elsewhere.fail, "not today")


async def test_what_cannot_be_sent_to_a_process_is_refused(pool: Offload) -> None:
    with pytest.raises(SpecError, match=r"offload.*picklable"):
        await pool.run(lambda: 1)


async def test_a_process_that_dies_is_an_error_and_the_next_call_finds_a_new_one(pool: Offload) -> None:
    with pytest.raises(SystemFailed, match="died"):
        await pool.run(work_elsewhere.die)
    assert (await pool.run(work_elsewhere.pid_and_square, 2))[1] == 4


async def test_a_call_that_waits_for_room_can_be_cancelled() -> None:
    pool = Offload(1)
    try:
        busy = [asyncio.create_task(pool.run(work_elsewhere.compute, 0.05)) for _ in range(4)]
        await asyncio.sleep(0)
        late = asyncio.create_task(pool.run(work_elsewhere.compute, 60.0))
        await asyncio.sleep(0)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        await asyncio.gather(*busy)
        assert (await pool.run(work_elsewhere.pid_and_square, 3))[1] == 9
    finally:
        await pool.close()


async def test_closing_ends_what_computes() -> None:
    pool = Offload(1)
    computing = asyncio.create_task(pool.run(work_elsewhere.compute, 600.0))
    while not multiprocessing.active_children():
        await asyncio.sleep(0.01)
    await pool.close()
    with pytest.raises((SystemFailed, asyncio.CancelledError)):
        await computing
    assert not multiprocessing.active_children()
    with pytest.raises(SystemFailed, match="closed"):
        await pool.run(work_elsewhere.compute, 0.0)


async def test_the_pool_of_a_worker_starts_with_the_first_call_and_ends_with_the_worker() -> None:
    assert not multiprocessing.active_children()
    assert (await offload(work_elsewhere.pid_and_square, 5))[1] == 25
    assert multiprocessing.active_children()
    await close_offload()
    await close_offload()
    assert not multiprocessing.active_children()


class Thinker(Agent, type="offload_thinker"):
    @rpc
    async def think(self, message: float) -> int:
        rounds: int = await offload(work_elsewhere.compute, message)
        return rounds

    @rpc
    async def chat(self, message: str) -> str:
        return message


@pytest.mark.row("RT-85")
async def test_a_handler_that_computes_elsewhere_does_not_delay_other_agents() -> None:
    try:
        async with starling.testing.mesh(Thinker, shards=1) as mesh:
            await offload(work_elsewhere.compute, 0.0)  # the processes are there
            thinking = asyncio.create_task(mesh.agent(Thinker, "deep").think(2.0, timeout=60.0))
            chats = 0
            while not thinking.done():
                assert await mesh.agent(Thinker, f"light-{chats}").chat("hi", timeout=60.0) == "hi"
                chats += 1
            assert await thinking > 0
        assert chats > 20
    finally:
        await close_offload()


@pytest.mark.parametrize("processes", [0, -1, 65, 1.5])
def test_a_wrong_number_of_processes_names_the_field(processes: int) -> None:
    with pytest.raises(SpecError, match="processes"):
        Offload(processes)
