"""The verifier of boards against a real Prometheus: data everywhere is fine, anything else names the panel."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hack.boards.board import panels
from hack.boards.verify import NoPrometheus, Window, problems
from hack.cluster import prometheus
from hack.cluster.processes import free_port

ROOT = Path(__file__).parents[2]
FILE = ROOT / "charts" / "starling" / "files" / "dashboards" / "starling.json"
BOARD = json.loads(FILE.read_text())
WINDOW = Window(seconds=10.0, step=0.5, rate_interval="4s")
SCRAPE_SECONDS = 0.5
POD = 'namespace="flights",pod="airports-0",pool="airports"'
SHARD = f'{POD},shard="0"'
COUNTERS = {
    "starling_turns_total": f'{SHARD},agent_type="airport",result="ok"',
    "starling_turn_seconds_total": f'{SHARD},agent_type="airport"',
    "starling_busy_seconds_total": SHARD,
    "starling_commits_total": SHARD,
    "starling_commit_seconds_total": SHARD,
    "starling_takes_total": POD,
    "starling_fenced_total": POD,
    "starling_operator_moves_refused_total": 'pool="airports"',
}
# Known, and without a series so far: nothing was given up, and nothing moved.
SILENT = ("starling_dead_letters_total", "starling_operator_moves_total")
GAUGES = {
    "starling_mailbox_lag": f'{SHARD},lane="n"',
    "starling_outbox_frames": SHARD,
    "starling_table_dirty_cells": SHARD,
    "starling_active_agents": SHARD,
    "starling_shards_owned": POD,
    "starling_operator_imbalance_ratio": 'pool="airports"',
    "starling_operator_leader": 'pod="operator-0"',
    "starling_operator_metrics_age_seconds": 'pool="airports"',
}
HISTOGRAM = "starling_operator_reconcile_seconds"


def exposition(count: int) -> str:
    """Return what a mesh of one pod says when it is scraped for the count-th time."""
    lines = []
    for name, labels in COUNTERS.items():
        lines += [f"# TYPE {name} counter", f"{name}{{{labels}}} {count}"]
    lines += [line for name in SILENT for line in (f"# HELP {name} So far none.", f"# TYPE {name} counter")]
    for name, labels in GAUGES.items():
        lines += [f"# TYPE {name} gauge", f"{name}{{{labels}}} 1"]
    lines += [f"# TYPE {HISTOGRAM} histogram", f'{HISTOGRAM}_bucket{{result="ok",le="0.1"}} {count}']
    lines += [f'{HISTOGRAM}_bucket{{result="ok",le="+Inf"}} {count}']
    lines += [f'{HISTOGRAM}_{what}{{result="ok"}} {count}' for what in ("sum", "count")]
    return "\n".join(lines) + "\n"


class Mesh(BaseHTTPRequestHandler):
    counter = itertools.count(1)

    def do_GET(self) -> None:
        body = exposition(next(self.counter)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *given: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has scraped a mesh a few times."""
    if why := prometheus.missing():
        pytest.skip(why)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mesh)
    thread = threading.Thread(target=server.serve_forever, name="mesh", daemon=True)
    thread.start()
    scrape = prometheus.Scrape(targets={"mesh": [f"127.0.0.1:{server.server_port}"]}, interval=SCRAPE_SECONDS)
    try:
        with prometheus.running(tmp_path_factory.mktemp("prometheus"), scrape) as running:
            running.wait_for("count_over_time(starling_turns_total[30s]) >= 4")
            yield running.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def changed(title: str, old: str, new: str) -> Any:
    """Return the board with a panel's queries changed."""
    board = copy.deepcopy(BOARD)
    panel = next(each for each in panels(board) if each["title"] == title)
    for target in panel["targets"]:
        assert old in target["expr"]
        target["expr"] = target["expr"].replace(old, new)
    return board


def test_a_board_whose_panels_all_have_data_passes(url: str) -> None:
    assert problems(BOARD, url, WINDOW) == []


def test_a_panel_without_data_is_named(url: str) -> None:
    board = changed("Lag by shard", 'pool=~"$pool"', 'pool="nobody"')

    found = problems(board, url, WINDOW)
    assert len(found) == 1
    assert found[0].startswith("Lag by shard: no data for sum by (pool, shard)")


def test_a_metric_that_nobody_exports_is_named_with_its_panel(url: str) -> None:
    found = problems(changed("Active agents", "starling_active_agents", "starling_awake_agents"), url, WINDOW)

    assert [problem.split(" for ")[0] for problem in found] == [
        "Active agents: nothing exports starling_awake_agents",
        "Active agents: no data",
    ]


def test_a_panel_that_shows_zero_for_a_metric_that_nobody_exports_fails(url: str) -> None:
    found = problems(changed("Dead letters", "starling_dead_letters_total", "starling_lost_letters_total"), url, WINDOW)

    assert found == ["Dead letters: nothing exports starling_lost_letters_total"]


def test_a_query_that_prometheus_refuses_is_named_with_its_reason(url: str) -> None:
    found = problems(changed("Turns by pool", "sum by (pool)", "sum by pool"), url, WINDOW)

    assert len(found) == 1
    assert found[0].startswith("Turns by pool: ")
    assert "parse error" in found[0]


def test_a_variable_without_values_is_named(url: str) -> None:
    board = copy.deepcopy(BOARD)
    board["templating"]["list"][1]["query"]["query"] = "label_values(starling_shards_owned, region)"

    assert problems(board, url, WINDOW) == [
        "variable namespace: no values of label region in starling_shards_owned",
    ]


def test_an_address_without_a_prometheus_is_not_a_finding() -> None:
    with pytest.raises(NoPrometheus):
        problems(BOARD, f"http://127.0.0.1:{free_port()}", WINDOW)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hack.boards", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_says_how_many_queries_returned_data(url: str) -> None:
    done = command("verify", "--prometheus", url, "--minutes", "0.2", "--step", "1", "--rate-interval", "4s")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith("queries returned data")


def test_the_command_fails_with_the_panel(url: str, tmp_path: Path) -> None:
    file = tmp_path / "board.json"
    file.write_text(json.dumps(changed("Lag by shard", 'pool=~"$pool"', 'pool="nobody"')))

    arguments = ("--prometheus", url, "--minutes", "0.2", "--step", "1", "--rate-interval", "4s")
    done = command("verify", "--board", str(file), *arguments)

    assert done.returncode == 1
    assert "board.json: Lag by shard: no data" in done.stderr
    assert done.stdout.strip() == "1 problem(s)"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("verify",), 2),
        (("verify", "--prometheus", "localhost:9090"), 2),
        (("verify", "--prometheus", "http://127.0.0.1:9", "--minutes", "0"), 2),
        (("verify", "--prometheus", "http://127.0.0.1:9", "--rate-interval", "soon"), 2),
        (("verify", "--prometheus", "http://127.0.0.1:9"), 3),
        (("lint",), 0),
    ],
)
def test_the_command_has_these_exit_codes(arguments: tuple[str, ...], code: int) -> None:
    assert command(*arguments).returncode == code
