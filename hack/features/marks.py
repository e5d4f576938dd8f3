"""The marks of all tests, as pytest collects them: nothing is run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Mark:
    """A test that carries a row.

    part: what of the row it observes; empty for all of it. completes: with the parts of other tests that is all.
    """

    row: str
    test: str
    part: str = ""
    completes: bool = False


class CollectionFailed(Exception):
    """pytest could not collect the tests; the text is what it printed."""


class _Collector:
    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def pytest_collection_modifyitems(self, items: Iterable[pytest.Item]) -> None:
        seen = set[Mark]()
        for item in items:
            test = item.nodeid.partition("[")[0]
            for mark in item.iter_markers("row"):
                part = str(mark.kwargs.get("part", ""))
                completes = bool(mark.kwargs.get("completes", False))
                seen |= {Mark(str(row), test, part, completes) for row in mark.args}
        self.marks = sorted(seen, key=lambda mark: (mark.test, mark.row, mark.part))


def collect(root: Path) -> list[Mark]:
    """Return the marks of all tests below `root`, sorted by test. Raises CollectionFailed."""
    collector, said = _Collector(), io.StringIO()
    arguments = ["--collect-only", "-qq", "-p", "no:cacheprovider", f"--rootdir={root}", str(root / "tests")]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(arguments, plugins=[collector])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise CollectionFailed(said.getvalue())
    return collector.marks
