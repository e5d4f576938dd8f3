"""The check: the state of every aircraft and airport, read from the agents themselves and compared with the file.

python -m examples.flights.check --nats nats://127.0.0.1:4222
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict
from typing import Final, TypeVar

from starling import Mesh, connect
from starling.errors import CallTimeout, MeshError, RetryLater

from examples.flights.expected import Comparison, Expected, Fields, compare, expected
from examples.flights.flights import Aircraft, AircraftState, Airport, AirportState, Ask
from examples.flights.replay import Row, arguments, feed, key_of, read_rows

S = TypeVar("S")

AT_ONCE: Final = 64
CALL_TIMEOUT: Final = 20.0
TRIES: Final = 3
LOOK: Final = 1.0
QUIET: Final = 15.0
PATIENCE: Final = 300.0
SHOWN: Final = 20


async def read_states(mesh: Mesh, rows: Sequence[Row]) -> Expected:
    """Ask every aircraft and airport of the rows for its state. Raises CallTimeout, RetryLater after some tries."""
    tails = {key_of(row) for row in rows}
    aircraft = await _read_all(tails, lambda tail: _aircraft(mesh, tail))
    airports = await _airports(mesh, rows)
    return Expected({tail: asdict(state) for tail, state in aircraft.items()}, airports)


async def _aircraft(mesh: Mesh, tail: str) -> AircraftState:
    return await mesh.agent(Aircraft, tail).read(Ask(), timeout=CALL_TIMEOUT)


async def _airport(mesh: Mesh, code: str) -> AirportState:
    return await mesh.agent(Airport, code).read(Ask(), timeout=CALL_TIMEOUT)


async def _airports(mesh: Mesh, rows: Sequence[Row]) -> dict[str, Fields]:
    codes = {row.origin for row in rows} | {row.dest for row in rows}
    states = await _read_all(codes, lambda code: _airport(mesh, code))
    return {code: asdict(state) for code, state in states.items()}


async def _read_all(keys: Collection[str], read: Callable[[str], Awaitable[S]]) -> dict[str, S]:
    found: dict[str, S] = {}
    todo = iter(sorted(keys))

    async def work() -> None:
        for key in todo:
            found[key] = await _persistent(read, key)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(AT_ONCE, len(keys))):
            tasks.create_task(work(), name="reads states")
    return found


async def _persistent(read: Callable[[str], Awaitable[S]], key: str) -> S:
    """A shard may be on the move: reading is asked again, a few times."""
    for _ in range(TRIES - 1):
        try:
            return await read(key)
        except (CallTimeout, RetryLater):
            continue
    return await read(key)


async def wait_until_handled(
    mesh: Mesh, rows: Sequence[Row], *, patience: float = PATIENCE, quiet: float = QUIET
) -> int:
    """Wait until the airports have seen both ends of every flight; return how many ends they have seen.

    An airport hears of a flight only after the aircraft's turn is committed, so that nothing is under way then.
    Fewer come back when nothing changed for `quiet` seconds, or after `patience` seconds.
    """
    loop = asyncio.get_running_loop()
    started = changed = loop.time()
    total = await _movements(mesh, rows)
    while loop.time() - started < patience and loop.time() - changed < quiet:
        await asyncio.sleep(LOOK)
        now = await _movements(mesh, rows)
        if now == total and now >= 2 * len(rows):
            break
        if now != total:
            total, changed = now, loop.time()
    return total


async def _movements(mesh: Mesh, rows: Sequence[Row]) -> int:
    airports = await _airports(mesh, rows)
    return sum(airport["departures"] + airport["arrivals"] for airport in airports.values())


async def replay_and_check(mesh: Mesh, rows: Sequence[Row]) -> Comparison:
    """Publish the rows, wait until they are handled, and compare every state."""
    await feed(mesh, rows)
    await wait_until_handled(mesh, rows)
    return compare(expected(rows), await read_states(mesh, rows))


async def check(nats: str, mesh: str, every: int) -> Comparison:
    """Wait until all is handled and compare; for a replay that somebody else made."""
    rows = await asyncio.to_thread(read_rows, every=every)
    async with connect(nats, mesh=mesh, name="flights-check") as client:
        await wait_until_handled(client, rows)
        return compare(expected(rows), await read_states(client, rows))


def main() -> int:
    """Return the exit code: 1 when a state is not what it should be."""
    given = arguments("Compare every aircraft and airport with the file.").parse_args()
    try:
        comparison = asyncio.run(check(given.nats, given.mesh, given.every))
    except MeshError as error:
        sys.exit(f"check: {error}")
    for line in comparison.differences[:SHOWN]:
        print(line)
    print(comparison)
    return 0 if comparison.is_same else 1


if __name__ == "__main__":
    sys.exit(main())
