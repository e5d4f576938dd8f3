"""Turns over the end of their process: calls, long turns, delayed messages, and what they do outside."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starling import AgentId

from tests.integration.probes import Money, Nap, Numbered, Order, Pay, PayAt, Record, Rouse, Tell

if TYPE_CHECKING:
    from starling import Mesh

    from tests.integration.conftest import Cluster

CODE = "tests.integration.probes:"
PAYERS = {"payer": f"{CODE}Payer"}
TILLS = {"till": f"{CODE}Till"}


async def lines(file: Path) -> list[str]:
    """The lines of a file; none while it is not there."""
    return (await asyncio.to_thread(file.read_text)).splitlines() if await asyncio.to_thread(file.exists) else []


async def told(mesh: Mesh, agent: AgentId, turns: int) -> Money:
    """Wait until an agent's turns are so many."""
    async with asyncio.timeout(60):
        while True:
            money: Money = await mesh.call(agent, Tell(), timeout=60)
            if money.turns >= turns:
                return money
            await asyncio.sleep(0.05)


@pytest.mark.row("RT-18", part="the caller is killed: the callee has the effect once, the caller gets the answer")
@pytest.mark.parametrize("killed", ["payers", "tills"])
async def test_a_call_takes_effect_once_whichever_side_is_killed_in_its_middle(
    cluster: Cluster, tmp_path: Path, killed: str
) -> None:
    payer, till, note = AgentId("payer", "p"), AgentId("till", "t"), tmp_path / "note"
    pools = {"payers": await cluster.pool("payers", agents=PAYERS), "tills": await cluster.pool("tills", agents=TILLS)}
    pods = {}
    for name, pool in pools.items():
        await pool.map(f"{name}-0")
        pods[name] = pool.start(f"{name}-0")
        await pool.owns(f"{name}-0", 0)
    async with cluster.client() as mesh:
        await mesh.send(payer, PayAt(till.key, Pay(5, 0.5, str(note))))

        async def in_the_middle() -> bool:
            return len(await lines(note)) == 1

        await cluster.until(in_the_middle)
        pods[killed].kill()
        assert await pods[killed].ended() == -9
        pools[killed].start(f"{killed}-0")
        assert await told(mesh, payer, 1) == Money(5, 1)
        assert await told(mesh, till, 1) == Money(5, 1)
        assert len(await lines(note)) == (2 if killed == "tills" else 1)


@pytest.mark.row("RT-45", part="a turn of 120 s, 1000 messages beside it, a kill that repeats only it", completes=True)
async def test_a_turn_of_minutes_holds_up_only_its_agent_and_a_kill_repeats_only_that_turn(
    cluster: Cluster, tmp_path: Path
) -> None:
    pool, note = await cluster.pool(), tmp_path / "note"
    await pool.map("w-0")
    pod = pool.start("w-0")
    keys = [AgentId("recorder", f"k{number}") for number in range(20)]
    async with cluster.client() as mesh:
        await mesh.send(AgentId("sleeper", "deep"), Nap(120.0, str(note)))
        for value in range(1, 51):
            await asyncio.gather(*(mesh.send(key, Numbered("me", value)) for key in keys))
        for _ in range(2):  # before the kill and after it
            for key in keys:
                record = Record()
                while record.count < 50:
                    record = await mesh.call(key, Tell(), timeout=60)
                assert (record.count, record.wrong) == (50, [])
            pod.kill()
            await pod.ended()
            pod = pool.start("w-0")

        async def again() -> bool:
            return len(await lines(note)) >= 2

        await cluster.until(again)


@pytest.mark.row("RT-42", part="a passivated agent is woken 12 times, none doubled over a kill", completes=True)
async def test_a_sleeping_agent_is_woken_at_each_interval_once_over_a_kill_until_it_takes_the_timer_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    mouse, note = AgentId("dormouse", "d"), tmp_path / "note"
    pool = await cluster.pool("mice", agents={"dormouse": f"{CODE}Dormouse"})
    await pool.map("mice-0")
    pod = pool.start("mice-0")
    async with cluster.client() as mesh:
        await mesh.send(mouse, Rouse(str(note)))

        async def slept(times: int) -> bool:
            return len(await lines(note)) >= times

        await cluster.until(lambda: slept(6))  # nobody asks it: the timer alone wakes it in between
        pod.kill()
        await pod.ended()
        pool.start("mice-0")
        await cluster.until(lambda: slept(13))
        await mesh.send(mouse, Rouse(str(note), on=False))
        woken = (await mesh.call(mouse, Tell(), timeout=60)).times
        assert len(woken) >= 12
        assert all(after - before >= 1500 for before, after in pairwise(woken)), woken
        await asyncio.sleep(3.5)  # as long as two more would take
        assert (await mesh.call(mouse, Tell(), timeout=60)).times == woken


@pytest.mark.row("RT-46", part="killed after the mail: one key; killed after the step: one call", completes=True)
@pytest.mark.parametrize(("dies_after", "mails"), [("step", 1), ("mail", 2)])
async def test_a_killed_turn_pays_for_its_step_once_and_has_one_key_for_the_outside(
    cluster: Cluster, tmp_path: Path, dies_after: str, mails: int
) -> None:
    payer = AgentId("payer", "p")
    pool = await cluster.pool("payers", agents=PAYERS)
    await pool.map("payers-0")
    pod = pool.start("payers-0")
    async with cluster.client() as mesh:
        await mesh.send(payer, Order(str(tmp_path), dies_after))
        assert await pod.ended() == 7
        pool.start("payers-0")
        assert await told(mesh, payer, 1) == Money(42, 1)
    assert await lines(tmp_path / "asked") == ["asked"]
    accepted = await lines(tmp_path / "mails")
    assert len(accepted) == mails
    assert len(set(accepted)) == 1  # a mail server that knows keys counts one


@pytest.mark.row("RT-41", part="over a restart of the server, not before its time", completes=True)
async def test_a_delayed_message_comes_once_and_not_too_early_over_a_restart_of_the_server(
    private_cluster: Cluster, tmp_path: Path
) -> None:
    pool, note = await private_cluster.pool(), tmp_path / "note"
    await pool.map("w-0")
    pool.start("w-0")
    await pool.owns("w-0", 0)
    async with private_cluster.client() as mesh:
        began = time.time()
        await mesh.send(AgentId("sleeper", "k"), Nap(0.0, str(note)), delay=2.0)
        await private_cluster.server.restart()

        async def came() -> bool:
            return bool(await lines(note))

        await private_cluster.until(came)
        delay = (await asyncio.to_thread(os.stat, note)).st_mtime - began
        print(f"a delay of 2 s over a restart of the server took {delay:.2f} s")
        assert delay >= 2.0 - 0.05  # the store's clock, in milliseconds, and a file system's
        await mesh.send(AgentId("sleeper", "k"), Nap(0.0, str(note)), delay=1.0)

        async def next_came() -> bool:
            return len(await lines(note)) >= 2

        await private_cluster.until(next_came)
        assert len(await lines(note)) == 2
