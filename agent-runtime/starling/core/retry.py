"""When a failed turn is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError

from starling.core import limits
from starling.errors import DoNotRetry, MessageError, NotDeterministic, RouteError, WorkerLost

FINAL = (DoNotRetry, MessageError, NotDeterministic, RouteError, TypeError, ValidationError, WorkerLost)
"""Errors of which a further attempt would make nothing better."""


class Backoff(StrEnum):
    """How the pause grows from attempt to attempt."""

    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """attempts: how often a handler runs at most; initial and cap in seconds; jitter spreads over half of the pause."""

    attempts: int = limits.ATTEMPTS
    backoff: Backoff = Backoff.EXPONENTIAL
    initial: float = limits.BACKOFF_FIRST
    cap: float = limits.BACKOFF_CAP
    jitter: bool = True

    def pause(self, failed: int, chance: float) -> float:
        """Return the seconds to wait after `failed` failed attempts (1 or more); chance: from 0 to 1."""
        if self.backoff is Backoff.FIXED:
            pause = self.initial
        elif self.backoff is Backoff.LINEAR:
            pause = self.initial * failed
        else:
            pause = self.initial * 2.0 ** min(failed - 1, 60)
        pause = min(pause, self.cap)
        return pause * (0.5 + chance / 2) if self.jitter else pause

    def retries(self, error: BaseException, attempt: int) -> bool:
        """Whether attempt number `attempt`, which ended in `error`, is followed by another."""
        return attempt < self.attempts and is_retryable(error)


def is_retryable(error: BaseException) -> bool:
    """Whether trying again may help: any exception but those that say it cannot."""
    return isinstance(error, Exception) and not isinstance(error, FINAL)
