"""Messages that do harm: poison, one that kills the process, too large, unknown, garbage on the wire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgpack
import nats
from starling.core.ids import AgentId, PoolName, ShardId
from starling.core.names import MeshNames
from starling.errors import CallFailed, MeshError, TooLarge

from benchmarks.agents import Bad, Deadly, Parcel
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
        await it.client.send(AgentId("trouble", "deadly"), Deadly(), timeout=30)
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
        since = it.now
        epochs = it.mesh.epochs()
        restarts = await _restarts(it)
        connection = await nats.connect(it.mesh.url)
        try:
            sent = 0
            for subject, body, headers in _frames(it.mesh.options.shards, frames, random.Random(7)):
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


def _frames(shards: int, count: int, chance: random.Random) -> Iterator[tuple[str, bytes, dict[str, str] | None]]:
    """Yield subject, body and headers: random bytes, wrong msgpack, true frames with bytes changed, wrong headers."""
    names = MeshNames(MESH).pool(PoolName(POOL))
    genuine = [_genuine(kind, key) for kind in ("counter", "nobody") for key in ("garbage1", "garbage2")]
    for number in range(count):
        shard = ShardId(chance.randrange(shards))
        lane = chance.choice(("o.n", "o.u", "f.n", "f.u", "o.n"))
        mailbox = names.mailbox_subjects(shard).removesuffix(">")
        subject = chance.choice((f"{mailbox}{lane}",) * 8 + (names.queries(shard), names.taken(shard)))
        kind = number % 5
        if kind == 0:
            yield subject, chance.randbytes(chance.randrange(200)), None
        elif kind == 1:
            yield subject, msgpack.packb(_value(chance, 3)), {"St-V": "1"}
        elif kind == 2:
            yield subject, _mutated(chance.choice(genuine), chance), {"St-V": "1"}
        elif kind == 3:
            headers = {"St-V": "1", "St-Src": f"garbage.{shard}", "St-No": _word(chance), "St-Prev": _word(chance)}
            yield subject, chance.choice(genuine), headers
        else:
            yield subject, chance.choice(genuine), {"St-V": _word(chance), "St-Settled": _word(chance)}


def _genuine(kind: str, key: str) -> bytes:
    body = {"i": "garbage", "t": "Add", "b": b'{"amount":0}', "a": f"{kind}/{key}", "c": 1}
    return bytes(msgpack.packb([body]))


def _mutated(frame: bytes, chance: random.Random) -> bytes:
    changed = bytearray(frame)
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(changed))
        match chance.randrange(3):
            case 0:
                changed[place] = chance.randrange(256)
            case 1:
                del changed[place:]
                changed += b"\x00"
            case _:
                changed[place:place] = chance.randbytes(3)
    return bytes(changed)


def _value(chance: random.Random, depth: int) -> object:
    match chance.randrange(6 if depth else 4):
        case 0:
            return chance.randrange(-(2**40), 2**40)
        case 1:
            return chance.randbytes(8)
        case 2:
            return None
        case 3:
            return "garbage"
        case 4:
            return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
        case _:
            keys = ("i", "t", "b", "a", "c", "h", "ch", "dl")
            return {chance.choice(keys): _value(chance, depth - 1) for _ in range(chance.randrange(4))}


def _word(chance: random.Random) -> str:
    return chance.choice(("", "-1", "0", "1", "99999999999999999999", "x", "1.5", "\u00e9", str(chance.random())))
