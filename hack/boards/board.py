"""A board's JSON read back: its panels, queries and variables, as the checks need them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

METRIC = re.compile(r"\bstarling(?:_[a-z0-9]+)+\b|\bstarling:[a-z0-9_:]+")
LABEL_VALUES = re.compile(r"label_values\((?P<metric>.+),\s*(?P<label>\w+)\)")
VARIABLE = re.compile(r"\$\{?(\w+)\}?")


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel, as it is in the board."""

    panel: str
    promql: str


def panels(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every panel that shows something, those in collapsed rows too."""
    for panel in board.get("panels") or ():
        if panel.get("type") == "row":
            yield from panels(panel)
        else:
            yield panel


def targets(board: Mapping[str, Any]) -> Iterator[Target]:
    """Yield every query, in the board's order."""
    for panel in panels(board):
        for target in panel.get("targets") or ():
            yield Target(str(panel.get("title", "")), str(target.get("expr", "")))


def variables(board: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the board's variables, in order."""
    return list((board.get("templating") or {}).get("list") or ())


def metrics(promql: str) -> set[str]:
    """Return the names of our metrics in a query."""
    return set(METRIC.findall(promql))


def label_query(variable: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return selector and label of a `label_values` variable; None for a variable of another kind."""
    query = variable.get("query")
    text = query.get("query", "") if isinstance(query, dict) else str(query or "")
    found = LABEL_VALUES.fullmatch(text.strip())
    return (found["metric"].strip(), found["label"]) if found else None


def expand(promql: str, values: Mapping[str, str]) -> str:
    """Replace ``$name`` and ``${name}`` by their values; an unknown name stays."""
    return VARIABLE.sub(lambda found: values.get(found[1], found[0]), promql)
