"""What the chart carries of the rest of the repository, kept equal to it.

    python -m hack.chart            copy crds/*.yaml, write the boards and the README's table of values
    python -m hack.chart --check    say what is out of date, and change nothing

Exit codes: 0, 1 out of date or nothing to copy.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from hack.boards.build import text_of
from hack.boards.content import BOARDS

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "starling"
BEGIN, END = "<!-- values -->", "<!-- /values -->"
LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w.-]+):(?: (?P<value>.+))?$")


class ChartError(Exception):
    """The repository lacks something that the chart needs; the text says what to do."""


def wanted(root: Path = ROOT) -> dict[Path, str]:
    """Return the generated files of the chart: path below the chart to text. Raises ChartError."""
    definitions = sorted((root / "crds").glob("*.yaml"))
    if not definitions:
        raise ChartError("crds/: no definitions there; `make crds` writes them")
    chart = root / "charts" / "starling"
    files = {Path("files/crds") / path.name: path.read_text() for path in definitions}
    files |= {Path("files/dashboards") / name: text_of(board) for name, board in BOARDS.items()}
    readme = (chart / "README.md").read_text()
    files[Path("README.md")] = with_table(readme, table((chart / "values.yaml").read_text()))
    return files


def stale(chart: Path, files: Mapping[Path, str]) -> list[Path]:
    """Return the files below the chart that differ from `files`, are missing, or have no origin any more."""
    differing = [path for path, text in files.items() if not _same(chart / path, text)]
    folders = {path.parent for path in files if path.parts[0] == "files"}
    there = {path.relative_to(chart) for folder in folders for path in (chart / folder).glob("*")}
    return sorted({*differing, *(there - files.keys())})


def sync(chart: Path, files: Mapping[Path, str]) -> list[Path]:
    """Make the chart's files equal to `files`; return which were changed."""
    changed = stale(chart, files)
    for path in changed:
        if path in files:
            (chart / path).parent.mkdir(parents=True, exist_ok=True)
            (chart / path).write_text(files[path])
        else:
            (chart / path).unlink()
    return changed


def table(values: str) -> str:
    """Return a Markdown table of a values.yaml: each value's path, default, and the comment above it."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    rows += [f"| `{path}` | {default} | {text} |" for path, default, text in _entries(values)]
    return "\n".join(rows)


def with_table(readme: str, text: str) -> str:
    """Return the README with this table between its marks. Raises ChartError when it has none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ChartError(f"charts/starling/README.md: no {BEGIN} and {END} around the table of values")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def _entries(values: str) -> Iterator[tuple[str, str, str]]:
    path: list[str] = []
    comments: list[str] = []
    depth = -1  # of a value that is written over several lines and shown as one
    for line in values.splitlines():
        if line.strip().startswith("#"):
            comments.append(line.strip().lstrip("# "))
            continue
        found = LINE.match(line)
        if found is None or (depth >= 0 and len(found["indent"]) > depth):
            comments = []
            continue
        level = len(found["indent"]) // 2
        path = [*path[:level], found["key"]]
        depth = len(found["indent"]) if found["key"] == "resources" else -1
        default = _shown(values, path) if found["value"] is not None or depth >= 0 else ""
        if default or comments:
            yield ".".join(path), default, " ".join(comments)
        comments = []


def _shown(values: str, path: list[str]) -> str:
    value = yaml.safe_load(values)
    for key in path:
        value = value[key]
    return f"`{json.dumps(value)}`"


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def main() -> int:
    """Copy, or check."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.chart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    try:
        files = wanted()
    except ChartError as error:
        print(f"chart: {error}", file=sys.stderr)
        return 1
    changed = stale(CHART, files) if check else sync(CHART, files)
    for path in changed:
        print(f"{'out of date' if check else 'written'}: charts/starling/{path}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
