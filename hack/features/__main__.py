"""The page of features.

    python -m hack.features            write docs/features.md
    python -m hack.features --check    say whether it is out of date, and change nothing

Exit codes: 0, 1 out of date, a mark that no table knows, or tests that cannot be collected.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hack.features.marks import CollectionFailed, collect
from hack.features.page import page, unknown
from hack.features.tables import TableError, read_tables

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "features.md"


def main() -> int:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    try:
        rows, marks = read_tables(ROOT / "docs" / "requirements"), collect(ROOT)
    except (TableError, CollectionFailed) as error:
        print(f"features: {error}", file=sys.stderr)
        return 1
    if wrong := unknown(rows, marks):
        print("\n".join(f"features: {line}" for line in wrong), file=sys.stderr)
        return 1
    text = page(rows, marks)
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if check:
        print("features: docs/features.md is out of date: run `make features`", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print("written: docs/features.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
