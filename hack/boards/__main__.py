"""Boards for Grafana.

    python -m hack.boards generate                    write the boards into the chart
    python -m hack.boards lint                        check them without a server
    python -m hack.boards verify --prometheus URL     run every query; an error or an empty answer fails

Exit codes: 0, 1 failed, 2 usage, 3 no Prometheus at the address.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from hack.boards.board import targets
from hack.boards.lint import findings
from hack.boards.verify import NoPrometheus, Window, problems

FOLDER = Path(__file__).parents[2] / "charts" / "starling" / "files" / "dashboards"


def generate() -> int:
    """Write every board."""
    from hack.boards.build import text_of
    from hack.boards.content import BOARDS

    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, board in BOARDS.items():
        (FOLDER / name).write_text(text_of(board))
        print(f"written: {name}")
    return 0


def lint(files: list[Path]) -> int:
    """Print what is wrong with the boards."""
    wrong = [f"{path.name}: {finding}" for path in files for finding in findings(json.loads(path.read_text()))]
    return _told(wrong, f"{len(files)} board(s) fine")


def verify(files: list[Path], url: str, window: Window) -> int:
    """Run the boards' queries and print which panels have no data, or an error."""
    wrong, asked = [], 0
    for path in files:
        board = json.loads(path.read_text())
        asked += sum(1 for _ in targets(board))
        try:
            wrong += [f"{path.name}: {problem}" for problem in problems(board, url, window)]
        except NoPrometheus as error:
            print(f"boards: {error}", file=sys.stderr)
            return 3
    return _told(wrong, f"{asked} queries returned data")


def _told(wrong: list[str], fine: str) -> int:
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(wrong)} problem(s)" if wrong else fine)
    return 1 if wrong else 0


def main() -> int:
    """Read the command line and do it."""
    given = _parser().parse_args()
    if given.what == "generate":
        return generate()
    files = given.board or sorted(FOLDER.glob("*.json"))
    if not files:
        print(f"boards: none in {FOLDER.name}; `python -m hack.boards generate` writes them", file=sys.stderr)
        return 1
    if given.what == "lint":
        return lint(files)
    return verify(files, given.prometheus, Window(given.minutes * 60, given.step, given.rate_interval))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hack.boards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("generate")
    for name in ("lint", "verify"):
        command = commands.add_parser(name)
        command.add_argument("--board", type=Path, action="append", default=[], help="a board's file; default: all")
        if name == "verify":
            command.add_argument("--prometheus", required=True, type=_address, metavar="URL")
            command.add_argument("--minutes", type=_positive, default=5.0, help="how far back (default 5)")
            command.add_argument("--step", type=_positive, default=5.0, help="seconds between points (default 5)")
            command.add_argument("--rate-interval", type=_duration, default="1m", help="default 1m")
    return parser


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no address such as http://127.0.0.1:9090")
    return text


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _duration(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(ms|s|m|h)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 30s or 1m")
    return text


if __name__ == "__main__":
    sys.exit(main())
