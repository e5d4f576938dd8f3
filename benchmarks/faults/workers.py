"""Workers that die, freeze, lose their network, are sent home, or see the clock jump."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from starling.adapters.nats.server import HOST, free_port
from starling.engine.faults import Point

from benchmarks.checked import CheckedLoad
from benchmarks.faults.proxy import Proxy
from benchmarks.faults.trial import Report, Trial, trial

CUT = 14.0
"""Seconds: longer than a member's key lives (10 s)."""
STILL = 35.0
"""Seconds: longer than a member's key lives, than orphans wait (15 s), and than the server knows ids (30 s)."""


async def killed_mid_turn(folder: Path, report: Report) -> None:
    """SIGKILL of a worker whose turns take 20 ms, three times."""
    async with trial(folder, report, seconds_of_turn=0.02) as it:
        for pod in ("bench-0", "bench-1", "bench-0"):
            since = it.now
            it.mesh.kill(pod)
            await it.recovered(since)
            await it.mesh.ready()


async def killed_for_good(folder: Path, report: Report) -> None:
    """SIGKILL of a worker that does not come back: its shards go to the other."""
    async with trial(folder, report) as it:
        since = it.now
        it.mesh.broken_pods.add("bench-0")
        it.mesh.kill("bench-0")
        await it.recovered(since)
        await it.until("the other pod as the owner of all", lambda: "bench-0" not in it.mesh.owners().values())


async def killed_at(point: Point, folder: Path, report: Report) -> None:
    """The worker ends itself at a point of its work, at the 20th pass (rare points: the first); then it is well."""
    rare = point in (Point.TAKEN, Point.RELEASED, Point.PURGE_SENT)
    async with trial(folder, report) as it:
        before = it.mesh.pid("bench-0")
        it.mesh.environment["bench-0"] = {"STARLING_FAULT": f"{point.value}:{1 if rare else 20}"}
        it.mesh.kill("bench-0", signal.SIGINT)
        if not await it.until("the process that will die", lambda: _pid(it, "bench-0") not in (None, before)):
            return
        doomed = _pid(it, "bench-0")
        it.mesh.environment.clear()  # whoever comes after it lives
        if point is Point.RELEASED:
            await it.mesh.scale(2)
            for shard in sorted(it.mesh.shards_of("bench-0")):  # the new owner may be quicker than the point: try again
                await it.mesh.move(shard, "bench-1")
                with suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        while _pid(it, "bench-0") == doomed:
                            await asyncio.sleep(0.02)
                    break
        if await it.until("death at the point", lambda: _pid(it, "bench-0") != doomed, 45.0):
            await it.recovered(it.now)
            report.facts["died_at"] = point.value


def _pid(it: Trial, pod: str) -> int | None:
    return it.mesh.pods.process_of(pod)


async def frozen(folder: Path, report: Report) -> None:
    """SIGSTOP of a worker in the middle of its turns; others take its shards; then it goes on as if nothing was."""
    async with trial(folder, report, seconds_of_turn=0.01) as it:
        affected = it.mesh.shards_of("bench-0")
        before = it.mesh.epochs()
        since = it.now
        it.mesh.kill("bench-0", signal.SIGSTOP)
        try:
            await it.recovered(since)
            await it.until("a frozen owner's shards are taken", lambda: _is_taken(it, affected, before))
            await asyncio.sleep(max(0.0, CUT - (it.now - since)))
        finally:
            it.mesh.kill("bench-0", signal.SIGCONT)
        await asyncio.sleep(2)  # the load goes on over the zombie's return


async def frozen_shortly(folder: Path, report: Report) -> None:
    """SIGSTOP for three seconds, again and again, at any point of the work."""
    async with trial(folder, report, seconds_of_turn=0.005) as it:
        for number in range(4):
            pod = f"bench-{number % 2}"
            it.mesh.kill(pod, signal.SIGSTOP)
            await asyncio.sleep(3 if number < 2 else 0.7)
            it.mesh.kill(pod, signal.SIGCONT)
            await asyncio.sleep(0.5)
        await it.recovered(it.now)


async def cut_off(folder: Path, report: Report) -> None:
    """The connection of a worker carries nothing for longer than its member key lives; the process goes on."""
    port = free_port()
    async with (
        Proxy(HOST, port) as proxy,
        trial(folder, report, port=port, worker_url=lambda pod: proxy.url if pod == "bench-0" else None) as it,
    ):
        affected = it.mesh.shards_of("bench-0")
        before = it.mesh.epochs()
        since = it.now
        proxy.cut()
        try:
            await it.recovered(since)
            await it.until("a cut-off owner's shards are taken", lambda: _is_taken(it, affected, before))
            await asyncio.sleep(max(0.0, CUT - (it.now - since)))
        finally:
            proxy.heal()
        await asyncio.sleep(3)


def _is_taken(it: Trial, shards: set[int], before: Mapping[int, int]) -> bool:
    """Whether each of these shards has a later owner. Ask while nothing moves: one on its way is nobody's."""
    epochs = it.mesh.epochs()
    return all(epochs.get(shard, 0) > before[shard] for shard in shards)


async def cut_shortly(folder: Path, report: Report) -> None:
    """The connections of both workers are dropped every second."""
    port = free_port()
    async with Proxy(HOST, port) as proxy, trial(folder, report, port=port, worker_url=lambda pod: proxy.url) as it:
        for _ in range(5):
            since = it.now
            proxy.drop()
            await asyncio.sleep(1)
        await it.recovered(since)


async def moved(folder: Path, report: Report) -> None:
    """Every shard is moved to and fro under load, with turns that take 10 ms."""
    async with trial(folder, report, seconds_of_turn=0.01) as it:
        since = it.now
        for _ in range(2):
            for shard, owner in sorted(it.mesh.owners().items()):
                await it.mesh.move(shard, "bench-1" if owner == "bench-0" else "bench-0")
            await it.mesh.ready()
        report.facts["moves"] = 2 * it.mesh.options.shards
        await it.recovered(it.now)
        report.facts["seconds_for_all"] = round(it.now - since, 2)


async def killed_while_moving(folder: Path, report: Report) -> None:
    """SIGKILL of either side in the middle of moves."""
    async with trial(folder, report, seconds_of_turn=0.01) as it:
        for victim in ("bench-0", "bench-1"):
            for shard, owner in sorted(it.mesh.owners().items()):
                await it.mesh.move(shard, "bench-1" if owner == "bench-0" else "bench-0")
            since = it.now
            it.mesh.kill(victim)
            await it.recovered(since)
            await it.mesh.ready()


async def without_control_plane(folder: Path, report: Report) -> None:
    """The control plane is gone and a worker does not come back: the other adopts its shards."""
    async with trial(folder, report) as it:
        it.mesh.controlled = False
        since = it.now
        it.mesh.broken_pods.add("bench-1")
        it.mesh.kill("bench-1")
        await it.recovered(since)


async def clock_jumps(folder: Path, report: Report) -> None:
    """The wall clocks of both workers jump an hour ahead, then two back, then apart, to three hours between them."""
    ahead, back = signal.SIGUSR1, signal.SIGUSR2
    clock = str(Path(__file__).parent / "clock")
    async with trial(folder, report, extra=lambda pod: {"PYTHONPATH": clock}) as it:
        for jumps in ((ahead, ahead), (back, back), (ahead, back)):
            since = it.now
            for pod, jump in zip(it.mesh.names(), jumps, strict=True):
                it.mesh.kill(pod, jump)
            await asyncio.sleep(1)
            await it.recovered(since + 1)
        report.facts["jumps"] = "+3600 s, -7200 s, +3600 s and -7200 s"


async def everything_restarted(folder: Path, report: Report) -> None:
    """Server and workers end at the same moment; everything starts again."""
    async with trial(folder, report) as it:
        since = it.now
        for pod in it.mesh.names():
            os.kill(it.mesh.pid(pod), signal.SIGKILL)
        for server in it.mesh.servers:
            await server.kill()
        await asyncio.sleep(1)
        await asyncio.gather(*(server.start() for server in it.mesh.servers))
        await it.recovered(since)


async def everything_frozen(folder: Path, report: Report) -> None:
    """Server and workers stand still for 35 seconds, then go on: a worker, the server, the other.

    In the middle of their turns and commits. What is sent while they stand still cannot be known to be stored, since
    the server forgets ids meanwhile; so nothing is sent.
    """
    async with trial(folder, report) as it:
        it.load.stop()
        await it.until("the load is at rest", lambda: it.load.accepted == it.load.sent)
        burst = CheckedLoad(it.client, keys=50, seconds_of_turn=0.05, prefix="burst")
        await burst.send([key for _ in range(20) for key in range(burst.keys)])
        first, second = it.mesh.names()
        (server,) = it.mesh.servers
        it.mesh.kill(second, signal.SIGSTOP)
        server.pause()
        it.mesh.kill(first, signal.SIGSTOP)
        await asyncio.sleep(STILL)
        since = it.now
        it.mesh.kill(first, signal.SIGCONT)
        await asyncio.sleep(1)
        server.resume()
        await asyncio.sleep(1)
        it.mesh.kill(second, signal.SIGCONT)
        await it.recovered(since)
        verdict = await burst.verdict()
        report.check(verdict.ok, f"of what they were at: {verdict}")
