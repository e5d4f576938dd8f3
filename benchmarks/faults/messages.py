"""Messages that do harm: poison, one that kills the process, too large, unknown, garbage on the wire."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Final

import nats
from starling.core.ids import AgentId, PoolName
from starling.core.names import MeshNames
from starling.errors import CallFailed, MeshError, TooLarge

from benchmarks.agents import Bad, Lethal, Parcel
from benchmarks.faults.garbage import frames_of_garbage
from benchmarks.faults.trial import Report, Trial, trial
from benchmarks.stage import MESH, POOL

FRAMES: Final = 1_000_000
QUICK_FRAMES: Final = 20_000
BURST: Final = 500
SOON: Final = 2.0


async def poison(folder: Path, report: Report) -> None:
    """Messages that no attempt handles, to agents in every shard: dead letters, and nobody else waits."""
    many = 40
    spec = {"delivery": {"attempts": 3, "initialSeconds": 0.2, "maxSeconds": 0.5, "jitter": False}}
    async with trial(folder, report, spec=spec) as it:
        for number in range(many):
            await it.client.send(AgentId("trouble", f"t{number}"), Bad(), timeout=30)
        await _dead(it, many)
        letters = await it.dead_letters()
        report.check(all(letter.attempts == 3 for letter in letters), "dead letters with another number of attempts")
        report.check(all(letter.reason == "ValueError" for letter in letters), "dead letters with another reason")
        report.facts["dead_letters"] = len(letters)


async def _dead(it: Trial, expected: int, timeout: float = 60.0) -> None:
    """Wait for so many dead letters; more or fewer are a failure."""
    end = it.now + timeout
    while (count := await it.dead_count()) < expected and it.now < end:
        await asyncio.sleep(0.1)
    it.report.check(count == expected, f"{count} dead letters, not {expected}")


async def deadly(folder: Path, report: Report) -> None:
    """A message that kills every process that handles it: it ends as a dead letter, and its shard lives on."""
    async with trial(folder, report) as it:
        since = it.now
        await it.client.send(AgentId("trouble", "deadly"), Lethal(), timeout=30)
        await _dead(it, 1, timeout=120)
        await it.recovered(since)
        report.facts["restarts"] = await _restarts(it)


async def oversize(folder: Path, report: Report) -> None:
    """A message over what a server takes is refused at its sender, by name; the mesh goes on."""
    async with trial(folder, report) as it:
        for _ in range(5):
            try:
                await it.client.call(AgentId("scale", "large"), Parcel("x" * 70_000_000), timeout=30)
            except TooLarge:
                continue
            except MeshError as error:
                report.check(False, f"an oversized message ended with {type(error).__name__}: {error}")
            else:
                report.check(False, "an oversized message was taken")
        await it.recovered(it.now)


async def unknown_types(folder: Path, report: Report) -> None:
    """Unknown agent types and messages: an error within a round trip for calls, a dead letter for the rest."""
    async with trial(folder, report) as it:
        for target, name in ((AgentId("nobody", "x"), "AddNow"), (AgentId("counter", "x"), "NoSuchMessage")):
            since = it.now
            try:
                await it.client.call_raw(target, name, b"{}", timeout=10)
            except (CallFailed, MeshError) as error:
                report.check(it.now - since < SOON, f"{name} to {target}: {type(error).__name__} only after a while")
                report.facts[target.type] = type(error).__name__
            else:
                report.check(False, f"{name} to {target} was answered")
        for number in range(20):
            await it.client.send_raw(AgentId("counter", f"u{number}"), "NoSuchMessage", b"{}", timeout=10)
            await it.client.send_raw(AgentId("counter", f"u{number}"), "Add", b'{"amount": "many"}', timeout=10)
        await _dead(it, 40)
        await it.recovered(it.now)


async def garbage(folder: Path, report: Report) -> None:
    """One million random and mutated frames on every subject that a shard reads; no shard stops."""
    await _garbage(folder, report, FRAMES)


async def garbage_quick(folder: Path, report: Report) -> None:
    """As garbage, 20,000 frames."""
    await _garbage(folder, report, QUICK_FRAMES)


async def _garbage(folder: Path, report: Report, frames: int) -> None:
    async with trial(folder, report, per_second=100, verdict_timeout=180) as it:
        names = MeshNames(MESH).pool(PoolName(POOL))
        since = it.now
        epochs = it.mesh.epochs()
        restarts = await _restarts(it)
        connection = await nats.connect(it.mesh.url)
        try:
            sent = 0
            for subject, body, headers in frames_of_garbage(names, it.mesh.options.shards, frames, random.Random(7)):
                await connection.publish(subject, body, headers=headers)
                sent += 1
                if sent % BURST == 0:
                    await connection.flush(timeout=30)
                    await asyncio.sleep(0.002)
                if sent % 20_000 == 0:
                    await it.recovered(it.now)  # every shard answers while it rains
        finally:
            await connection.close()
        await it.recovered(it.now)
        report.facts.update(frames=sent, seconds_for_all=round(it.now - since, 1), dead_letters=await it.dead_count())
        report.check(await _restarts(it) == restarts, "a worker was started again")
        report.check(it.mesh.epochs() == epochs, "a shard was taken again")


async def _restarts(it: Trial) -> int:
    seen = await it.mesh.pods.observe(POOL)
    return sum(pod.restarts for pod in seen.pods) if seen else 0
