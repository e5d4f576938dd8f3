"""Subscriptions: which topic types an agent type hears, and which agent of the type hears a message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from starling.core.ids import AgentId, TopicId, check_agent_type, check_key, check_topic_type
from starling.core.retry import RetryPolicy
from starling.errors import SpecError

REMEMBERED: Final = 4096
"""Topic types whose subscriptions are kept at hand."""

_WORD = r"(\*|[\w:=-]+)"
_PATTERN = re.compile(rf"({_WORD}\.)*({_WORD}|>)")


class Match(StrEnum):
    """How a subscription's topic is compared with a topic type."""

    EXACT = "exact"
    PREFIX = "prefix"
    PATTERN = "pattern"
    """Words between dots: ``*`` stands for one of them, ``>`` at the end for one or more."""


@dataclass(frozen=True, slots=True)
class SubscriptionRoute:
    """Topic types, and the agent type that hears them. key: of the one agent that does; None for the topic's source.

    retry: when a message that came by it is tried again; None: as the agent's pool says.
    """

    topic: str
    agent_type: str
    match: Match = Match.EXACT
    key: str | None = None
    retry: RetryPolicy | None = None

    def checked(self) -> SubscriptionRoute:
        """Return it, or raise SpecError."""
        check_agent_type(self.agent_type)
        if self.key is not None:
            check_key(self.key)
        if self.match is Match.PATTERN:
            check_topic_pattern(self.topic)
        else:
            check_topic_type(self.topic)
        return self


def is_topic_pattern(text: str) -> bool:
    """Whether a text can be a pattern of topic types."""
    return _PATTERN.fullmatch(text) is not None


def check_topic_pattern(text: str) -> str:
    """Return the pattern of topic types, or raise SpecError."""
    if not is_topic_pattern(text):
        raise SpecError(
            "topic pattern",
            f"{text!r} must be words between dots, each of word characters, '-', ':' and '=', or '*' for any word; "
            "the last may be '>' for one or more words",
        )
    return text


class Subscriptions:
    """Finds the subscriptions of a topic type: exact ones and prefixes by look-up, patterns one after the other."""

    def __init__(self, rows: Iterable[SubscriptionRoute]) -> None:
        self._rows = tuple(rows)
        self._exact: dict[str, list[int]] = {}
        self._prefixes: dict[str, list[int]] = {}
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        for number, row in enumerate(self._rows):
            if row.match is Match.EXACT:
                self._exact.setdefault(row.topic, []).append(number)
            elif row.match is Match.PREFIX:
                self._prefixes.setdefault(row.topic, []).append(number)
            else:
                self._patterns.append((_compiled(row.topic), number))
        self._lengths = sorted({len(prefix) for prefix in self._prefixes})
        self._found: dict[str, tuple[tuple[str, str | None], ...]] = {}
        self._has_retry = any(row.retry is not None for row in self._rows)

    def hearers(self, topic: TopicId) -> Iterable[AgentId]:
        """Return each agent that hears the topic, once, in the order of the table."""
        found = self._found.get(topic.type)
        if found is None:
            found = self._find(topic.type)
        agents = [AgentId(kind, topic.source if key is None else key) for kind, key in found]
        return agents if len(agents) < 2 else dict.fromkeys(agents)  # a fixed key may be the topic's source

    def retry(self, topic_type: str, agent_type: str) -> RetryPolicy | None:
        """Return the policy of the first subscription of the agent type that has one; None: the pool's holds."""
        if not self._has_retry:
            return None
        rows = (row for row in self._matching(topic_type) if row.agent_type == agent_type)
        return next((row.retry for row in rows if row.retry is not None), None)

    def _matching(self, topic_type: str) -> list[SubscriptionRoute]:
        """Return the rows that match, in the order of the table."""
        numbers = list(self._exact.get(topic_type, ()))
        for length in self._lengths:
            if length > len(topic_type):
                break
            numbers += self._prefixes.get(topic_type[:length], ())
        numbers += [number for pattern, number in self._patterns if pattern.fullmatch(topic_type)]
        return [self._rows[number] for number in sorted(numbers)]

    def _find(self, topic_type: str) -> tuple[tuple[str, str | None], ...]:
        found = tuple(dict.fromkeys((row.agent_type, row.key) for row in self._matching(topic_type)))
        if len(self._found) >= REMEMBERED:
            self._found.clear()
        self._found[topic_type] = found
        return found


def _compiled(pattern: str) -> re.Pattern[str]:
    words = {"*": r"[^.]+", ">": r".+"}
    return re.compile(r"\.".join(words.get(word) or re.escape(word) for word in pattern.split(".")))
