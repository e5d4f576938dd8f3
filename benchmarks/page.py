"""`python -m benchmarks.page`: writes docs/benchmarks.md from the JSON of a run, and of a run of the faults."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import ROOT

PAGE: Final = ROOT / "docs" / "benchmarks.md"
RUN: Final = Path("build/bench.json")
FAULTS: Final = Path("build/faults.json")
UNITS: Final[Mapping[str, tuple[str, float]]] = {
    "per_second": ("per second", 1),
    "stored_per_second": ("stored per second", 1),
    "drained_per_second": ("drained per second", 1),
    "mb_per_second": ("MB per second", 1),
    "p50_us": ("p50, ms", 1e-3),
    "p99_us": ("p99, ms", 1e-3),
    "p999_us": ("p99.9, ms", 1e-3),
    "max_us": ("slowest, ms", 1e-3),
    "save_ms": ("saved in, ms", 1),
    "load_ms": ("loaded in, ms", 1),
    "cpu_us": ("CPU each, all processes, us", 1),
    "server_cpu_us": ("CPU each, server, us", 1),
    "sent_mb": ("sent, MB", 1),
    "stored_mb": ("stored, MB", 1),
    "activation_p50_us": ("activation adds at p50, ms", 1e-3),
    "longest_call_ms": ("longest call, ms", 1),
    "bytes_per_agent": ("bytes per agent", 1),
    "worker_mb": ("worker's memory, MB", 1),
    "memory_over_first": ("memory, largest over the first tenth's", 1),
    "memory_off_middle": ("memory, farthest from its middle", 1),
    "active_agents": ("agents in memory at rest", 1),
    "server_mb": ("server's memory, MB", 1),
    "lost": ("lost", 1),
    "doubled": ("doubled", 1),
    "out_of_order": ("out of order", 1),
    "counted": ("counted", 1),
    "calls_failed": ("calls failed", 1),
}

INTRODUCTION: Final = """\
# Benchmarks

Written by `python -m benchmarks.page` from the files of `make bench` and `make faults`; do not edit. Every comparison
was measured in interleaved rounds of one run on one machine: read ratios, not absolute numbers. A figure is the median
of its rounds, with the smallest and the largest in brackets. A ratio is taken round by round, so that what both
sides suffer at the same moment cancels out. The load runs as a process of its own on the same cores as servers and
workers. "CPU each" is the CPU time of load, servers and workers together for one operation: it depends far less than
rates and times on what else the machine does. "Counted" is what the agents say at the end that they have handled.
Where one side is slower it gets fewer messages, so that both run for some seconds.

What is compared: Starling's calls and messages are stored before they count as accepted, each agent's state is stored
before the answer, nothing is lost or doubled when a worker dies. None of the peers promises all of that; what each of
them leaves out is in its label, and its program is in `benchmarks/peers/`, with a lock file of its own. Runtimes with
servers of their own, such as Temporal, Restate and Dapr, are not measured: nothing here says how they compare.
In the local runtime, where nothing outlives the process, the record may follow the answer:
see [performance.md](performance.md#local-runtime).
"""

REPEATING: Final = """\
## Repeating it

```sh
make bench
make faults
.venv/bin/python -m benchmarks.page
```

`make bench` takes half an hour to an hour with its 5 rounds and writes `build/bench.json`; the first time it installs
the peers from a package registry, each into an environment of its own in `.cache/bench/`. `make faults` takes about ten
minutes and writes `build/faults.json`. The third command makes this page of both. Above each table is the command that
takes it alone, with as many rounds as here (in an activated `.venv`); `--quick` in place of `--rounds` is a short form
to see that it works, not for figures. `--strict` ends with 1 when a target is missed. Other work on the machine is seen
in the figures: look at "load before".
"""

WHY: Final[Mapping[str, str]] = {
    "calls": "performance.md#calls",
    "queries": "performance.md#calls",
    "local": "performance.md#local-runtime",
    "one-way": "performance.md#reached-since",
    "fan-out": "performance.md#turns-and-fan-out",
    "moves": "performance.md#reached-since",
    "million": "performance.md#reached-since",
}
"""Group to the section that says what is known of why its targets are, or were, missed."""


def page(run: Mapping[str, Any], faults: Mapping[str, Any] | None = None) -> str:
    """Return the page for a run. faults: what the fault suite wrote, None to leave it out."""
    run = run if "taken" in run else merged([run])
    parts = [INTRODUCTION, *_contents(run, faults), *_environment(run), REPEATING, *_targets(run), *_cases(run)]
    return "\n".join([*parts, *(_faults(faults) if faults else ())]) + "\n"


def merged(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Join runs: a group of a later run takes the place of the same group of an earlier one."""
    cases: dict[str, list[Any]] = {}
    taken: dict[str, str] = {}
    forms: dict[str, str] = {}
    for run in runs:
        env, form = run["environment"], ", quick form" if run["quick"] else ""
        groups: dict[str, list[Any]] = {}
        for case in run["cases"]:
            groups.setdefault(case["group"], []).append(case)
        cases.update(groups)
        when = f"{env['date']}, commit {env['commit']}, {run['rounds']} rounds{form}, load before {env['load_before']}"
        taken.update(dict.fromkeys(groups, when))
        forms.update(dict.fromkeys(groups, "--quick" if run["quick"] else f"--rounds {run['rounds']}"))
    joined = [case for group in cases.values() for case in group]
    return {**runs[-1], "cases": joined, "taken": taken, "forms": forms}


def _contents(run: Mapping[str, Any], faults: Mapping[str, Any] | None) -> Iterator[str]:
    yield "[Taken on](#taken-on), [repeating it](#repeating-it), [targets](#targets), figures of"
    yield ""
    groups: dict[str, list[str]] = {}
    for case in run["cases"]:
        groups.setdefault(case["group"], []).append(f"[{case['title']}](#{anchor(case['title'])})")
    yield from (f"- {group}: {'; '.join(links)}" for group, links in groups.items())
    if faults:
        yield "- [faults](#faults)"
    yield ""


def anchor(heading: str) -> str:
    """Return what a link to the heading ends with, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _environment(run: Mapping[str, Any]) -> Iterator[str]:
    env = run["environment"]
    packages = ", ".join(f"{name} {number}" for name, number in env["packages"].items())
    yield "## Taken on"
    yield ""
    by_time: dict[str, list[str]] = {}
    for group, when in run["taken"].items():
        by_time.setdefault(when, []).append(group)
    yield from (f"- {when}: {', '.join(groups)}" for when, groups in by_time.items())
    yield f"- {env['cores']} cores ({env['cpu']}), {env['memory_gib']} GiB"
    yield f"- {env['system']}, Python {env['python']}, nats-server {env['nats_server']}, {packages}"
    yield f"- {env['network']}; {env['storage']}"
    yield ""


def _targets(run: Mapping[str, Any]) -> Iterator[str]:
    rows = [(case, target) for case in run["cases"] for target in case["targets"]]
    rows.sort(key=lambda row: row[1]["ok"])  # what is missed first
    failed = [case for case in run["cases"] if case["error"]]
    yield "## Targets"
    yield ""
    kinds: dict[str, list[bool]] = {"ratios": [], "counts that have to be 0": [], "other bounds": []}
    for _, target in rows:
        kinds[_kind(target)].append(target["ok"])
    parts = ", ".join(f"{sum(ok)} of {len(ok)} {kind}" for kind, ok in kinds.items() if ok)
    reached = sum(target["ok"] for _, target in rows)
    yield f"{reached} of {len(rows)} reached ({parts}); {len(failed)} measurements failed."
    yield "An aim is what we would like beyond a target; it does not count."
    yield ""
    yield "| what | target | aim | measured | |"
    yield "| --- | --- | --- | --- | --- |"
    for case, target in rows:
        word = "at least" if target["at_least"] else "at most"
        times = " ×" if target["is_ratio"] else ""
        aim = "" if target["aim"] is None else f"{target['aim']:g}{times}"
        value = _spread(target["value"], 1)
        title = case["title"].partition(":")[0]
        yield (
            f"| {title}: {target['text']} | {word} {_short(target['bound'])}{times} | {aim} | {value}{times} "
            f"| {'reached' if target['ok'] else _missed(case['group'])} |"
        )
    yield ""


def _kind(target: Mapping[str, Any]) -> str:
    if target["is_ratio"]:
        return "ratios"
    return "other bounds" if target["bound"] else "counts that have to be 0"


def _missed(group: str) -> str:
    return f"**missed** ([why]({WHY[group]}))" if group in WHY else "**missed**, not explained yet"


def _cases(run: Mapping[str, Any]) -> Iterator[str]:
    yield "## Figures"
    for case in run["cases"]:
        yield ""
        yield f"### {case['title']}"
        yield ""
        yield f"`python -m benchmarks --only {case['group']} {run['forms'][case['group']]}`"
        yield ""
        if case["error"]:
            yield f"Not measured: {case['error']}"
            continue
        names = [name for name in UNITS if any(name in entry["figures"] for entry in case["entries"].values())]
        yield f"| | {' | '.join(UNITS[name][0] for name in names)} |"
        yield f"| --- |{' --- |' * len(names)}"
        for label, entry in case["entries"].items():
            figures = entry["figures"]
            cells = [_spread(figures[name], UNITS[name][1]) if name in figures else "" for name in names]
            yield f"| {label} | {' | '.join(cells)} |"


def _faults(run: Mapping[str, Any]) -> Iterator[str]:
    env, rows = run["environment"], run["rows"]
    good = sum(row["ok"] for row in rows)
    yield ""
    yield "## Faults"
    yield ""
    yield "Real servers, processes and signals, under a steady load of numbered messages over two hops, every effect"
    yield "counted (`make faults`, one row by `python -m benchmarks.faults --only NAME`; `benchmarks/faults/`)."
    yield "Recovery: from the fault to an answer of every shard."
    yield ""
    yield f"{env['date']}, commit {env['commit']}: {good} of {len(rows)} rows good."
    if missing := run.get("missing"):
        yield ""
        yield f"The run was stopped before these rows: {', '.join(missing)}."
    yield ""
    yield "| fault | messages | lost | doubled | out of order | recovery, s | |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        recovery = "" if row["recovery_seconds"] is None else f"{row['recovery_seconds']:.2f}"
        counts = " | ".join(str(row[name]) for name in ("accepted", "lost", "doubled", "out_of_order"))
        end = "good" if row["ok"] else f"**failed**: {'; '.join(row['failures'])}".replace("|", "/")
        yield f"| {row['name']} | {counts} | {recovery} | {end} |"


def _spread(figure: Mapping[str, float], scale: float) -> str:
    median, low, high = (_short(figure[name] * scale) for name in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"


def _short(value: float) -> str:
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.page", description=__doc__)
    parser.add_argument(
        "--json", type=Path, action="append", help="of a run; groups of later ones replace earlier ones"
    )
    parser.add_argument("--faults", type=Path, default=FAULTS, help="of a run of the faults")
    parser.add_argument("--page", type=Path, default=PAGE, help="file to write")
    given = parser.parse_args()
    for file in given.json or [RUN]:
        if not file.is_file():
            parser.error(f"--json: there is no file {file}; `python -m benchmarks` writes {RUN}")
    if given.faults != FAULTS and not given.faults.is_file():
        parser.error(f"--faults: there is no file {given.faults}; `python -m benchmarks.faults` writes {FAULTS}")
    write(given.json or [RUN], given.page, given.faults)


def write(runs: Sequence[Path], target: Path, faults: Path | None = None) -> None:
    """Write the page of the JSON files of runs. faults: the file of the fault suite, if it is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    disturbed = json.loads(faults.read_text()) if faults is not None and faults.exists() else None
    target.write_text(page(merged([json.loads(run.read_text()) for run in runs]), disturbed))


if __name__ == "__main__":
    main()
