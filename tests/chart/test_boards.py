"""Boards hold to their rules, and ask only for metrics that somebody exports."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from prometheus_client import Metric
from starling.core.ids import PoolName
from starling.core.names import MeshNames
from starling.node.dead_letters import DeadLetterWatch
from starling.node.metrics import WorkerCollector
from starling.node.states import RunState
from starling.ports.store import Store
from starling_operator.metrics import OperatorMetrics

from hack.boards.board import expand, label_query, metrics, panels, targets, variables
from hack.boards.lint import findings

FILES = Path(__file__).parents[2] / "charts" / "starling" / "files"
BOARD = json.loads((FILES / "dashboards" / "starling.json").read_text())
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


def names(families: Iterable[Metric]) -> set[str]:
    return {family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, ("",))}


def exported_by_operator() -> set[str]:
    return names(OperatorMetrics().registry.collect())


def exported_by_workers() -> set[str]:
    collector = WorkerCollector(
        PoolName("airports"), dict, takes=int, fenced=int, state=lambda: RunState.RUNNING, wall=float
    )
    letters = DeadLetterWatch(cast(Store, None), MeshNames("m").pool(PoolName("airports")), bool)
    return names(collector.collect()) | names(letters.collect())


def first(board: Any) -> Any:
    return next(iter(panels(board)))


def set_query(promql: str) -> Callable[[Any], None]:
    def change(board: Any) -> None:
        first(board)["targets"][0]["expr"] = promql

    return change


def test_the_board_has_no_findings() -> None:
    assert findings(BOARD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda board: first(board).update(description=""), "no description"),
        (lambda board: first(board).update(title=""), "no title"),
        (lambda board: first(board)["fieldConfig"]["defaults"].update(unit=""), "no unit"),
        (lambda board: first(board)["datasource"].update(uid="abc"), "its data source is not"),
        (lambda board: first(board)["targets"][0]["datasource"].update(uid="abc"), "a query's data source is not"),
        (lambda board: first(board).update(targets=[]), "no query"),
        (lambda board: board.update(uid=""), "no uid"),
        (lambda board: first(board).update(id=2), "without an id of their own"),
        (lambda board: board["templating"]["list"].pop(0), "no variable `datasource`"),
        (lambda board: first(board).update(title="Moves"), "two panels"),
        (set_query("sum(starling_turns_total)"), "starling_turns_total is a counter"),
        (set_query("rate(starling_turns_total[5m])"), "starling_turns_total is a counter"),
        (set_query('starling_shards_owned{namespace="flights"}'), "is fixed"),
        (set_query('starling_shards_owned{pool=~"$team"}'), "no variable $team"),
    ],
)
def test_a_board_that_breaks_a_rule_is_found(change: Callable[[Any], None], said: str) -> None:
    board = copy.deepcopy(BOARD)
    change(board)

    found = findings(board)
    assert found
    assert any(said in finding for finding in found)


def test_every_metric_of_the_board_is_exported() -> None:
    asked = {name for target in targets(BOARD) for name in metrics(target.promql)}
    asked |= {name for each in variables(BOARD) if (query := label_query(each)) for name in metrics(query[0])}

    assert asked - exported_by_workers() - exported_by_operator() == set()
    assert len(asked) > 15


def test_every_metric_of_the_rules_is_exported_or_recorded() -> None:
    rules = [
        rule
        for group in yaml.safe_load((FILES / "rules" / "starling.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    asked = {name for rule in rules for name in metrics(rule["expr"])}

    assert asked - recorded - exported_by_workers() == set()
    assert recorded


def test_what_a_person_asks_of_the_board_is_there() -> None:
    titles = {panel["title"] for panel in panels(BOARD)}

    assert {
        "Turns by pool",
        "Turns that failed",
        "Busy share by shard",
        "Lag by pool",
        "Lag by shard",
        "Shards by pod",
        "Moves",
        "Imbalance",
        "Commits by pool",
        "Seconds to a commit",
        "Dead letters",
        "Takes and fences",
        "Seconds in a reconcile",
        "Age of the loads",
    } <= titles


def test_variables_are_replaced_in_both_spellings_and_unknown_ones_stay() -> None:
    assert expand('a{x=~"$pool", y=~"${pool}"}[$window]', {"pool": ".*"}) == 'a{x=~".*", y=~".*"}[$window]'
