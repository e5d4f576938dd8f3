"""What the agents should end with: a group-by of the file in plain dicts, without any of their code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from examples.flights.replay import MISSING, Row, key_of

Fields = dict[str, Any]

COUNTED: Final = {"aircraft": ("flights",), "airport": ("departures", "arrivals")}
"""One message each: from these, lost and doubled ones are counted."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Key to fields, by agent type."""

    aircraft: Mapping[str, Fields]
    airports: Mapping[str, Fields]


@dataclass(frozen=True, slots=True)
class Comparison:
    """turns: handled, as the states tell; lost, doubled: messages; differences: a line for each field that differs."""

    turns: int
    lost: int
    doubled: int
    out_of_order: int
    differences: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether every state is what it should be."""
        return not (self.lost or self.doubled or self.out_of_order or self.differences)

    def __str__(self) -> str:
        return f"lost {self.lost}, doubled {self.doubled}, out of order {self.out_of_order}"


def expected(rows: Iterable[Row]) -> Expected:
    """Group the rows, which must be in the order of the replay."""
    aircraft: dict[str, Fields] = {}
    airports: dict[str, Fields] = {}
    for row in rows:
        cancelled = row.dep_delay in MISSING
        plane = aircraft.setdefault(key_of(row), _aircraft())
        plane["flights"] += 1
        plane["last_number"] += 1
        plane["cancelled"] += 1 if cancelled else 0
        if not cancelled:
            plane["miles"] += int(row.distance)
            plane["minutes_late"] += _minutes(row.arr_delay)
            plane["last_airport"] = row.dest
        for code, which, delay in (
            (row.origin, "departures", row.dep_delay),
            (row.dest, "arrivals", row.arr_delay),
        ):
            airport = airports.setdefault(code, _airport())
            airport[which] += 1
            airport["cancelled"] += 1 if cancelled else 0
            airport["total_delay"] += _minutes(delay)
            airport["carriers"][row.carrier] = airport["carriers"].get(row.carrier, 0) + 1
    return Expected(aircraft, airports)


def _aircraft() -> Fields:
    zeros = dict.fromkeys(("flights", "cancelled", "miles", "minutes_late", "last_number", "out_of_order"), 0)
    return {**zeros, "last_airport": ""}


def _airport() -> Fields:
    return {"departures": 0, "arrivals": 0, "cancelled": 0, "total_delay": 0, "carriers": {}}


def _minutes(text: str) -> int:
    return 0 if text in MISSING else int(text)


def compare(wanted: Expected, seen: Expected) -> Comparison:
    """Compare every agent, field by field. An agent that is missing in `seen` has handled nothing."""
    turns = lost = doubled = 0
    differences: list[str] = []
    for kind, should, has in (
        ("aircraft", wanted.aircraft, seen.aircraft),
        ("airport", wanted.airports, seen.airports),
    ):
        for key in sorted({*should, *has}):
            fresh = _aircraft() if kind == "aircraft" else _airport()
            want, got = should.get(key, fresh), has.get(key, fresh)
            for name in COUNTED[kind]:
                turns += got[name]
                lost += max(0, want[name] - got[name])
                doubled += max(0, got[name] - want[name])
            differences += [
                f"{kind} {key}: {name} is {got.get(name)}, should be {want.get(name)}"
                for name in sorted({*want, *got})
                if want.get(name) != got.get(name)
            ]
    out_of_order = sum(plane["out_of_order"] for plane in seen.aircraft.values())
    return Comparison(turns, lost, doubled, out_of_order, tuple(differences))
