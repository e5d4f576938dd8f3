"""Writes the definitions of all kinds into a folder, or says which of its files differ.

python -m starling_operator.api.generate [--check] crds/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from starling_operator.api.crd import definitions


def differing(folder: Path) -> list[str]:
    """Return the names of files that are missing, differ, or define nothing of ours; sorted."""
    wanted = definitions()
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def write(folder: Path) -> list[str]:
    """Bring the folder up to date; return the names of the files that changed."""
    changed = differing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = definitions()
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 when `--check` found a difference."""
    parser = argparse.ArgumentParser(prog="python -m starling_operator.api.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file differs")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    names = differing(given.folder) if given.check else write(given.folder)
    for name in names:
        word = "differs from the models: run `make crds`" if given.check else "written"
        sys.stdout.write(f"{given.folder / name}: {word}\n")
    return 1 if given.check and names else 0


if __name__ == "__main__":
    sys.exit(main())
