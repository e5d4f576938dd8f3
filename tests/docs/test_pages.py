"""Every link leads somewhere, every command of the pages is run or proved by a test of its own."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from hack.docs import ROOT, Block, blocks, links, pages

RUN_AS_PRINTED = ("docs/agents.md", "docs/first-program.md", "docs/getting-started.md", "docs/observing.md")
"""Pages whose files and commands tests/docs/test_programs.py runs."""

CLI = "tests/integration/cli/"
CLUSTER = "tests/cluster/"
PROVED = {
    r"\. \.venv/bin/activate": "",  # a shell's own business
    r"bash \.ci/run": "",  # is what runs all of this
    r"\.venv/bin/python -m benchmarks\.page": (
        "tests/unit/benchmarks/test_figures.py::test_the_page_is_written_from_the_file_of_a_run"
    ),
    r"helm install starling charts/starling .*--set nats\.dev\.enabled=true": (
        f"{CLUSTER}test_helm.py::test_the_chart_is_installed_upgraded_rolled_back_and_removed"
    ),
    r"helm install starling charts/starling .*--set nats\.url=.*": (
        f"{CLUSTER}test_helm_operator.py::test_a_pool_becomes_pods_and_goes_again"
    ),
    r"helm uninstall starling .*": (
        f"{CLUSTER}test_helm.py::test_the_chart_is_installed_upgraded_rolled_back_and_removed"
    ),
    r"kubectl apply -k \S+": f"{CLUSTER}test_helm_operator.py::test_a_pool_becomes_pods_and_goes_again",
    r"kubectl get apool,asub,ast": f"{CLUSTER}test_crds.py::test_all_kinds_are_found_by_their_category",
    r"kubectl delete apool,asub,ast .*": f"{CLUSTER}test_helm_operator.py::test_a_pool_becomes_pods_and_goes_again",
    r"python -m hack\.cluster .*": (
        f"{CLUSTER}test_control_plane.py::test_a_killed_api_server_comes_back_with_its_data"
    ),
    r"starling status .*": f"{CLI}test_looking.py::test_status_tells_pods_owners_and_what_waits",
    r"starling doctor": f"{CLI}test_looking.py::test_doctor_finds_nothing_wrong_with_a_good_mesh",
    r"starling agents": f"{CLI}test_dev.py::test_a_mesh_of_starling_dev_is_used_and_looked_at_from_the_command_line",
    r"starling tail .*": f"{CLI}test_looking.py::test_tail_follows_what_comes",
    r"starling drain .*": f"{CLI}test_dev.py::test_a_mesh_of_starling_dev_is_used_and_looked_at_from_the_command_line",
    r"starling send .*": (f"{CLI}test_messages.py::test_what_is_sent_and_published_is_there_when_the_agent_is_called"),
    r"starling dead (list|show|replay|drop) .*": f"{CLI}test_dead.py::test_every_command_of_the_page_is_understood",
    r"starling (export|import) .*": (
        f"{CLI}test_archive.py::test_chosen_agents_and_one_type_are_saved_and_restored_alone"
    ),
    r"starling repair agent .*": f"{CLI}test_repair.py::test_an_agent_whose_state_does_not_load_is_brought_back",
    r"starling repair shard .*": (
        f"{CLI}test_repair.py::test_a_shard_whose_journal_is_gone_goes_on_with_its_states_and_its_correspondents"
    ),
}
"""A command, as a pattern, to the test that would fail if it did not work."""

COMMANDS = [
    pytest.param(command, id=f"{block.page.relative_to(ROOT)}:{block.line}:{command[:60]}")
    for page in pages()
    if str(page.relative_to(ROOT)) not in RUN_AS_PRINTED
    for block in blocks(page)
    if block.language == "sh"
    for command in block.commands
] + [
    pytest.param(command, id=f"{block.page.relative_to(ROOT)}:{block.line}:{command[:60]}")
    for page in pages()
    if str(page.relative_to(ROOT)) in RUN_AS_PRINTED
    for block in blocks(page)
    if block.language == "sh" and block.about not in ("", "terminal")
    for command in block.commands
]


def missing_modules(recipe: str) -> list[str]:
    """Return the modules that a recipe of make runs and that are not there."""
    names = re.findall(r"python -m ([\w.]+)", recipe)
    return [name for name in names if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_pages_has_a_test_that_would_fail_without_it(command: str) -> None:
    if command.startswith("make "):
        done = subprocess.run(
            ["make", "--dry-run", "--warn-undefined-variables", *command.split()[1:]],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr
        assert missing_modules(done.stdout) == []
        return
    assert any(re.fullmatch(pattern, command) for pattern in PROVED), "no test in PROVED"


@pytest.mark.parametrize("test", sorted({test for test in PROVED.values() if test}))
def test_a_test_that_is_said_to_prove_a_command_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, functions)}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_of_the_project(page: Path) -> None:
    local = [to.partition("#")[0] for to in links(page) if not re.match(r"[a-z]+:|#", to)]
    assert [to for to in local if not (page.parent / to).exists()] == []


def test_a_block_is_read_with_its_line_its_file_and_its_commands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# x\n\n```sh\nmake test  # all\nhelm install \\\n  a b\n```\n\n```yaml a/b.yaml\nx: 1\n```\n[a](b.md)\n"
    )
    shell, file = blocks(page)
    assert shell == Block(page, 4, "sh", "", "make test  # all\nhelm install \\\n  a b\n")
    assert shell.commands == ["make test", "helm install a b"]
    assert (file.file, file.text) == ("a/b.yaml", "x: 1\n")
    assert list(links(page)) == ["b.md"]


@pytest.mark.row("RT-84", part="rates of all three ways are printed; what can be lost is documented", completes=True)
def test_the_pages_give_the_rates_of_all_ways_to_ask_and_say_what_can_be_lost() -> None:
    figures = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for way in ("Starling, durability none", "Starling, query", "Starling, committed"):
        assert re.search(rf"^\| {re.escape(way)}[^|]*\| [\d,]+ \(", figures, re.MULTILINE), way
    promises = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert re.search(r'durability="none".*its state, and a reply, can be lost', promises)


@pytest.mark.row(
    "RT-82",
    part="environment, rate and percentiles are printed beside those of autogen-core, five times its rate was reached",
    completes=True,
)
@pytest.mark.row("RT-89", part="hardware, commit and date are beside the figures")
def test_the_page_of_figures_says_where_when_and_how_they_were_taken() -> None:
    figures = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert re.search(r"^- 20\d\d-\d\d-\d\d \d\d:\d\d UTC, commit [0-9a-f]{7}", figures, re.MULTILINE)
    assert "| | per second | p50, ms | p99, ms | p99.9, ms | slowest, ms |" in figures
    for way in ("Starling, local runtime", "autogen-core 0.7.5, in process"):
        assert re.search(rf"^\| {re.escape(way)} \| [\d,]+ \(", figures, re.MULTILINE), way
    rate = "Calls in one process, 1 in flight: calls a second over autogen-core in process"
    assert re.search(rf"^\| {rate} \| at least 5 × .* reached \|$", figures, re.MULTILINE)
