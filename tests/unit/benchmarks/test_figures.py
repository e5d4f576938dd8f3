"""Medians, spreads and ratios, and the page made of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import Spread, latencies, ratios, spreads
from benchmarks.page import WHY, anchor, merged, page, write
from benchmarks.profile import parameters_of

ROOT = Path(__file__).parents[3]

TARGET: dict[str, Any] = {
    "text": "over theirs",
    "bound": 4,
    "at_least": False,
    "aim": 3,
    "is_ratio": True,
    "value": {"median": 4.5, "low": 4.0, "high": 5.0},
    "ok": False,
}

RUN: dict[str, Any] = {
    "environment": {
        "date": "2020-01-01",
        "commit": "abc",
        "cpu": "a cpu",
        "cores": 2,
        "load_before": 0.1,
        "memory_gib": 8,
        "system": "Linux 6.1",
        "python": "3.11.7",
        "nats_server": "v2.15.1",
        "packages": {"nats-py": "2.16.0"},
        "network": "loopback",
        "storage": "files",
    },
    "rounds": 2,
    "quick": False,
    "cases": [
        {
            "group": "calls",
            "title": "Durable call",
            "error": "",
            "entries": {
                "ours": {"figures": {"p50_us": {"median": 500.0, "low": 400.0, "high": 600.0}}},
                "theirs": {"figures": {"per_second": {"median": 1234.0, "low": 1234.0, "high": 1234.0}}},
            },
            "targets": [TARGET],
        },
        {"group": "kill", "title": "Kill", "error": "LoadFailed: it broke", "entries": {}, "targets": []},
    ],
}


def test_latencies_are_ranks_of_what_was_measured_in_microseconds() -> None:
    taken = [n / 1000 for n in range(1, 101)]

    assert latencies(taken) == pytest.approx(
        {"p50_us": 51_000, "p99_us": 100_000, "p999_us": 100_000, "max_us": 100_000}
    )


def test_latencies_of_one_sample_are_that_sample() -> None:
    assert latencies([0.002]) == pytest.approx(dict.fromkeys(("p50_us", "p99_us", "p999_us", "max_us"), 2000))


def test_a_spread_shows_only_figures_that_every_round_has() -> None:
    shown = spreads([{"a": 1.0, "b": 2.0}, {"a": 3.0}])

    assert shown == {"a": Spread(2.0, 1.0, 3.0)}


def test_a_ratio_is_taken_round_by_round() -> None:
    ours = [{"x": 10.0}, {"x": 100.0}, {"x": 30.0}]
    theirs = [{"x": 5.0}, {"x": 50.0}, {"x": 10.0}]

    assert ratios(ours, theirs, "x") == Spread(2.0, 2.0, 3.0)


def test_a_ratio_needs_as_many_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([{"x": 1.0}, {"x": 1.0}], [{"x": 1.0}], "x")


def test_the_page_shows_each_target_with_its_ratio_beside_it() -> None:
    text = page(RUN)

    missed = "**missed** ([why](performance.md#calls))"
    assert f"| Durable call: over theirs | at most 4 × | 3 × | 4.5 (4 to 5) × | {missed} |" in text
    assert "0 of 1 reached (0 of 1 ratios); 1 measurements failed." in text


def test_the_page_counts_comparisons_and_zeros_apart_and_shows_what_is_missed_first() -> None:
    zero = {**TARGET, "text": "messages lost", "bound": 0, "is_ratio": False, "aim": None, "ok": True}
    limit = {**TARGET, "text": "slowest", "bound": 4e6, "is_ratio": False, "aim": None, "ok": True}
    text = page({**RUN, "cases": [{**RUN["cases"][0], "targets": [zero, limit, TARGET]}]})

    assert "2 of 3 reached (0 of 1 ratios, 1 of 1 counts that have to be 0, 1 of 1 other bounds)" in text
    assert "at most 4,000,000 |" in text
    assert text.index("over theirs | at most") < text.index("messages lost | at most")


def test_the_page_names_beside_each_table_the_command_that_takes_it_alone() -> None:
    assert "### Durable call\n\n`python -m benchmarks --only calls --rounds 2`" in page(RUN)
    assert "`python -m benchmarks --only calls --quick`" in page({**RUN, "quick": True})


def test_every_link_within_the_page_and_to_a_reason_leads_to_a_heading() -> None:
    text = page(RUN, {"environment": RUN["environment"], "rows": []})
    reasons = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")

    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= _anchors(text)
    assert {to.removeprefix("performance.md#") for to in WHY.values()} <= _anchors(reasons)
    assert anchor("First calls of 9,000: p50 (a `b`)") == "first-calls-of-9000-p50-a-b"


def _anchors(text: str) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("option", ["--json", "--faults"])
def test_a_page_of_a_file_that_is_not_there_is_refused_by_the_option(option: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    files = ["--page", str(tmp_path / "page.md"), "--json", str(tmp_path / "run.json"), option, "none.json"]

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.page", *files], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert done.returncode == 2
    assert f"{option}: there is no file none.json" in done.stderr
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize(
    ("workload", "given", "problem"),
    [
        ("nosuch", [], "'nosuch' is none of .*calls"),
        ("calls", ["foo=1"], "'foo' is none of its parameters: in_flight, keys, seconds"),
        ("calls", ["in_flight=x"], "'in_flight=x' is not of the form in_flight=JSON"),
        ("calls", ["in_flight"], "'in_flight' is not of the form in_flight=JSON"),
    ],
)
def test_a_profile_of_an_unknown_load_or_parameter_says_what_there_is(
    workload: str, given: list[str], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        parameters_of(workload, given)


def test_parameters_of_a_profile_are_values() -> None:
    assert parameters_of("calls", ["in_flight=100", "seconds=0.5"]) == {"in_flight": 100, "seconds": 0.5}


def test_the_page_gives_microseconds_in_milliseconds_with_their_spread() -> None:
    assert "| ours |  | 0.5 (0.4 to 0.6) |" in page(RUN)


def test_the_page_says_what_could_not_be_measured() -> None:
    assert "Not measured: LoadFailed: it broke" in page(RUN)


def test_the_page_is_written_from_the_file_of_a_run(tmp_path: Path) -> None:
    run, target = tmp_path / "bench.json", tmp_path / "docs" / "benchmarks.md"
    run.write_text(json.dumps(RUN))

    write([run], target)

    assert target.read_text() == page(RUN)


def test_a_later_run_replaces_its_groups_and_leaves_the_others() -> None:
    later = {**RUN, "rounds": 5, "cases": [{**RUN["cases"][1], "error": "", "title": "Kill again"}]}

    text = page(merged([RUN, later]))

    assert "### Durable call" in text
    assert "### Kill again" in text
    assert "it broke" not in text
    assert "- 2020-01-01, commit abc, 2 rounds, load before 0.1: calls" in text
    assert "- 2020-01-01, commit abc, 5 rounds, load before 0.1: kill" in text


def test_the_page_shows_every_fault_with_its_counts_and_recovery() -> None:
    counts = {"accepted": 100, "lost": 0, "doubled": 0, "out_of_order": 0}
    rows = [
        {"name": "server-killed", **counts, "recovery_seconds": 2.5, "ok": True, "failures": []},
        {"name": "poison", **counts, "lost": 1, "recovery_seconds": None, "ok": False, "failures": ["a reason"]},
    ]

    text = page(RUN, {"environment": RUN["environment"], "rows": rows})

    assert "1 of 2 rows good" in text
    assert "| server-killed | 100 | 0 | 0 | 0 | 2.50 | good |" in text
    assert "| poison | 100 | 1 | 0 | 0 |  | **failed**: a reason |" in text


PEERS = ROOT / "benchmarks" / "peers"


@pytest.mark.parametrize("peer", sorted(path.parent.name for path in PEERS.glob("*/requirements.txt")))
def test_a_peers_lock_pins_every_package_with_its_hashes_and_names_no_index(peer: str) -> None:
    text = (PEERS / peer / "requirements.txt").read_text()
    packages = re.findall(r"^(\S+==\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)

    assert len(packages) == len(re.findall(r"^\w", text, re.MULTILINE)) > 0
    assert "://" not in text


def test_the_peers_are_those_that_the_benchmarks_speak_of() -> None:
    assert {path.parent.name for path in PEERS.glob("*/bench.py")} == {"autogen", "faststream", "nats_by_hand"}
