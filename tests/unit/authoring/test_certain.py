"""What is written without being read back is what would come back as it is; anything else is read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, computed_field, field_serializer
from starling.certain import certain, shareable
from starling.codec import Codec
from starling.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Flat:
    number: int
    text: str = ""
    known: bool | None = None


class FlatModel(BaseModel):
    number: int
    text: str = ""
    known: bool | None = None


@dataclass
class One:
    number: int = 0


class OneMore(One):
    pass


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.floats(), st.binary(), st.just(10**5000), st.just("\ud800")
)


def known(cls: Any) -> Any:
    return certain(cls, TypeAdapter(cls).core_schema)


@pytest.mark.parametrize("cls", [Flat, FlatModel])
@given(ANYTHING, ANYTHING, ANYTHING)
def test_what_is_certain_comes_back_equal_and_anything_else_is_refused_or_read_back(
    cls: Any, number: Any, text: Any, is_known: Any
) -> None:
    parts = {"number": number, "text": text, "known": is_known}
    value = cls.model_construct(**parts) if issubclass(cls, BaseModel) else cls(**parts)
    codec = Codec("Flat", cls, limit=None)
    try:
        body = codec.dump(value)
    except DecodeError:
        return
    back = codec.load(body)
    assert type(back) is cls
    assert back == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Flat(1, "x", None), True),
        (Flat(1, "x", True), True),
        (Flat("1", "x"), False),  # type: ignore[arg-type]
        (Flat(True), False),
        (Flat(1, None), False),  # type: ignore[arg-type]
        (One(3), False),
    ],
    ids=str,
)
def test_a_value_is_certain_by_the_types_of_its_fields(value: Any, expected: bool) -> None:
    assert known(Flat)(value, b"{}") is expected


def test_a_subclass_a_missing_field_and_a_number_of_many_digits_are_read_back() -> None:
    is_certain = known(One)
    assert is_certain(One(5), b'{"number":5}')
    assert not is_certain(OneMore(5), b'{"number":5}')
    assert not is_certain(One(10**5000), b"x" * 5000)
    assert not known(FlatModel)(FlatModel.model_construct(text="x"), b"{}")  # type: ignore[call-arg]


@dataclass(frozen=True)
class WithRoom:
    """Frozen, but not without a place for more: a cached property would be one."""

    number: int


def test_what_nobody_can_write_into_is_held_by_both_sides_and_anything_else_is_copied() -> None:
    for value, is_shared in [(Flat(1), True), (WithRoom(1), False), (One(1), False), (FlatModel(number=1), False)]:
        _, arrived = Codec("message", type(value), limit=None).copied(value)
        assert arrived == value
        assert (arrived is value) is is_shared


def test_a_class_that_holds_a_list_is_copied_although_it_is_frozen() -> None:
    @dataclass(frozen=True, slots=True)
    class Holder:
        parts: list[int]

    assert shareable(Holder)  # by itself; but its values are never certain
    sent = Holder([1])
    _, arrived = Codec("message", Holder, limit=None).copied(sent)
    assert arrived == sent
    assert arrived.parts is not sent.parts


@dataclass
class WithPost:
    number: int = 0

    def __post_init__(self) -> None:
        self.number += 1


@dataclass
class WithHidden:
    number: int = field(default=0, init=False)


class Limited(BaseModel):
    number: Annotated[int, Field(gt=0)] = 1


class Aliased(BaseModel):
    number: int = Field(alias="n")


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    text: str


class WithExtra(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: int


class WithPrivate(BaseModel):
    number: int = 0
    _hidden: int = PrivateAttr(default=0)


class WithComputed(BaseModel):
    number: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return self.number * 2


class WithSerializer(BaseModel):
    number: int = 0

    @field_serializer("number")
    def _write(self, number: int) -> int:
        return number + 1


@dataclass
class Chosen:
    number: Literal[1, 2] = 1


@dataclass
class Either:
    value: int | str = 0


@dataclass
class Holder:
    numbers: list[int] = field(default_factory=list)


@dataclass
class Nested:
    inner: One = field(default_factory=One)


@dataclass
class Measured:
    value: float = 0.0


@dataclass
class Empty:
    pass


@pytest.mark.parametrize(
    "cls",
    [
        WithPost,
        WithHidden,
        Limited,
        Aliased,
        Stripped,
        WithExtra,
        WithPrivate,
        WithComputed,
        WithSerializer,
        Chosen,
        Either,
        Holder,
        Nested,
        Measured,
        Empty,
    ],
)
def test_a_class_with_anything_of_its_own_is_always_read_back(cls: Any) -> None:
    assert known(cls) is None
