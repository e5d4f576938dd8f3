"""Figures of samples: latencies of one sample, median and spread of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

PERCENTILES: Final = {"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999, "max_us": 1.0}

Sample = Mapping[str, float]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the ordered values lie (nearest rank). Raises on no values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p99, p99.9 and maximum in microseconds."""
    ordered = sorted(seconds)
    return {name: percentile(ordered, share) * 1e6 for name, share in PERCENTILES.items()}


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of some values, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


def spreads(samples: Sequence[Sample]) -> dict[str, Spread]:
    """Return the spread of each figure that all samples have."""
    shared = set(samples[0]).intersection(*samples[1:])
    return {name: Spread.of([sample[name] for sample in samples]) for name in samples[0] if name in shared}


def ratios(ours: Sequence[Sample], theirs: Sequence[Sample], metric: str, theirs_metric: str = "") -> Spread:
    """Return our figure over theirs, round by round: what both suffer in a round cancels out."""
    return Spread.of([a[metric] / b[theirs_metric or metric] for a, b in zip(ours, theirs, strict=True)])
