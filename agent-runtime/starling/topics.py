"""Topics as people name them."""

from __future__ import annotations

from dataclasses import dataclass

from starling.core.ids import TopicId, check_topic_type


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic type. Called with a source it is one topic: with ``MOVED = Topic("airport.moved")``, ``MOVED("EWR")``."""

    type: str

    def __post_init__(self) -> None:
        check_topic_type(self.type)

    def __call__(self, source: str) -> TopicId:
        return TopicId(self.type, source)
