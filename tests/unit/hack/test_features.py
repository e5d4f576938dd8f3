"""The page of features: tables read, marks collected, states counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hack.features.marks import Mark
from hack.features.page import State, page, states, unknown
from hack.features.tables import Row, TableError, read_tables

ROOT = Path(__file__).parents[3]
ROWS = {
    "RT-1": Row("RT-1", "runtime", "A", "Accepted means stored"),
    "RT-2": Row("RT-2", "runtime", "B", "One commit"),
    "TR-1": Row("TR-1", "traps", "", "Hash stably", ("RT-1", "RT-2")),
    "TR-2": Row("TR-2", "traps", "", "Make ids once"),
}
TEST = "tests/unit/test_a.py::test_it_holds"


def test_the_tables_of_the_project_are_read_whole() -> None:
    rows = read_tables(ROOT / "docs" / "requirements")
    assert len([row for row in rows.values() if row.tier]) == 293
    assert len([row for row in rows.values() if row.table == "traps"]) == 132
    assert rows["RT-1"] == Row("RT-1", "runtime", "A", "Accepted means stored")
    assert rows["TR-1"].covered_by == ("CP-4", "PROP-54")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("| RT-1 | A | x | x | x | x |\n" * 2, "runtime.md: RT-1 is there twice", id="twice"),
        pytest.param("| RT-1 | A | x | x |\n", "runtime.md:1: RT-1 has not six cells", id="cells"),
        pytest.param("| RT-1 | D | x | x | x | x |\n", "runtime.md:1: RT-1 has not six cells", id="tier"),
        pytest.param("no table\n", "no tables there", id="none"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "runtime.md").write_text(text)
    with pytest.raises(TableError, match=said):
        read_tables(tmp_path)


def test_a_row_is_open_without_a_test_partly_with_parts_and_done_with_a_whole_one() -> None:
    assert states(ROWS, [])["RT-1"] is State.OPEN
    assert states(ROWS, [Mark("RT-1", TEST, "two pods")])["RT-1"] is State.PARTLY
    assert states(ROWS, [Mark("RT-1", TEST), Mark("RT-1", TEST, "two pods")])["RT-1"] is State.DONE
    last = Mark("RT-1", TEST, "three pods", completes=True)
    assert states(ROWS, [last, Mark("RT-1", TEST, "two pods")])["RT-1"] is State.DONE


@pytest.mark.parametrize(
    ("tested", "state"),
    [
        pytest.param([], State.OPEN, id="none"),
        pytest.param(["RT-1"], State.PARTLY, id="one"),
        pytest.param(["RT-1", "RT-2"], State.DONE, id="both"),
        pytest.param(["TR-1"], State.DONE, id="own test"),
    ],
)
def test_a_trap_is_as_far_as_the_rows_that_cover_it(tested: list[str], state: State) -> None:
    assert states(ROWS, [Mark(row, TEST) for row in tested])["TR-1"] is state


def test_a_mark_that_no_table_knows_is_named_with_its_test() -> None:
    assert unknown(ROWS, [Mark("RT-1", TEST), Mark("RT-9", TEST)]) == [f"{TEST}: no table has a row RT-9"]


def test_the_page_counts_by_tier_and_shows_the_tests_of_each_row() -> None:
    text = page(ROWS, [Mark("RT-1", TEST), Mark("RT-2", TEST, "two pods")])
    assert "| tier A | 1 | 0 | 0 | 1 |" in text
    assert "| traps | 0 | 1 | 1 | 2 |" in text
    assert "| RT-1 | A | Accepted means stored | done | [it holds](../tests/unit/test_a.py) |" in text
    assert "| RT-2 | B | One commit | partly | [it holds](../tests/unit/test_a.py) (two pods) |" in text
    assert "| TR-1 |  | Hash stably | partly | by RT-1, by RT-2 |" in text
    assert "| TR-2 |  | Make ids once | open |  |" in text


def collected(root: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys, pathlib; from hack.features.marks import collect; print(collect(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(root)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_marks_are_collected_once_a_test_and_nothing_is_run(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = row(*ids)\n")
    (tmp_path / "tests" / "test_a.py").write_text(
        "import pytest\n"
        "@pytest.mark.row('RT-1', 'RT-2', part='two pods')\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_it_holds(n): raise SystemExit('run')\n"
    )
    done = collected(tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = [Mark(row, "tests/test_a.py::test_it_holds", "two pods") for row in ("RT-1", "RT-2")]
    assert done.stdout.strip() == str(wanted)


def test_tests_that_cannot_be_collected_are_an_error_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("import there_is_no_such_module\n")
    done = collected(tmp_path)
    assert done.returncode != 0
    assert "there_is_no_such_module" in done.stderr
