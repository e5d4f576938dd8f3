"""What a run of the demo came to, as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from examples.flights.expected import Comparison

SHOWN = 20


@dataclass(slots=True)
class Check:
    """ok: it holds; reason: what was seen."""

    ok: bool
    reason: str


@dataclass(slots=True)
class Result:
    """None: the run did not come so far. seconds: from the first publish until everything was handled."""

    mode: str
    flights: int | None = None
    turns: int | None = None
    lost: int | None = None
    doubled: int | None = None
    out_of_order: int | None = None
    kills: int = 0
    operator_kills: int = 0
    moves: int = 0
    scale_ups: int = 0
    recovery_seconds: float | None = None
    held_seconds: float | None = None
    seconds: float | None = None
    turns_per_second: float | None = None
    moves_seen: list[str] = field(default_factory=list)
    scale_ups_seen: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every check holds; without any, nothing was shown."""
        return bool(self.checks) and all(check.ok for check in self.checks.values())

    def check(self, name: str, ok: bool, reason: str) -> None:
        """Note a check; one that failed once stays failed."""
        if name not in self.checks or self.checks[name].ok:
            self.checks[name] = Check(ok, reason)

    def compared(self, comparison: Comparison) -> None:
        """Note what the comparison of all states found."""
        self.turns = comparison.turns
        self.lost = comparison.lost
        self.doubled = comparison.doubled
        self.out_of_order = comparison.out_of_order
        self.differences = list(comparison.differences[:SHOWN])
        self.check("lost", not comparison.lost, f"{comparison.lost} messages lost")
        self.check("doubled", not comparison.doubled, f"{comparison.doubled} messages doubled")
        self.check("order", not comparison.out_of_order, f"{comparison.out_of_order} messages out of order")
        many = len(comparison.differences)
        first = f", first: {comparison.differences[0]}" if many else ""
        self.check("states", not many, f"{many} fields differ from the file's own group-by{first}")

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"ok": self.ok, **asdict(self)}, indent=2) + "\n")
        part.replace(path)

    def last_line(self) -> str:
        """The three numbers that count."""
        lost, doubled, disordered = (
            "unknown" if value is None else value for value in (self.lost, self.doubled, self.out_of_order)
        )
        return f"lost {lost}, doubled {doubled}, out of order {disordered}"
