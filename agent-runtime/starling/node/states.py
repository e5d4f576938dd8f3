"""How far a runtime is, as it is seen from outside."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """In this order; a runtime may start again once it has stopped."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"

    @property
    def number(self) -> int:
        """For a gauge: 0 starting, 1 running, 2 draining, 3 stopped."""
        return list(RunState).index(self)
