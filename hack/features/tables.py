"""The requirement tables, read from docs/requirements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROW = re.compile(r"^\| (?P<id>[A-Z]+-\d+) \|")
CELL = re.compile(r"(?<!\\)\|")
TRAPS = "traps"


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement. table: its file without the ending; tier: A, B or C; empty for a trap."""

    id: str
    table: str
    tier: str
    item: str
    covered_by: tuple[str, ...] = ()
    """Of a trap: the rows whose tests cover it."""


class TableError(Exception):
    """A table cannot be read; the text names the file and the line."""


def read_tables(folder: Path) -> dict[str, Row]:
    """Return all rows by id, in the order of the files and of their lines. Raises TableError."""
    rows: dict[str, Row] = {}
    for path in sorted(folder.glob("*.md")):
        if path.stem == "README":
            continue
        for row in _rows(path):
            if row.id in rows:
                raise TableError(f"{path.name}: {row.id} is there twice")
            rows[row.id] = row
    if not rows:
        raise TableError(f"{folder}: no tables there")
    return rows


def _rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if (found := ROW.match(line)) is None:
            continue
        cells = [cell.strip() for cell in CELL.split(line)[1:-1]]
        if path.stem == TRAPS:
            if len(cells) != 4:
                raise TableError(f"{path.name}:{number}: {found['id']} has {len(cells)} cells, not 4")
            covered = tuple(re.findall(r"[A-Z]+-\d+", cells[3]))
            yield Row(found["id"], path.stem, "", cells[1], covered)
        else:
            if len(cells) != 6 or cells[1] not in ("A", "B", "C"):
                raise TableError(f"{path.name}:{number}: {found['id']} has not six cells with tier A, B or C second")
            yield Row(found["id"], path.stem, cells[1], cells[2])
