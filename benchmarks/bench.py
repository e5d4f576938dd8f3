"""Interleaved rounds: what is compared is measured in turn, within one run, and compared round by round."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.figures import Sample, Spread, ratios, spreads
from benchmarks.stage import Stage, StageOptions, stage

Measure = Callable[[], Awaitable[Sample]]
Load = Callable[..., Awaitable[Sample]]


def loading(load: Load, *arguments: Any, **parameters: Any) -> Measure:
    """Return an entry for `Bench.compare`: this load with these parameters."""
    return partial(load, *arguments, **parameters)


@dataclass(frozen=True, slots=True)
class Target:
    """What must be reached. metric: of the entry `ours`, over that of `theirs` when given, else as it is.

    at_least: otherwise at most. aim: what we would like beyond it.
    """

    text: str
    ours: str
    metric: str
    bound: float
    theirs: str | None = None
    theirs_metric: str = ""
    at_least: bool = True
    aim: float | None = None

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(slots=True)
class Outcome:
    """A target and what came of it."""

    target: Target
    value: Spread

    @property
    def ok(self) -> bool:
        return self.target.reached(self.value.median)


@dataclass(slots=True)
class Case:
    """One comparison: samples by entry, and the targets over them. error: why there are none."""

    group: str
    title: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "group": self.group,
            "title": self.title,
            "error": self.error,
            "entries": {
                label: {
                    "rounds": [dict(sample) for sample in samples],
                    "figures": {
                        name: {"median": s.median, "low": s.low, "high": s.high} for name, s in spreads(samples).items()
                    },
                }
                for label, samples in self.samples.items()
                if samples
            },
            "targets": [
                {
                    "text": outcome.target.text,
                    "bound": outcome.target.bound,
                    "at_least": outcome.target.at_least,
                    "aim": outcome.target.aim,
                    "is_ratio": outcome.target.theirs is not None,
                    "value": {
                        "median": outcome.value.median,
                        "low": outcome.value.low,
                        "high": outcome.value.high,
                    },
                    "ok": outcome.ok,
                }
                for outcome in self.outcomes
            ],
        }


class Bench:
    """One run. rounds: of each comparison; quick: short loads, to see that everything works."""

    def __init__(self, *, rounds: int, quick: bool, say: Callable[[str], None] = print) -> None:
        self.rounds = rounds
        self.quick = quick
        self.say = say
        self.group = ""
        self.cases: list[Case] = []
        self._folder = tempfile.TemporaryDirectory(prefix="starling-bench-")
        self._stages = 0

    def close(self) -> None:
        """Remove all data."""
        self._folder.cleanup()

    def size(self, full: int, quick: int) -> int:
        """Return the number for this run."""
        return quick if self.quick else full

    @property
    def seconds(self) -> float:
        """How long a load by time runs."""
        return 0.5 if self.quick else 3.0

    def folder(self) -> Path:
        """A new folder for data."""
        self._stages += 1
        made = Path(self._folder.name) / f"{self._stages}"
        made.mkdir()
        return made

    @asynccontextmanager
    async def mesh(self, **options: Any) -> AsyncIterator[Stage]:
        """A mesh of its own for some cases; options as of StageOptions."""
        async with stage(self.folder(), StageOptions(**options)) as made:
            yield made

    async def compare(
        self, title: str, entries: Mapping[str, Measure], targets: Sequence[Target] = (), *, rounds: int | None = None
    ) -> Case:
        """Measure the entries in turn, so many rounds, and judge the targets. An entry that fails fails the case."""
        case = Case(self.group, title)
        self.cases.append(case)
        labels = list(entries)
        try:
            for number in range(rounds or self.rounds):
                turned = labels[number % len(labels) :] + labels[: number % len(labels)]
                for label in turned:
                    case.samples.setdefault(label, []).append(await entries[label]())
        except Exception as error:
            case.error = _text(error)
            self.say(f"{title}: FAILED {case.error}")
            return case
        case.samples = {label: case.samples[label] for label in labels}
        for target in targets:
            case.outcomes.append(Outcome(target, _value(target, case.samples)))
        self._tell(case)
        return case

    def note(self, title: str, samples: Mapping[str, Sequence[Sample]], targets: Sequence[Target] = ()) -> Case:
        """Add what was measured in another way than by rounds."""
        case = Case(self.group, title, {label: list(rows) for label, rows in samples.items()})
        self.cases.append(case)
        for target in targets:
            case.outcomes.append(Outcome(target, _value(target, case.samples)))
        self._tell(case)
        return case

    def _tell(self, case: Case) -> None:
        self.say(case.title)
        for label, samples in case.samples.items():
            figures = ", ".join(f"{name} {short(s.median)}" for name, s in spreads(samples).items())
            self.say(f"    {label:34} {figures}")
        for outcome in case.outcomes:
            self.say(f"    {'ok  ' if outcome.ok else 'MISS'} {told(outcome)}")


def told(outcome: Outcome) -> str:
    """Return the target, its bound and what was measured, in one line."""
    target, value = outcome.target, outcome.value
    word = "at least" if target.at_least else "at most"
    unit = " times" if target.theirs is not None else ""
    return (
        f"{target.text}: {word} {target.bound:g}{unit}, "
        f"is {short(value.median)} ({short(value.low)} to {short(value.high)})"
    )


def _value(target: Target, samples: Mapping[str, Sequence[Sample]]) -> Spread:
    ours = samples[target.ours]
    if target.theirs is None:
        return Spread.of([sample[target.metric] for sample in ours])
    return ratios(ours, samples[target.theirs], target.metric, target.theirs_metric)


def short(value: float) -> str:
    """Return a figure as it is printed."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


async def within(seconds: float, group: Callable[[Bench], Awaitable[None]], bench: Bench) -> None:
    """Run a group; what goes wrong beyond a case, or takes too long, is a failed case of its own."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            await group(bench)
    except Exception as error:
        case = Case(bench.group, f"{bench.group}: did not finish", error=_text(error))
        bench.cases.append(case)
        bench.say(f"{case.title}: {case.error}")
    bench.say(f"    -- {bench.group} took {time.monotonic() - started:.0f} s")


def _text(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_text(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"[-600:]
