"""`python -m benchmarks.faults`: every fault on real servers, one line per row; writes build/faults.json.

The file is written after each row, so that a run that is stopped was not in vain: "missing" names the rows to come.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import uvloop
from starling.engine.faults import Point

from benchmarks.environment import environment
from benchmarks.faults import cluster, messages, producer, servers, workers
from benchmarks.faults.trial import Report
from benchmarks.kept import keep

Row = Callable[[Path, Report], Awaitable[None]]

ROW_TIMEOUT: Final = 420.0
LONG: Final = {"wire-garbage": 1800.0}

ROWS: Final[Mapping[str, Row]] = {
    "worker-killed-mid-turn": workers.killed_mid_turn,
    "worker-killed-for-good": workers.killed_for_good,
    **{f"worker-killed-at-{point.value}": partial(workers.killed_at, point) for point in Point},
    "worker-frozen": workers.frozen,
    "worker-frozen-shortly": workers.frozen_shortly,
    "worker-cut-off": workers.cut_off,
    "connections-dropped": workers.cut_shortly,
    "shards-moved": workers.moved,
    "worker-killed-while-moving": workers.killed_while_moving,
    "without-control-plane": workers.without_control_plane,
    "clock-jumps": workers.clock_jumps,
    "everything-restarted": workers.everything_restarted,
    "everything-frozen": workers.everything_frozen,
    "producer-killed": producer.killed,
    "server-killed": servers.killed_one,
    "server-frozen": servers.frozen_one,
    "cluster-leader-killed": servers.leader_killed,
    "cluster-follower-killed": servers.follower_killed,
    "cluster-leader-frozen": servers.leader_frozen,
    "cluster-follower-frozen": servers.follower_frozen,
    "cluster-restarted": servers.all_restarted,
    "cluster-route-one-way": cluster.route_one_way,
    "cluster-leaders-step-down": cluster.leaders_step_down,
    "cluster-storage-gone": cluster.storage_gone,
    "storage-full": servers.storage_full,
    "mailbox-full": servers.mailbox_full,
    "poison": messages.poison,
    "deadly-message": messages.deadly,
    "oversize": messages.oversize,
    "unknown-types": messages.unknown_types,
    "wire-garbage": messages.garbage,
}


async def run(rows: Mapping[str, Row], *, folders: Path | None, target: Path, quick: bool) -> list[Report]:
    """Run rows one after the other; a row that breaks is a failed row. What is known is in `target` after each.

    folders: where data and logs are kept, None: nowhere.
    """
    reports: list[Report] = []
    taken_on = environment()
    for number, (name, row) in enumerate(rows.items(), 1):
        report = Report(name)
        started = time.monotonic()
        with _folder(folders, name) as folder:
            try:
                async with asyncio.timeout(LONG.get(name, ROW_TIMEOUT)):
                    await row(folder, report)
            except Exception as error:
                report.failures.append(_text(error))
        report.seconds = time.monotonic() - started
        reports.append(report)
        print(report.line(), flush=True)
        value = {
            "environment": taken_on,
            "quick": quick,
            "missing": list(rows)[number:],
            "rows": [each.as_json() for each in reports],
        }
        keep(value, target)
    return reports


@contextmanager
def _folder(kept: Path | None, name: str) -> Iterator[Path]:
    """A folder for a row's data and logs, removed afterwards unless they are to be kept."""
    if kept is not None:
        yield kept.absolute() / name
        return
    with tempfile.TemporaryDirectory(prefix="starling-faults-") as made:
        yield Path(made) / name


def _text(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_text(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"[-400:]


def main() -> int:
    """Return the exit code: 1 when a row failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row; may be given again")
    parser.add_argument("--quick", action="store_true", help="20,000 garbage frames instead of a million")
    parser.add_argument("--json", type=Path, default=Path("build/faults.json"), help="file to write after each row")
    parser.add_argument("--keep", type=Path, help="keep data and logs of every row in this folder")
    given = parser.parse_args()
    rows = {name: ROWS[name] for name in given.only or ROWS}
    if given.quick and "wire-garbage" in rows:
        rows["wire-garbage"] = messages.garbage_quick
    reports = uvloop.run(run(rows, folders=given.keep, target=given.json, quick=given.quick))
    bad = [report.name for report in reports if not report.ok]
    print(f"{len(reports)} rows, {len(bad)} failed{': ' + ', '.join(bad) if bad else ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
