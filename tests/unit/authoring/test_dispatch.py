"""Which handler gets a message."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel
from starling import Agent, AgentId, Context, event, message, rpc
from starling.agent import AgentDefinition, definition
from starling.errors import CantHandle, DecodeError, UnregisteredType


class Animal(BaseModel):
    name: str = ""


@message
class Bird(Animal):
    wings: int = 2


@message
class Owl(Bird):
    pass


@message
class Stone(BaseModel):
    pass


class Zoo(Agent):
    @event
    async def any_animal(self, message: Animal) -> None: ...

    @event
    async def bird(self, message: Bird) -> None: ...

    @event(match=lambda bird: bird.wings == 3)
    async def z_strange(self, message: Bird) -> None: ...

    @event(match=lambda bird: bird.wings >= 3)
    async def y_winged(self, message: Bird) -> None: ...

    @rpc
    async def ask(self, message: Animal, ctx: Context) -> str:
        return message.name


def chosen(made: AgentDefinition, type_name: str, body: str = "{}", *, call: bool = False) -> str:
    handler, _ = made.find(type_name, body.encode(), call)
    return handler.name.rpartition(".")[2]


@pytest.mark.row("RT-33")
@pytest.mark.parametrize(
    ("type_name", "body", "call", "name"),
    [
        ("Animal", "{}", False, "any_animal"),
        ("Bird", "{}", False, "bird"),
        ("Owl", "{}", False, "bird"),
        ("Bird", '{"wings": 4}', False, "y_winged"),
        ("Bird", '{"wings": 3}', False, "y_winged"),
        ("Owl", '{"wings": 3}', False, "y_winged"),
        ("Owl", "{}", True, "ask"),
        ("Animal", "{}", True, "ask"),
    ],
)
def test_the_nearest_class_comes_first_then_match_by_name(type_name: str, body: str, call: bool, name: str) -> None:
    for _ in range(2):  # the second time from memory
        assert chosen(definition(Zoo), type_name, body, call=call) == name


def test_a_handler_of_a_base_gets_the_subclass_itself() -> None:
    _, message = definition(Zoo).find("Owl", b'{"wings": 1}', True)
    assert message == Owl(wings=1)


def test_when_no_match_says_so_the_base_is_asked_and_then_nobody() -> None:
    class Aviary(Agent):
        @event(match=lambda bird: bird.wings == 3)
        async def strange(self, message: Bird) -> None: ...

        @event(match=lambda animal: animal.name == "Ada")
        async def named(self, message: Animal) -> None: ...

    made = definition(Aviary)
    assert chosen(made, "Bird", '{"name": "Ada", "wings": 3}') == "strange"
    assert chosen(made, "Bird", '{"name": "Ada"}') == "named"
    with pytest.raises(CantHandle, match="none of their `match` says so"):
        chosen(made, "Bird")


@pytest.mark.row("RT-33")
def test_an_error_in_a_match_is_not_taken_for_no() -> None:
    class Faulty(Agent):
        @event(match=lambda _: 1 // 0 == 0)
        async def a_faulty(self, message: Stone) -> None: ...

        @event
        async def fallback(self, message: Stone) -> None: ...

    with pytest.raises(ZeroDivisionError):
        definition(Faulty).find("Stone", b"{}", False)


@pytest.mark.row("RT-20")
def test_a_call_that_nobody_takes_is_refused_by_name() -> None:
    with pytest.raises(CantHandle, match="zoo has no handler that takes Stone"):
        definition(Zoo).find("Stone", b"{}", True)
    with pytest.raises(CantHandle, match="zoo has no handler that takes Stone"):
        definition(Zoo).find("Stone", b"{}", False)


@pytest.mark.row("RT-20")
async def test_an_event_that_nobody_takes_goes_to_the_hook() -> None:
    seen: list[object] = []

    class Curious(Agent):
        async def on_unhandled(self, message: object, ctx: Context) -> None:
            seen.append(message)

    made = definition(Curious)
    handler, message = made.find("Stone", b"{}", False)
    await handler.start(made.new_agent(AgentId("curious", "k"), None), message, None)
    assert seen == [Stone()]
    with pytest.raises(CantHandle):
        made.find("Stone", b"{}", True)


def test_a_type_that_was_never_heard_of_is_another_error() -> None:
    with pytest.raises(UnregisteredType, match="NeverHeardOf"):
        definition(Zoo).find("NeverHeardOf", b"{}", False)


def test_a_type_that_is_registered_later_is_taken_then() -> None:
    class Late(Agent):
        @event
        async def any_animal(self, message: Animal) -> None: ...

    with pytest.raises(UnregisteredType):
        chosen(definition(Late), "Lynx")

    @message
    class Lynx(Animal):
        pass

    assert chosen(definition(Late), "Lynx") == "any_animal"


def test_a_body_or_content_type_that_does_not_fit_is_refused() -> None:
    made = definition(Zoo)
    assert chosen(made, "Animal") == "any_animal"
    with pytest.raises(DecodeError, match=r"Animal\.name"):
        made.find("Animal", b'{"name": 1}', False)
    with pytest.raises(DecodeError, match="pickle"):
        made.find("Animal", b"{}", False, "pickle")
    assert made.find("Animal", b"{}", False, "application/json")[1] == Animal()


def test_a_call_may_go_to_an_event_and_an_event_to_an_rpc() -> None:
    class Mixed(Agent):
        @event
        async def told(self, message: Bird) -> None: ...

        @rpc
        async def asked(self, message: Stone) -> int:
            return 1

    assert chosen(definition(Mixed), "Bird", call=True) == "told"
    assert chosen(definition(Mixed), "Stone") == "asked"


def test_one_handler_may_take_several_classes() -> None:
    class Wide(Agent):
        @event
        async def either(self, message: Stone | Bird | None) -> None: ...

        @event
        async def number(self, message: int) -> None: ...

    assert chosen(definition(Wide), "Stone") == "either"
    assert chosen(definition(Wide), "Owl") == "either"
    assert chosen(definition(Wide), "none", "null") == "either"
    assert chosen(definition(Wide), "int", "1") == "number"
    with pytest.raises(CantHandle, match="bool"):
        chosen(definition(Wide), "bool", "true")


SCRIPT = """
from typing import Any
from pydantic import BaseModel
from starling import Agent, event
from starling.agent import definition
class Ping(BaseModel): pass
def always(message: Any) -> bool: return True
async def take(self: Any, message: Ping) -> None: ...
names = ["zeta", "alpha", "kappa", "eta", "iota", "beta"]
Many = type("Many", (Agent,), {name: event(match=always)(take) for name in names})
print(definition(Many).find("Ping", b"{}", False)[0].name, *definition(Many).handlers)
"""


@pytest.mark.row("RT-33")
async def test_the_order_does_not_depend_on_the_hash_seed() -> None:
    async def order(seed: int) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, env={**os.environ, "PYTHONHASHSEED": str(seed)}, stdout=subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        return out.decode().strip()

    found = {await order(seed) for seed in range(4)}
    assert found == {"Many.alpha alpha beta eta iota kappa zeta"}


@pytest.mark.parametrize("kind", [event, rpc])
async def test_a_handler_is_started_with_what_it_asks_for(kind: Any) -> None:
    got: list[Any] = []

    async def bare(self: Any, message: Stone) -> None:
        got.append((self, message))

    async def full(self: Any, message: Bird, context: Context) -> None:
        got.append((self, message, context))

    made = definition(type("Counted", (Agent,), {"bare": kind(bare), "full": kind(full)}))
    context: Any = object()
    await made.handlers["bare"].start("agent", Stone(), context)
    await made.handlers["full"].start("agent", Bird(), context)
    assert got == [("agent", Stone()), ("agent", Bird(), context)]
