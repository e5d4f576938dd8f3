"""Subjects and filters as NATS has them: tokens between dots, `*` for one token, `>` for the rest."""

from __future__ import annotations

from functools import lru_cache


def is_filter(pattern: str) -> bool:
    """Whether a pattern has wildcards."""
    return "*" in pattern or ">" in pattern


@lru_cache(maxsize=4096)
def matches(pattern: str, subject: str) -> bool:
    """Whether a subject (without wildcards) falls under a pattern."""
    if not is_filter(pattern):
        return pattern == subject
    return overlaps(pattern, subject)


def overlaps(one: str, other: str) -> bool:
    """Whether some subject falls under both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)
