"""Runs seeds: one, or many on all cores."""

from __future__ import annotations

import logging
import multiprocessing
import random
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from unittest.mock import patch

from starling.adapters.memory import contents
from starling.core import due, limits
from starling.engine import commit, janitor, objects, sweep, table

from .control import ControlWorld
from .large import has_large
from .loop import Stuck, VirtualLoop, run
from .pods import PodWorld
from .shards import ShardWorld
from .world import World

MOST_PASSES = 400_000
"""Passes of the loop after which a run is taken to spin."""


MUCH_PURGED = 0.5
"""Of the seeds with real workers: their owners purge all the time."""


class Result(NamedTuple):
    """How a seed ended. trace: empty unless asked for."""

    seed: int
    problems: tuple[str, ...]
    trace: tuple[str, ...] = ()


def run_seed(seed: int, *, trace: bool = False) -> Result:
    """Run one seed; the same seed runs the same way, on any machine."""
    chance = random.Random(f"loop {seed}")
    loop = VirtualLoop(chance)
    lines: list[str] = []

    def note(text: str) -> None:
        lines.append(f"{loop.time():9.4f}  {text}")

    world = world_of(seed)(seed, loop, note if trace else None)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with small_limits(random.Random(f"limits {seed}")), large_values(seed), much_purged(seed):
            run(loop, world.run)
    except Stuck as error:
        world.fail("stuck", error)
    except Exception as error:
        world.fail("the run failed", error)
    finally:
        logging.disable(before)
    return Result(seed, tuple(world.problems), tuple(lines))


def world_of(seed: int) -> type[World]:
    """Which kind of world a seed is: every fifth has real workers, every other one of these the real operator."""
    if seed % 5 != 4:
        return ShardWorld
    return ControlWorld if seed % 10 == 9 else PodWorld


@contextmanager
def small_limits(chance: random.Random) -> Iterator[None]:
    """Limits that a small world reaches: snapshots, windows, read-ahead, times of the table."""
    with ExitStack() as stack:

        def put(where: object, name: str, *values: float) -> None:
            stack.enter_context(patch.object(where, name, chance.choice(values)))

        put(limits, "SNAPSHOT_RECORDS", 3, 10, 4096)
        put(limits, "WINDOW", 2, 5, 4096)
        put(limits, "READ_AHEAD_MESSAGES", 1, 3, 1024)
        put(limits, "MAX_COMMIT", 300, 512 * 1024)
        put(limits, "PARK_FROM", 1, 3, 2048)
        put(limits, "PARKED_IN_MEMORY", 1, 64)
        put(limits, "MAX_TURN_TARGETS", 1, 1000)
        put(limits, "PIECE_BYTES", 150, 128 * 1024)
        put(due, "BUCKET_BYTES", 100, 128 * 1024)
        put(limits, "STORE_TIMEOUT", 1.0, 5.0)
        put(commit, "SETTLE", 0.2, 1.0)
        put(janitor, "INTERVAL", 0.2, 1.0)
        put(table, "QUIET", 0.0, 1.0)
        put(table, "PATIENCE", 0.5, 5.0)
        put(table, "ROUND", 0.1, 0.5)
        yield


@contextmanager
def much_purged(seed: int) -> Iterator[None]:
    """Where a seed has journals of a few records, over small pages: an owner purges what the next one reads ahead."""
    with ExitStack() as stack:
        if world_of(seed) is PodWorld and random.Random(f"purges {seed}").random() < MUCH_PURGED:
            for where, name, value in (
                (limits, "SNAPSHOT_RECORDS", 2),
                (janitor, "INTERVAL", 0.05),
                (table, "QUIET", 0.0),
                (table, "ROUND", 0.05),
                (contents, "_PAGE_MESSAGES", 1),
            ):
                stack.enter_context(patch.object(where, name, value))
        yield


@contextmanager
def large_values(seed: int) -> Iterator[None]:
    """Where a seed has large values: what is large, mostly a few hundred bytes, and objects of many chunks."""
    chance = random.Random(f"large limits {seed}")
    with ExitStack() as stack:
        if has_large(seed):
            small = chance.random() < 0.9
            if small:
                stack.enter_context(patch.object(limits, "MAX_BODY", 200))
            stack.enter_context(patch.object(objects, "CHUNK", chance.choice((64, 1024) if small else (128 * 1024,))))
            stack.enter_context(patch.object(sweep, "INTERVAL", chance.choice((0.3, 1.0))))
        yield


def run_many(seeds: Sequence[int], *, workers: int) -> Iterator[Result]:
    """Run seeds on several cores; results come as they end."""
    if workers == 1:
        yield from map(run_seed, seeds)
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap_unordered(run_seed, seeds, chunksize=8)
        pool.close()
        pool.join()


class Rate:
    """How many seeds a second, and how many one core would do alone, by the processor time that they took."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), _processor_seconds()

    def text(self, count: int) -> str:
        seconds, used = time.perf_counter() - self._start[0], _processor_seconds() - self._start[1]
        return f"{count / max(seconds, 1e-9):.1f} seeds/s, {count / max(used, 1e-9):.1f} a core"


def _processor_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)
