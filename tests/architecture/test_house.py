"""What holds for the whole tree and no linter knows: where things lie, and what is never written down."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "agent-runtime" / "starling", ROOT / "operator" / "starling_operator")
CHART = ROOT / "charts" / "starling" / "Chart.yaml"
NAMES = ROOT / "agent-runtime" / "starling" / "core" / "names.py"

REGISTRY = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|registry\.npmjs\.org|(?:proxy|sum)\.golang\.org)\b")
MACHINE_PATH = re.compile(r"(?<![\w./-])/(?:work|root|tmp/wt|home/\w+)/")
STORE_NAME = re.compile(r"^\$?(?:KV_|O_)?st[_.]", re.IGNORECASE)


@cache
def tracked() -> tuple[Path, ...]:
    """Return the files of the project: what git keeps and what it would take in."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return tuple(path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file())


def mentions(pattern: re.Pattern[str]) -> list[str]:
    """Return where a pattern occurs in the project's texts, this file aside."""
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        text = path.read_text(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in pattern.finditer(text)]
    return found


def store_names(source: str) -> list[str]:
    """Return the literals of a module that spell a name on the message store."""
    literals = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return sorted(text for text in literals if isinstance(text, str) and STORE_NAME.match(text))


def test_the_operators_folder_is_no_package_and_hides_no_module() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_tests_lie_in_the_folder_of_tests() -> None:
    elsewhere = [path for path in tracked() if path.name.startswith("test_") and "tests" not in path.parts]
    assert elsewhere == []


@pytest.mark.parametrize(
    ("pattern", "examples"),
    [
        pytest.param(REGISTRY, ["see https://pypi" + ".org/simple", "proxy.golang" + ".org"], id="registry"),
        pytest.param(MACHINE_PATH, ["cd /ro" + "ot/starling", '"/home/ann/x"', "/tmp/w" + "t/a/"], id="path"),
    ],
)
def test_no_file_names_a_registry_or_a_path_of_one_machine(pattern: re.Pattern[str], examples: list[str]) -> None:
    assert all(pattern.search(example) for example in examples)
    assert mentions(pattern) == []


def test_names_on_the_store_are_spelled_in_one_module() -> None:
    assert store_names('a = f"st_{mesh}_maps"; b = "$KV.x"; c = "st.x"; d = "start"') == ["st.x", "st_"]
    assert store_names(NAMES.read_text())
    elsewhere = {
        str(path.relative_to(ROOT)): found
        for package in PACKAGES
        for path in package.rglob("*.py")
        if path != NAMES and (found := store_names(path.read_text()))
    }
    assert elsewhere == {}


def test_what_is_released_says_so_in_every_place() -> None:
    """One version: of the distribution, of the chart, and of what the chart installs."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    chart = dict(re.findall(r"^(version|appVersion): \"?([^\"\n]+)\"?$", CHART.read_text(), re.MULTILINE))
    assert version
    assert chart == {"version": version[1], "appVersion": version[1]}
