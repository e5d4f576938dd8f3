"""The page of the command line, from the program itself.

    python -m hack.commands            write docs/commands.md
    python -m hack.commands --check    say whether it is out of date, and change nothing

Exit codes: 0, 1 out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from starling.cli.app import app

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "commands.md"
HEAD = """\
<!-- Written by `make commands` from the program: change the program, not this page. -->
# The command line

Every command ends with 0 when all is well, 1 when something failed, 2 for wrong arguments or manifests, and 3 when NATS
or the mesh cannot be reached; an error is one clear line. A name in brackets is the environment variable that gives the
option too.
"""


def page() -> str:
    """Return the page, in Markdown."""
    group: Any = typer.main.get_command(app)
    lines = [HEAD]
    for words, command in sorted(_commands(group, ("starling",))):
        lines += [f"## {' '.join(words)}", "", _text(command.help), ""]
        rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            lines += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        elif not command.hidden:
            yield (*words, name), command


def _row(parameter: Any) -> str:
    option = parameter.param_type_name == "option"
    name = ", ".join([*parameter.opts, *parameter.secondary_opts]) if option else str(parameter.name).upper()
    variable = f" [{parameter.envvar}]" if option and parameter.envvar else ""
    text = _text(parameter.help)
    default = parameter.default
    if option and default not in (None, False, ()) and not callable(default):
        text = f"{text} (default {default})" if text else f"default {default}"
    return f"| `{name}`{variable} | {text.replace('|', chr(92) + '|')} |"


def _text(help_text: str | None) -> str:
    """Return a help text without the marks of the terminal's."""
    return re.sub(r"\s+", " ", (help_text or "").replace("\b", "").replace("\f", "")).strip()


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.commands", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = page()
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if check:
        print("commands: docs/commands.md is out of date: run `make commands`", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print("written: docs/commands.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
