"""A worker in waiting: everything is imported; who it is to be, it reads from its standard input."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from importlib import import_module

READY = "ready"


def main() -> int:
    """Say that everything is imported, wait for one line of JSON (environment, output), and be that worker.

    output: file to which standard output and error go from then on. Ends with 0 when the line does not come.
    """
    from starling.node import worker

    for name in ("starling.adapters.nats", "starling.node.logs", "uvloop"):  # what a worker imports later
        with suppress(ImportError):  # uvloop is not everywhere
            import_module(name)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        return 0
    given = json.loads(line)
    _redirect(given["output"])
    os.environ.clear()
    os.environ.update(given["environment"])
    return worker.main()


def _redirect(output: str) -> None:
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(nothing)
    os.close(out)
