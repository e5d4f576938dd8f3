"""Run every query of a board against a real Prometheus: an error fails, and so does an answer without data."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hack.boards.board import Target, expand, label_query, metrics, targets, variables

# What a metric's samples are called, beside its name in the metadata.
SUFFIXES = ("_total", "_bucket", "_sum", "_count")


class NoPrometheus(Exception):
    """There is no Prometheus at the address, or it did not answer in time."""


class Refused(Exception):
    """Prometheus refused the query; the text is its reason."""


@dataclass(frozen=True, slots=True)
class Window:
    """What part of the past is asked for, in seconds; rate_interval: what `$__rate_interval` becomes."""

    seconds: float = 300.0
    step: float = 5.0
    rate_interval: str = "1m"


class Source:
    """A Prometheus, asked over one window that ends now. Raises NoPrometheus and Refused."""

    def __init__(self, url: str, window: Window) -> None:
        self._url = url.rstrip("/")
        end = time.time()
        self._bounds = {"start": f"{end - window.seconds:.3f}", "end": f"{end:.3f}"}
        self._step = str(window.step)

    def values(self, promql: str) -> list[float]:
        """Return all values of all series, but NaN."""
        data = self._get("query_range", {"query": promql, "step": self._step, **self._bounds})
        found = [float(value) for series in data["result"] for _, value in series["values"]]
        return [value for value in found if not math.isnan(value)]

    def label_values(self, selector: str, label: str) -> list[str]:
        """Return the values of a label among the selected series; ``__name__`` gives names of metrics."""
        return [str(each) for each in self._get(f"label/{label}/values", {"match[]": selector, **self._bounds})]

    def names(self) -> set[str]:
        """Return the name of every metric of ours with samples or, without any yet, with a description."""
        described = self._get("metadata", {})
        more = {name + suffix for name in described for suffix in SUFFIXES}
        return {*self.label_values('{__name__=~"starling.+"}', "__name__"), *described, *more}

    def _get(self, what: str, query: Mapping[str, str]) -> Any:
        address = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=15) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(_reason(error.read().decode(errors="replace"))) from None
        except (OSError, ValueError, KeyError) as error:
            raise NoPrometheus(f"{self._url}: {error}") from error


def problems(board: Mapping[str, Any], url: str, window: Window) -> list[str]:
    """Return what is wrong, each with its panel or variable; empty when every query returned data.

    Raises NoPrometheus.
    """
    source = Source(url, window)
    values = {"__rate_interval": window.rate_interval, "__interval": f"{window.step:g}s"}
    values["__range"] = f"{window.seconds:g}s"
    found: list[str] = []
    for variable in variables(board):
        found += _of_variable(source, variable, values)
    names = source.names()
    for target in targets(board):
        found += [f"{target.panel}: {why}" for why in _of_target(source, target, values, names)]
    return found


def _of_variable(source: Source, variable: Mapping[str, Any], values: dict[str, str]) -> Iterator[str]:
    """Set the variable's value as Grafana does for `All`, and say what is wrong with it."""
    asked, name = label_query(variable), str(variable["name"])
    if asked is None:
        return
    selector, label = asked
    try:
        there = source.label_values(expand(selector, values), label)
    except Refused as error:
        there = []
        yield f"variable {name}: {error}"
    else:
        if not there:
            yield f"variable {name}: no values of label {label} in {expand(selector, values)}"
    values[name] = str(variable.get("allValue") or "|".join(there))


def _of_target(source: Source, target: Target, values: Mapping[str, str], names: set[str]) -> Iterator[str]:
    promql = expand(target.promql, values)
    # `or vector(0)` shows 0 for what did not happen, and would do so for a metric that nobody exports.
    for metric in sorted(metrics(promql) - names):
        yield f"nothing exports {metric}"
    try:
        if not source.values(promql):
            yield f"no data for {promql}"
    except Refused as error:
        yield f"{error}: {promql}"


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:300]
