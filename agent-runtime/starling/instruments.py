"""Instruments for agent authors: counters, gauges, histograms and timers, on the worker's /metrics beside its own.

    SEATS = instruments.counter("seats_sold", "Seats sold.", labels={"cabin": ("first", "economy")})
    SEATS.add(2, cabin="first")

Every label says its values beforehand; any other value counts as "other". So the number of series has a bound.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from starling.errors import SpecError

P = ParamSpec("P")
T = TypeVar("T")

Labels = Mapping[str, Sequence[str]]

OTHER: Final = "other"
MAX_SERIES: Final = 1000
"""Of one instrument: the product of the sizes of its labels."""
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


class _Instrument:
    def __init__(self, name: str, labels: Labels) -> None:
        self.name = name
        self._labels = {label: frozenset(values) for label, values in labels.items()}

    def _values(self, given: Mapping[str, str]) -> tuple[str, ...]:
        if given.keys() != self._labels.keys():
            wanted = ", ".join(self._labels) or "no labels"
            raise SpecError(f"{self.name}.labels", f"has {', '.join(given) or 'none'}; give {wanted}")
        return tuple(value if (value := given[label]) in known else OTHER for label, known in self._labels.items())


class Counter(_Instrument):
    """Only grows. On /metrics its name ends in `_total`."""

    def __init__(self, name: str, text: str, labels: Labels, registry: CollectorRegistry) -> None:
        super().__init__(name, labels)
        self._metric = prometheus_client.Counter(name, text, tuple(labels), registry=registry)

    def add(self, amount: float = 1, **labels: str) -> None:
        """Raises SpecError for a negative amount."""
        if not amount >= 0:
            raise SpecError(self.name, f"a counter only grows: {amount!r} cannot be added")
        _of(self._metric, self._values(labels)).inc(amount)

    def value(self, **labels: str) -> float:
        """Return the sum so far."""
        return float(_of(self._metric, self._values(labels))._value.get())


class Gauge(_Instrument):
    """Shows the last value."""

    def __init__(self, name: str, text: str, labels: Labels, registry: CollectorRegistry) -> None:
        super().__init__(name, labels)
        self._metric = prometheus_client.Gauge(name, text, tuple(labels), registry=registry)

    def set(self, value: float, **labels: str) -> None:
        _of(self._metric, self._values(labels)).set(value)

    def value(self, **labels: str) -> float:
        """Return the last value."""
        return float(_of(self._metric, self._values(labels))._value.get())


class Histogram(_Instrument):
    """Counts values by size. buckets: upper bounds, growing; a quantile is as exact as the bucket it falls into."""

    def __init__(
        self, name: str, text: str, labels: Labels, registry: CollectorRegistry, buckets: Sequence[float]
    ) -> None:
        super().__init__(name, labels)
        if not buckets or any(a >= b for a, b in itertools.pairwise(buckets)):
            raise SpecError(f"{name}.buckets", f"is {tuple(buckets)}; give one or more bounds that grow")
        self._metric = prometheus_client.Histogram(name, text, tuple(labels), buckets=buckets, registry=registry)
        self._bounds = tuple(buckets)

    def record(self, value: float, **labels: str) -> None:
        _of(self._metric, self._values(labels)).observe(value)

    def total(self, **labels: str) -> float:
        """Return the sum of all values."""
        return float(_of(self._metric, self._values(labels))._sum.get())

    def count(self, **labels: str) -> int:
        """Return how many values there were."""
        return sum(self._counts(labels))

    def quantile(self, share: float, **labels: str) -> float:
        """Return the value below which this share (0 to 1) lies, spread evenly inside its bucket; NaN without values.

        Above the last bound it is that bound.
        """
        counts = self._counts(labels)
        rank = share * sum(counts)
        if not rank and not sum(counts):
            return float("nan")
        lower = below = 0.0
        for bound, count in zip(self._bounds, counts, strict=False):
            if count and below + count >= rank:
                return lower + (bound - lower) * max(0.0, rank - below) / count
            lower, below = bound, below + count
        return self._bounds[-1]

    def _counts(self, labels: Mapping[str, str]) -> list[int]:
        return [int(bucket.get()) for bucket in _of(self._metric, self._values(labels))._buckets]


class Timer(Histogram):
    """A histogram of seconds. `with timer.time(): …` and `@timer.timed`, in plain and in async code."""

    @contextmanager
    def time(self, **labels: str) -> Iterator[None]:
        """Measure a block, also one that raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.record(time.perf_counter() - started, **labels)

    def timed(self, function: Callable[P, T]) -> Callable[P, T]:
        """Measure every call of a function, of an async one until it has returned."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self.time():
                    return await function(*args, **kwargs)

            return awaited  # type: ignore[return-value]

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.time():
                return function(*args, **kwargs)

        return called


class Instruments(Collector):
    """Instruments on a registry of their own: one a process, and one a test that wants its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def collect(self) -> Iterable[Metric]:
        """What a worker's own registry takes over."""
        return self.registry.collect()

    def counter(self, name: str, text: str, *, labels: Labels | None = None) -> Counter:
        """Make a counter. labels: to their values. Raises SpecError, as all do."""
        return Counter(*self._checked(name, text, labels), self.registry)

    def gauge(self, name: str, text: str, *, labels: Labels | None = None) -> Gauge:
        """Make a gauge."""
        return Gauge(*self._checked(name, text, labels), self.registry)

    def histogram(self, name: str, text: str, *, buckets: Sequence[float], labels: Labels | None = None) -> Histogram:
        """Make a histogram; its name says the unit, such as `order_bytes`."""
        return Histogram(*self._checked(name, text, labels), self.registry, buckets)

    def timer(self, name: str, text: str, *, buckets: Sequence[float] = SECONDS, labels: Labels | None = None) -> Timer:
        """Make a timer; its name ends in `_seconds`."""
        if not name.endswith("_seconds"):
            raise SpecError(f"instruments.{name}", f"measures seconds: call it {name}_seconds")
        return Timer(*self._checked(name, text, labels), self.registry, buckets)

    def _checked(self, name: str, text: str, labels: Labels | None) -> tuple[str, str, Labels]:
        where = f"instruments.{name}"
        if not _NAME.fullmatch(name) or name.startswith("starling_"):
            raise SpecError(where, "a name has small letters, digits and _, and starling_ is the mesh's own")
        if any(name in (known, known.removesuffix("_total")) for known in self._names()):
            raise SpecError(where, "is there already; make it once, at the top of a module")
        series = 1
        for label, values in (labels or {}).items():
            if not _NAME.fullmatch(label) or isinstance(values, str) or not values:
                raise SpecError(f"{where}.labels.{label}", "give a name in small letters and all of its values")
            series *= len(set(values)) + 1
        if series > MAX_SERIES:
            raise SpecError(f"{where}.labels", f"make {series} series, at most {MAX_SERIES}")
        return name, text, labels or {}

    def _names(self) -> set[str]:
        return set(self.registry._names_to_collectors)


def _of(metric: Any, values: tuple[str, ...]) -> Any:
    return metric.labels(*values) if values else metric


instruments: Final = Instruments()
"""Those of this process."""
