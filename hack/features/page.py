"""What the marks say of the rows, and the page that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import groupby

from hack.features.marks import Mark
from hack.features.tables import TRAPS, Row

HEAD = """\
<!-- Written by `make features` from the tests' marks: change the tests, not this page. -->
# Features

Each row of the [requirement tables](requirements/README.md), and the tests that make its observation.
**done**: a test observes all of it. **partly**: tests observe the parts named. **open**: no test says so yet.
"""


class State(StrEnum):
    """How far a row is."""

    DONE = "done"
    PARTLY = "partly"
    OPEN = "open"


def unknown(rows: Mapping[str, Row], marks: Iterable[Mark]) -> list[str]:
    """Return a line for every mark that no table knows."""
    return [f"{mark.test}: no table has a row {mark.row}" for mark in marks if mark.row not in rows]


def states(rows: Mapping[str, Row], marks: Iterable[Mark]) -> dict[str, State]:
    """Return each row's state, by id. A trap without a test of its own is as far as the rows that cover it."""
    made = dict.fromkeys(rows, State.OPEN)
    for mark in marks:
        if not mark.part or mark.completes:
            made[mark.row] = State.DONE
        elif made[mark.row] is State.OPEN:
            made[mark.row] = State.PARTLY
    for row in rows.values():
        if made[row.id] is State.OPEN and row.covered_by:
            covering = {made.get(other, State.OPEN) for other in row.covered_by}
            if covering == {State.DONE}:
                made[row.id] = State.DONE
            elif covering != {State.OPEN}:
                made[row.id] = State.PARTLY
    return made


def page(rows: Mapping[str, Row], marks: Sequence[Mark]) -> str:
    """Return the page, in Markdown."""
    by_state = states(rows, marks)
    lines = [HEAD, *_summary(rows, by_state)]
    for table, members in groupby(rows.values(), key=lambda row: row.table):
        lines += ["", f"## [{table}](requirements/{table}.md)", ""]
        lines += ["| row | tier | what | state | tests |", "|---|---|---|---|---|"]
        for row in members:
            tests = "<br>".join(_tests(row, marks)) or ", ".join(f"by {other}" for other in row.covered_by)
            lines.append(f"| {row.id} | {row.tier} | {row.item} | {by_state[row.id]} | {tests} |")
    return "\n".join(lines) + "\n"


def _summary(rows: Mapping[str, Row], by_state: Mapping[str, State]) -> Iterator[str]:
    yield "| rows | done | partly | open | all |"
    yield "|---|---|---|---|---|"
    groups: dict[str, list[str]] = {}
    for row in rows.values():
        groups.setdefault(TRAPS if row.table == TRAPS else f"tier {row.tier}", []).append(row.id)
    for name, ids in sorted(groups.items(), key=lambda group: (group[0] == TRAPS, group[0])):
        counts = [sum(by_state[row_id] is state for row_id in ids) for state in State]
        yield f"| {name} | {' | '.join(map(str, counts))} | {len(ids)} |"


def _tests(row: Row, marks: Iterable[Mark]) -> Iterator[str]:
    for mark in marks:
        if mark.row == row.id:
            file, _, name = mark.test.partition("::")
            part = f" ({mark.part})" if mark.part else ""
            yield f"[{name.replace('_', ' ').removeprefix('test ')}](../{file}){part}"
