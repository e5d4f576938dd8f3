"""What counts as gone: only what was missing for a minute on one unbroken connection."""

from __future__ import annotations

import pytest
from starling.core.absence import has_been_long
from starling.core.limits import NO_ROUTE_AFTER


@pytest.mark.parametrize(
    ("since", "connected_since", "gone"),
    [
        (100.0, 0.0, True),
        (100.1, 0.0, False),
        (0.0, 100.0, True),
        (0.0, 100.1, False),
        (0.0, None, False),
    ],
    ids=["missing for a minute", "not yet", "connected for a minute", "connected again since", "not connected"],
)
def test_only_what_was_missing_for_a_minute_on_one_connection_is_gone(
    since: float, connected_since: float | None, gone: bool
) -> None:
    assert has_been_long(since, connected_since, 100.0 + NO_ROUTE_AFTER) is gone
