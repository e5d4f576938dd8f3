"""When a stream that a message goes to counts as gone."""

from __future__ import annotations

from starling.core.limits import NO_ROUTE_AFTER


def has_been_long(since: float, connected_since: float | None, now: float) -> bool:
    """Whether a stream has been missing for too long: what was seen without a connection, or before it, says nothing.

    since: when it was first found missing; connected_since: of the present connection, None without one; all of one
    clock, in seconds.
    """
    return connected_since is not None and now - max(since, connected_since) >= NO_ROUTE_AFTER
