"""What an agent type says of itself: enough to tell a message that it takes from one that it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starling import Agent, Context, event, message, query, register_codec
from starling.agent import definition
from starling.introspection import describe


@message("told.Base")
@dataclass
class Base:
    number: int = 0


@message("told.Derived")
@dataclass
class Derived(Base):
    text: str = ""


@message("told.Odd")
class Odd(BaseModel):
    then: Callable[[], int] | None = None


class Foreign:
    """A class of another library, with a codec of its own."""


class _ForeignCodec:
    def dump(self, value: Foreign) -> bytes:
        return b"foreign"

    def load(self, body: bytes) -> Foreign:
        return Foreign()


register_codec(Foreign, _ForeignCodec(), name="told.Foreign")


class Teller(Agent[None], type="teller"):
    """Tells."""

    @event
    async def based(self, message: Base) -> None: ...

    @event
    async def foreign(self, message: Foreign) -> None: ...

    @event
    async def odd(self, message: Odd) -> None: ...

    @query
    async def asked(self, message: str) -> int:
        return 1


class Taker(Agent[None], type="taker"):
    async def on_unhandled(self, message: object, ctx: Context) -> None: ...


def taken(cls: type[Agent[Any]]) -> dict[str, Any]:
    return {name: schema for handler in describe(definition(cls)).handlers for name, schema in handler.takes.items()}


def test_registered_messages_of_derived_classes_are_taken_as_well_and_said_to_be() -> None:
    found = taken(Teller)
    assert set(found) == {"told.Base", "told.Derived", "told.Foreign", "told.Odd", "str"}
    assert set(found["told.Derived"]["properties"]) == {"number", "text"}


def test_a_message_without_a_schema_is_named_and_nothing_is_said_of_its_body() -> None:
    assert taken(Teller)["told.Foreign"] == {}
    assert taken(Teller)["told.Odd"] == {}


def test_whether_a_type_takes_what_none_of_its_handlers_names_is_said() -> None:
    assert describe(definition(Taker)).to_json()["takes_others"] is True
    assert describe(definition(Teller)).to_json()["takes_others"] is False
