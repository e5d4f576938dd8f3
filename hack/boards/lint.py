"""What must hold for every board, found out without a server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hack.boards.board import VARIABLE, panels, variables

COUNTER = re.compile(r"\bstarling\w*_(?:total|bucket|sum|count)\b")
# A counter with its labels and window, inside rate() or increase().
GROWTH = re.compile(r"\b(?:rate|increase)\(\s*(starling\w+)(?:\{[^}]*\})?\[\$__rate_interval\]\s*\)")
FIXED_PLACE = re.compile(r'\b(?:namespace|pod|cluster)\s*=\s*"[^"$]+"')
BUILT_IN = {"__rate_interval", "__interval", "__range"}
SOURCE = "${datasource}"


def findings(board: Mapping[str, Any]) -> list[str]:
    """Return everything that is wrong, each with the panel's title; empty when the board is fine."""
    return [*_of_board(board), *(f for panel in panels(board) for f in _of_panel(panel, _names(board)))]


def _names(board: Mapping[str, Any]) -> set[str]:
    return {str(variable["name"]) for variable in variables(board)} | BUILT_IN


def _of_board(board: Mapping[str, Any]) -> Iterator[str]:
    if not board.get("uid"):
        yield "board: no uid"
    kinds = {variable["name"]: variable["type"] for variable in variables(board)}
    if kinds.get("datasource") != "datasource":
        yield "board: no variable `datasource` of type datasource"
    titles = [str(panel.get("title")) for panel in panels(board)]
    yield from (f"{title}: two panels of this title" for title in sorted({t for t in titles if titles.count(t) > 1}))
    ids = [panel.get("id") for panel in panels(board)]
    if None in ids or len(set(ids)) != len(ids):
        yield "board: panels without an id of their own"


def _of_panel(panel: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    title = panel.get("title") or f"panel {panel.get('id')}"
    if not panel.get("title"):
        yield f"{title}: no title"
    if not panel.get("description"):
        yield f"{title}: no description"
    if not panel.get("fieldConfig", {}).get("defaults", {}).get("unit"):
        yield f"{title}: no unit"
    if (panel.get("datasource") or {}).get("uid") != SOURCE:
        yield f"{title}: its data source is not {SOURCE}"
    if not panel.get("targets"):
        yield f"{title}: no query"
    for target in panel.get("targets") or ():
        if (target.get("datasource") or {}).get("uid") != SOURCE:
            yield f"{title}: a query's data source is not {SOURCE}"
        yield from (f"{title}: {why}" for why in _of_query(str(target.get("expr", "")), known))


def _of_query(promql: str, known: set[str]) -> Iterator[str]:
    bare = set(COUNTER.findall(GROWTH.sub("", promql)))
    yield from (f"{name} is a counter: only rate() or increase() over [$__rate_interval]" for name in sorted(bare))
    for place in FIXED_PLACE.findall(promql):
        yield f"{place} is fixed: use a variable"
    for name in sorted(set(VARIABLE.findall(promql)) - known):
        yield f"no variable ${name}"
