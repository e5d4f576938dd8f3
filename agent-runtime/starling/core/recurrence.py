"""When a recurring timer comes next."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from starling.errors import SpecError


def next_occurrence(last: float, every: float, cron: str, now: float) -> float:
    """Return the first occurrence after `now`, seconds since 1970; those missed meanwhile are left out.

    last: the occurrence before; every: seconds between two; cron: a rule in UTC that comes before `every`.
    """
    if cron:
        return next_by_rule(cron, max(last, now))
    if last + every > now:
        return last + every
    return last + every * (math.floor((now - last) / every) + 1)


def next_by_rule(cron: str, after: float) -> float:
    """Return the first time after `after` that a cron rule names, both in seconds since 1970. Raises SpecError."""
    try:
        return next(CronSim(cron, datetime.fromtimestamp(after, UTC))).timestamp()
    except (CronSimError, StopIteration) as error:
        raise SpecError("cron", f"{cron!r} is no cron rule that ever comes: {error}") from error
