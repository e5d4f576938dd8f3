"""The agent class: its type, its state, its instances."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Generic

import pytest
from pydantic import BaseModel, Field
from starling import Agent, AgentId, event
from starling.agent import definition
from starling.errors import DecodeError, SpecError, StateUnreadable
from typing_extensions import TypeVar


class Wallet(BaseModel):
    cents: int = 0


@dataclass
class Ledger:
    lines: list[str] = field(default_factory=list)


S = TypeVar("S")


class Base(Agent[S], Generic[S]):
    """A base class for agents, with its state left open."""

    @event
    async def take(self, message: int) -> None: ...


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("WeatherStation", "weather_station"),
        ("Airport", "airport"),
        ("HTTPGateway", "http_gateway"),
        ("Gate2", "gate2"),
        ("A380Fleet", "a380_fleet"),
        ("_Hidden", "_hidden"),
        ("already_lower", "already_lower"),
    ],
)
def test_the_type_comes_from_the_class_name(name: str, expected: str) -> None:
    cls: Any = type(name, (Agent,), {})
    assert (cls.type, definition(cls).type) == (expected, expected)


def test_the_type_may_be_given_and_is_not_inherited() -> None:
    class Named(Agent):
        type = "fleet.plane-1"

    class Keyword(Agent, type="other"): ...

    class Child(Keyword): ...

    assert [definition(cls).type for cls in (Named, Keyword, Child)] == ["fleet.plane-1", "other", "child"]


@pytest.mark.parametrize("given", ["a b", "", "1a", "a/b", "x" * 64, 5])
def test_a_type_that_is_no_agent_type_is_refused_by_the_class_name(given: Any) -> None:
    with pytest.raises(SpecError, match=r"Wrong\.type"):

        class Wrong(Agent):
            type = given

    with pytest.raises(SpecError, match=r"Keyword\.type"):

        class Keyword(Agent, type=given): ...


def test_two_types_for_one_class_are_refused() -> None:
    with pytest.raises(SpecError, match="two types"):

        class Torn(Agent, type="a"):
            type = "b"


def test_state_is_a_model_a_dataclass_or_nothing() -> None:
    class WithModel(Agent[Wallet]): ...

    class WithDataclass(Agent[Ledger]): ...

    class Bare(Agent): ...

    class Nothing(Agent[None]): ...

    made = [definition(cls) for cls in (WithModel, WithDataclass, Bare, Nothing)]
    assert [one.new_state() for one in made] == [Wallet(), Ledger(), None, None]
    assert [one.has_state for one in made] == [True, True, False, False]


def test_each_new_state_is_its_own() -> None:
    class Accounts(Agent[Ledger]): ...

    definition(Accounts).new_state().lines.append("x")
    assert definition(Accounts).new_state() == Ledger()


def test_state_and_handlers_come_through_base_classes() -> None:
    class Purse(Base[Wallet]): ...

    class Small(Purse): ...

    assert isinstance(definition(Small).new_state(), Wallet)
    assert list(definition(Small).handlers) == ["take"]
    with pytest.raises(SpecError, match="its state is not given yet"):
        definition(Base)


@pytest.mark.parametrize("state", [dict, int, "Wallet", list[int], Any])
def test_another_kind_of_state_is_refused_at_the_class(state: Any) -> None:
    with pytest.raises(SpecError, match=r"Odd: state .* must be a pydantic model or a dataclass"):

        class Odd(Agent[state]): ...


def test_a_state_without_defaults_is_refused_at_the_class() -> None:
    class Model(BaseModel):
        owner: str

    @dataclass
    class Record:
        owner: str

    for state in (Model, Record):
        with pytest.raises(SpecError, match=f"Odd: state {state.__name__} needs a default for every field"):

            class Odd(Agent[state]):  # type: ignore[valid-type]
                ...


@pytest.mark.row("RT-14")
def test_a_state_that_could_not_be_loaded_again_is_refused_when_it_is_stored() -> None:
    class Till(Agent[Wallet]): ...

    made = definition(Till)
    state = made.new_state()
    assert made.load_state(made.dump_state(state)) == state
    state.cents = "many"
    with pytest.raises(DecodeError, match=r"state of till\.cents: Input should be a valid integer, not str"):
        made.dump_state(state)
    with pytest.raises(DecodeError, match="state of till: is a dict, not a Wallet"):
        made.dump_state({"cents": 1})
    with pytest.raises(StateUnreadable, match=r"state of till\.cents"):
        made.load_state(b'{"cents": "1"}')


def test_a_large_state_is_not_a_message_and_has_no_limit_here() -> None:
    class Archive(Agent[Ledger]): ...

    made = definition(Archive)
    assert len(made.dump_state(Ledger(["x" * 1000] * 1000))) > 1_000_000


def test_a_state_that_breaks_its_own_bound_is_refused() -> None:
    class Bounded(BaseModel):
        level: int = Field(default=0, ge=0)

    class Tank(Agent[Bounded]): ...

    state = definition(Tank).new_state()
    state.level = -1
    with pytest.raises(DecodeError, match=r"state of tank\.level"):
        definition(Tank).dump_state(state)


def test_an_agent_has_its_id_and_state_when_its_own_init_runs() -> None:
    class Cached(Agent[Wallet]):
        def __init__(self) -> None:
            self.seen = (self.id, self.state.cents)

    agent = definition(Cached).new_agent(AgentId("cached", "k"), Wallet(cents=7))
    assert isinstance(agent, Cached)
    assert agent.seen == (AgentId("cached", "k"), 7)


def test_an_init_that_wants_arguments_is_refused_at_the_class() -> None:
    with pytest.raises(SpecError, match=r"Needy\.__init__: takes no arguments; 'database' has nobody to give it"):

        class Needy(Agent):
            def __init__(self, database: str) -> None: ...


def test_the_log_says_which_agent_speaks_beside_what_the_handler_adds(caplog: pytest.LogCaptureFixture) -> None:
    class Talker(Agent): ...

    agent = definition(Talker).new_agent(AgentId("talker", "a/b"), None)
    with caplog.at_level(logging.INFO):
        agent.log.info("hello", extra={"count": 3})
    record = vars(caplog.records[0])
    assert (record["name"], record["agent"], record["count"]) == ("starling.agents.talker", "talker/a/b", 3)


@pytest.mark.parametrize("wrong", [object, Wallet, "Airport", None])
def test_only_agent_classes_have_a_definition(wrong: Any) -> None:
    with pytest.raises(SpecError, match="is not an Agent class"):
        definition(wrong)


def test_a_handler_may_call_the_one_that_it_overrides() -> None:
    class Parent(Agent[Ledger]):
        @event
        async def take(self, message: str, ctx: Any) -> None:
            self.state.lines.append(message)

    class Child(Parent):
        @event
        async def take(self, message: str, ctx: Any) -> None:
            await super().take(message.upper(), ctx)

    made = definition(Child)
    agent = made.new_agent(AgentId("child", "k"), Ledger())
    with pytest.raises(StopIteration):
        made.handlers["take"].start(agent, "x", None).send(None)
    assert agent.state == Ledger(["X"])
