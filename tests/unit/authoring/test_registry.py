"""Names on the wire, and what is not taken."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from starling import messages
from starling.errors import DecodeError, SpecError, UnregisteredType
from starling.messages import Registry, message


class Parcel(BaseModel):
    weight: int = 0


@dataclass
class Letter:
    text: str = ""


def twin() -> type:
    @dataclass
    class Letter:
        other: int = 0

    return Letter


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_a_class_is_named_by_its_class_unless_pinned(registry: Registry) -> None:
    registry.register(Parcel)
    registry.register(Letter, "post.letter")
    assert registry.encode(Parcel())[0] == "Parcel"
    assert registry.encode(Letter())[0] == "post.letter"
    assert registry.decode("post.letter", b'{"text":"x"}') == Letter("x")


@pytest.mark.row("RT-11", part="an unregistered type fails at the sender")
def test_a_class_that_is_not_registered_is_refused_at_the_sender(registry: Registry) -> None:
    with pytest.raises(UnregisteredType, match=r"Letter is not registered: put @message on it"):
        registry.encode(Letter())


def test_a_subclass_is_not_registered_with_its_base(registry: Registry) -> None:
    class Heavy(Parcel):
        more: int = 0

    registry.register(Parcel, "parcel")
    with pytest.raises(UnregisteredType, match="Heavy"):
        registry.encode(Heavy())
    assert registry.register(Heavy).name == "Heavy"


def test_two_classes_under_one_name_are_refused_and_both_are_named(registry: Registry) -> None:
    registry.register(Letter)
    with pytest.raises(SpecError) as refused:
        registry.register(twin())
    assert "test_registry.Letter" in str(refused.value)
    assert "twin.<locals>.Letter" in str(refused.value)


def test_a_class_whose_module_ran_again_takes_its_name_over(registry: Registry) -> None:
    first, second = twin(), twin()
    registry.register(first)
    registry.register(second)
    assert type(registry.decode("Letter", b'{"other": 1}')) is second


def test_one_class_has_one_name(registry: Registry) -> None:
    registry.register(Letter, "letter")
    assert registry.register(Letter).name == "letter"
    with pytest.raises(SpecError, match="registered as 'letter', not as 'mail'"):
        registry.register(Letter, "mail")


def test_a_class_may_not_take_the_name_of_a_plain_type(registry: Registry) -> None:
    with pytest.raises(SpecError, match=r"'dict' is builtins\.dict already"):
        registry.register(Letter, "dict")


@pytest.mark.parametrize("wrong", [object, set, tuple, bytes, "Letter", 5, set[int], int | str])
def test_what_is_no_message_class_is_refused(registry: Registry, wrong: Any) -> None:
    with pytest.raises(SpecError, match="use a pydantic model, a dataclass or a plain JSON type"):
        registry.register(wrong)


@pytest.mark.row("RT-13")
@pytest.mark.parametrize("content_type", ["application/x-python-pickle", "application/msgpack", "json"])
def test_only_json_is_read_whatever_the_content_type_says(registry: Registry, content_type: str) -> None:
    registry.register(Letter)
    with pytest.raises(DecodeError, match=content_type):
        registry.decode("Letter", pickle.dumps(Letter("x")), content_type)
    assert registry.decode("Letter", b'{"text":"x"}', "application/json") == Letter("x")


@pytest.mark.row("RT-13")
@pytest.mark.parametrize("name", ["os.system", "starling.errors.SpecError", "builtins.object", ""])
def test_a_name_on_the_wire_imports_nothing(registry: Registry, name: str) -> None:
    with pytest.raises(UnregisteredType, match="no message class is registered"):
        registry.decode(name, b"{}")


def test_lists_and_dicts_of_messages_have_names_of_their_own(registry: Registry) -> None:
    codec = registry.register(list[Parcel])
    assert codec.name == "list[Parcel]"
    assert registry.decode("list[Parcel]", codec.dump([Parcel(weight=3)])) == [Parcel(weight=3)]
    assert registry.register(dict[str, int | None]).name == "dict[str, int | none]"
    assert registry.register(dict[str, Any]).name == "dict[str, any]"


def test_the_decorator_registers_with_and_without_a_name() -> None:
    @message
    @dataclass
    class PlainlyMarked:
        n: int = 0

    @message("pinned.name")
    class Pinned(BaseModel):
        n: int = 0

    assert messages.encode(PlainlyMarked())[0] == "PlainlyMarked"
    assert messages.encode(Pinned())[0] == "pinned.name"


def test_the_decorator_below_dataclass_is_refused() -> None:
    with pytest.raises(SpecError, match="no message"):

        @dataclass
        @message
        class UpsideDown:
            n: int = 0


@pytest.mark.parametrize("name", ["", "x" * 257, 5])
def test_a_pinned_name_is_a_text_of_bounded_length(name: Any) -> None:
    with pytest.raises(SpecError, match="is no name"):
        message(name)
