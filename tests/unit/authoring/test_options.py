"""What an agent class says of how its agents are kept, and its lifecycle hooks."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import BaseModel
from starling import Agent, AgentId, Context, event
from starling.agent import AgentOptions, definition
from starling.errors import AgentConstructionError, SpecError

KEY = AgentId("till", "1")


class Wallet(BaseModel):
    cents: int = 0


def test_options_are_given_with_the_class_and_inherited() -> None:
    class Base(Agent, version=2, durability="none", ordered=False, idle=5.0): ...

    class Child(Base, version=3): ...

    class Plain(Agent): ...

    assert definition(Base).options == AgentOptions(version=2, durability="none", ordered=False, idle=5.0)
    assert definition(Child).options == AgentOptions(version=3, durability="none", ordered=False, idle=5.0)
    assert definition(Plain).options == AgentOptions(version=1, durability="committed", ordered=True, idle=600.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("version", 0),
        ("version", "2"),
        ("durability", "some"),
        ("ordered", 1),
        ("idle", 0),
        ("idle", -1.0),
        ("idle", math.nan),
        ("idle", "600"),
    ],
)
def test_a_wrong_option_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(SpecError, match=rf"Wrong\.{option}: is .*; give"):
        type("Wrong", (Agent,), {}, **{option: value})


def test_a_pool_may_override_durability_and_idle_for_itself_only() -> None:
    class Till(Agent[Wallet]): ...

    made = definition(Till)
    own = made.with_options(durability="none", idle=3.0)
    assert (own.durability, own.idle, own.is_recorded) == ("none", 3.0, False)
    assert (made.durability, made.idle, made.is_recorded) == ("committed", 600.0, True)
    assert own.type == "till"
    with pytest.raises(SpecError, match=r"till\.durability"):
        made.with_options(durability="never")


async def test_on_activate_runs_with_id_and_state_before_the_agent_is_used() -> None:
    class Till(Agent[Wallet]):
        opened: tuple[str, int]

        async def on_activate(self) -> None:
            self.opened = (self.id.key, self.state.cents)

    made = definition(Till)
    agent = await made.activated(KEY, Wallet(cents=5))
    assert isinstance(agent, Till)
    assert agent.opened == ("1", 5)
    assert made.activation_waits
    assert made.hooks == {"on_activate"}


def test_an_agent_without_hooks_needs_no_waiting() -> None:
    class Till(Agent[Wallet]): ...

    assert not definition(Till).activation_waits
    assert not definition(Till).hooks


async def test_a_factory_makes_the_instance_which_then_has_its_id_and_state() -> None:
    class Till(Agent[Wallet]):
        def __init__(self, rate: float = 1.0) -> None:
            self.rate = rate

    async def later() -> Till:
        return Till(0.5)

    for factory in (later, lambda: Till(0.5)):
        agent = await definition(Till).with_options(factory=factory).activated(KEY, Wallet(cents=5))
        assert isinstance(agent, Till)
        assert (agent.rate, agent.id, agent.state) == (0.5, KEY, Wallet(cents=5))
    with pytest.raises(AgentConstructionError, match=r"its factory made a int, not a .*Till"):
        await definition(Till).with_options(factory=lambda: 5).activated(KEY, Wallet())


@pytest.mark.parametrize("name", ["on_activate", "on_passivate", "on_close"])
def test_a_hook_that_blocks_or_takes_more_is_refused(name: str) -> None:
    def blocking(self: Any) -> None: ...

    async def wide(self: Any, more: int) -> None: ...

    with pytest.raises(SpecError, match=rf"Wrong\.{name}: a hook must be `async def`"):
        type("Wrong", (Agent,), {name: blocking})
    with pytest.raises(SpecError, match=rf"Wrong\.{name}: a hook takes nothing but"):
        type("Wrong", (Agent,), {name: wide})


def test_a_hook_is_no_handler() -> None:
    async def hook(self: Any, message: Wallet, ctx: Context) -> None: ...

    with pytest.raises(SpecError):
        type("Wrong", (Agent,), {"on_close": event(hook)})


def test_a_view_for_a_query_shares_what_the_instance_has_and_not_its_state() -> None:
    class Till(Agent[Wallet]):
        def __init__(self) -> None:
            self.client = object()

    made = definition(Till)
    live: Any = made.new_agent(KEY, Wallet(cents=1))
    view: Any = made.view(KEY, Wallet(cents=2), live)
    assert view.client is live.client
    assert (view.state.cents, live.state.cents) == (2, 1)
    assert made.view(KEY, Wallet(cents=3), None).state == Wallet(cents=3)
