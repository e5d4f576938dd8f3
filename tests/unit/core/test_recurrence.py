"""When a recurring timer comes next: never in the past, never doubled, those missed are left out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.recurrence import next_by_rule, next_occurrence
from starling.errors import SpecError

SECONDS = st.floats(0, 4e9)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("last", "every", "now", "then"),
    [
        (100, 5, 100, 105),
        (100, 5, 104.9, 105),
        (100, 5, 105, 110),
        (100, 5, 123, 125),
        (100, 5, 125, 130),
        (100, 5, 0, 105),
    ],
    ids=["at-once", "just-before", "on-time", "missed-some", "missed-some-on-time", "clock-went-back"],
)
def test_an_interval_keeps_its_beat(last: float, every: float, now: float, then: float) -> None:
    assert next_occurrence(last, every, "", now) == then


@given(st.floats(0, 2e9), st.floats(0.1, 1e6), st.floats(0, 2e9))
def test_the_next_occurrence_is_after_now_and_at_most_one_interval_away(last: float, every: float, now: float) -> None:
    then = next_occurrence(last, every, "", now)
    assert then >= now
    assert then <= max(now, last) + every * 1.001


@pytest.mark.parametrize(
    ("rule", "after", "then"),
    [
        ("*/15 * * * *", "2026-01-01T00:07:00", "2026-01-01T00:15:00"),
        ("*/15 * * * *", "2026-01-01T00:15:00", "2026-01-01T00:30:00"),
        ("0 3 * * 1", "2026-01-01T00:00:00", "2026-01-05T03:00:00"),
        ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
    ],
)
def test_a_rule_is_read_in_utc(rule: str, after: str, then: str) -> None:
    assert next_by_rule(rule, at(after)) == at(then)
    assert next_occurrence(at(after), 0.0, rule, at(after)) == at(then)


def test_a_rule_that_was_missed_comes_next_after_now() -> None:
    assert next_occurrence(at("2026-01-01T00:00:00"), 0.0, "0 * * * *", at("2026-01-03T12:30:00")) == at(
        "2026-01-03T13:00:00"
    )


@pytest.mark.parametrize("rule", ["never", "61 * * * *", "* * *", "0 0 31 2 *"])
def test_a_rule_that_is_none_or_never_comes_is_refused_by_name(rule: str) -> None:
    with pytest.raises(SpecError, match=r"^cron: .* is no cron rule that ever comes"):
        next_by_rule(rule, at("2026-01-01T00:00:00"))
