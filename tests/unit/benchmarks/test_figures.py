"""Medians, spreads and ratios, and the page made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import Spread, latencies, ratios, spreads
from benchmarks.page import merged, page, write

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
            "targets": [
                {
                    "text": "over theirs",
                    "bound": 4,
                    "at_least": False,
                    "aim": 3,
                    "is_ratio": True,
                    "value": {"median": 4.5, "low": 4.0, "high": 5.0},
                    "ok": False,
                }
            ],
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

    assert (
        "| Durable call: over theirs | at most 4 × | 3 × | 4.50 (4 to 5) × | **missed** |".replace("4.50", "4.5")
        in text
    )
    assert "0 of 1 reached; 1 measurements failed." in text


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


PEERS = Path(__file__).parents[3] / "benchmarks" / "peers"


@pytest.mark.parametrize("peer", sorted(path.parent.name for path in PEERS.glob("*/requirements.txt")))
def test_a_peers_lock_pins_every_package_with_its_hashes_and_names_no_index(peer: str) -> None:
    text = (PEERS / peer / "requirements.txt").read_text()
    packages = re.findall(r"^(\S+==\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)

    assert len(packages) == len(re.findall(r"^\w", text, re.MULTILINE)) > 0
    assert "://" not in text


def test_the_peers_are_those_that_the_benchmarks_speak_of() -> None:
    assert {path.parent.name for path in PEERS.glob("*/bench.py")} == {"autogen", "faststream", "nats_by_hand"}
