"""What a caller gets wrong is a SpecError that names the field, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import starling
from starling import Agent, event
from starling.errors import SpecError
from starling.testing import mesh


@dataclass
class Heard:
    total: int = 0


@dataclass
class Said: ...


class Listener(Agent[Heard]):
    @event
    async def heard(self, message: Said) -> None:
        self.state.total += 1


async def test_a_topic_that_is_only_its_text_is_refused() -> None:
    async with mesh(Listener, subscriptions={"said": Listener}) as made:
        with pytest.raises(SpecError, match=r"^topic: 'said' is none; give a TopicId, or a Topic called with its"):
            await made.publish("said", Said())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("agents", "options", "problem"),
    [
        ((Heard,), {}, "^agent: .*Heard'> is not an Agent class"),
        ((Listener,), {"shards": 0}, "^shards: is 0; give 1 to 1024"),
        ((Listener,), {"shards": 1025}, "^shards: is 1025; give 1 to 1024"),
    ],
)
async def test_a_mesh_for_tests_refuses_what_is_no_agent_and_shards_that_cannot_be(
    agents: tuple[Any, ...], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SpecError, match=problem):
        async with mesh(*agents, **options):
            pass


async def test_a_name_that_no_mesh_can_have_is_refused_before_a_server_is_looked_for() -> None:
    with pytest.raises(SpecError, match=r"^mesh: 'a b' must be made of letters, digits and '-' only"):
        async with starling.connect("nats://127.0.0.1:1", mesh="a b"):
            pass
