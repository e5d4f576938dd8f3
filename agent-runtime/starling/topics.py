"""Topics as people name them, and who hears them where there are no manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starling.agent import Agent, definition
from starling.core.ids import TopicId, check_topic_type
from starling.core.subscriptions import Match, SubscriptionRoute
from starling.errors import SpecError

Hears = type[Agent[Any]] | Sequence[type[Agent[Any]]]
Subscribed = Mapping[str, Hears] | Sequence[SubscriptionRoute]
"""Topic type to the agent class, or classes, that hear it; or what `exact`, `prefix` and `pattern` return."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic type. Called with a source it is one topic: with ``MOVED = Topic("airport.moved")``, ``MOVED("EWR")``."""

    type: str

    def __post_init__(self) -> None:
        check_topic_type(self.type)

    def __call__(self, source: str) -> TopicId:
        return TopicId(self.type, source)


def exact(topic: str, agent: type[Agent[Any]] | str, *, key: str | None = None) -> SubscriptionRoute:
    """Let agents of a class, or of a type, hear one topic type.

    key: of the one agent that hears it; without one it is the agent whose key is the topic's source. Raises SpecError.
    """
    return _subscription(topic, agent, Match.EXACT, key)


def prefix(start: str, agent: type[Agent[Any]] | str, *, key: str | None = None) -> SubscriptionRoute:
    """As `exact`, for all topic types that start with this text, such as ``user.``."""
    return _subscription(start, agent, Match.PREFIX, key)


def pattern(words: str, agent: type[Agent[Any]] | str, *, key: str | None = None) -> SubscriptionRoute:
    """As `exact`, for all topic types of this form: ``user.*.failed`` (any one word), ``user.>`` (one word or more)."""
    return _subscription(words, agent, Match.PATTERN, key)


def subscriptions_of(given: Subscribed | None) -> tuple[SubscriptionRoute, ...]:
    """Return the table's rows. Raises SpecError."""
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        rows = tuple(given)
        if wrong := [row for row in rows if not isinstance(row, SubscriptionRoute)]:
            raise SpecError("subscriptions", f"{wrong[0]!r} is none; give what exact, prefix and pattern return")
        return rows
    listed = {topic: classes if isinstance(classes, Sequence) else [classes] for topic, classes in given.items()}
    return tuple(exact(topic, cls) for topic, classes in listed.items() for cls in classes)


def _subscription(topic: str, agent: type[Agent[Any]] | str, match: Match, key: str | None) -> SubscriptionRoute:
    agent_type = agent if isinstance(agent, str) else definition(agent).type
    return SubscriptionRoute(topic, agent_type, match, key).checked()
