"""What is sent arrives as an equal value of the same class, or is refused at the sender by the name of its field."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter
from starling.core import limits
from starling.errors import DecodeError, SpecError, TooLarge
from starling.messages import Registry

registry = Registry()


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Leaf:
    """Every kind of field; a name such as `type` or `fields` is nothing special."""

    text: str
    count: int
    share: float
    yes: bool
    raw: bytes
    at: datetime
    day: date
    clock: time
    span: timedelta
    amount: Decimal
    uid: UUID
    colour: Colour
    word: Literal["a", "b"]
    maybe: int | None
    type: str = "x"
    fields: dict[str, bytes] = field(default_factory=dict)


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


@dataclass
class Base:
    number: int


@dataclass
class Derived(Base):
    more: bytes = b""


class Tree(BaseModel):
    leaves: list[Leaf]
    by_name: dict[str, Leaf]
    pair: tuple[int, str]
    tags: frozenset[str]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    either: int | str | list[float]
    derived: Derived
    raw: bytes
    children: list[Tree] = []


class Renamed(BaseModel):
    source: str = Field(alias="from")


class Box(BaseModel):
    model_config = ConfigDict(ser_json_bytes="utf8")

    raw: bytes


class Words(BaseModel):
    """Fields named like the words of a schema."""

    default: Box
    type: str


CLASSES = (Leaf, Cat, Dog, Base, Derived, Tree, Renamed, Words)
for cls in CLASSES:
    registry.register(cls)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
floats = st.floats(allow_nan=False)
moments = st.datetimes(timezones=st.just(UTC)) | st.datetimes()
leaves = st.builds(
    Leaf,
    text=texts,
    count=st.integers(),
    share=floats,
    yes=st.booleans(),
    raw=st.binary(max_size=20),
    at=moments,
    day=st.dates(),
    clock=st.times(),
    span=st.timedeltas(min_value=timedelta(days=-10_000), max_value=timedelta(days=10_000)),
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    uid=st.uuids(),
    colour=st.sampled_from(Colour),
    word=st.sampled_from(["a", "b"]),
    maybe=st.none() | st.integers(),
    type=texts,
    fields=st.dictionaries(texts, st.binary(max_size=5), max_size=3),
)
deriveds = st.builds(Derived, st.integers(), st.binary(max_size=5))


def trees(children: st.SearchStrategy[list[Tree]]) -> st.SearchStrategy[Tree]:
    return st.builds(
        Tree,
        leaves=st.lists(leaves, max_size=2),
        by_name=st.dictionaries(texts, leaves, max_size=2),
        pair=st.tuples(st.integers(), texts),
        tags=st.frozensets(texts, max_size=3),
        pet=st.builds(Cat, name=texts) | st.builds(Dog, name=texts),
        either=st.integers() | texts | st.lists(floats, max_size=3),
        derived=deriveds,
        raw=st.binary(max_size=5),
        children=children,
    )


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
messages = (
    leaves
    | trees(st.just([]))
    | trees(st.lists(trees(st.just([])), max_size=2))
    | st.builds(Base, st.integers())
    | deriveds
    | texts.map(lambda text: Renamed(**{"from": text}))
    | st.builds(Words, default=st.builds(Box, raw=st.binary(max_size=5)), type=texts)
    | plain
)


@pytest.mark.row("RT-12")
@given(message=messages)
def test_every_message_arrives_equal_in_the_same_class_and_is_left_as_it_was(message: Any) -> None:
    before = copy.deepcopy(message)

    back = registry.decode(*registry.encode(message))

    assert back == message
    assert type(back) is type(message)
    assert message == before


def test_nan_and_infinities_arrive() -> None:
    @dataclass
    class Floats:
        values: list[float]

    registry.register(Floats)
    back = registry.decode(*registry.encode(Floats([math.nan, math.inf, -math.inf])))
    assert math.isnan(back.values[0])
    assert back.values[1:] == [math.inf, -math.inf]
    assert math.isnan(registry.decode(*registry.encode(math.nan)))


@dataclass
class Flight:
    number: str
    miles: int
    stops: list[Base] = field(default_factory=list)
    late: float = 0.0


registry.register(Flight)


@pytest.mark.row("RT-14")
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (Flight(7, 1), "Flight.number: Input should be a valid string, not int"),  # type: ignore[arg-type]
        (Flight("a", "1"), "Flight.miles: "),  # type: ignore[arg-type]
        (Flight("a", 1.0), "Flight.miles: "),  # type: ignore[arg-type]
        (Flight("a", None), "Flight.miles: "),  # type: ignore[arg-type]
        (Flight("a", 1, [Base(1), Base("2")]), "Flight.stops.1.number: "),  # type: ignore[arg-type]
        (Flight("a", 1, late=object()), "Flight.late: "),  # type: ignore[arg-type]
        (Flight("a\ud800", 1), "Flight"),
    ],
    ids=["int for str", "str for int", "float for int", "None for int", "nested", "no JSON at all", "lone surrogate"],
)
def test_a_wrong_field_is_refused_at_the_sender_by_its_name(wrong: Flight, named: str) -> None:
    with pytest.raises(DecodeError) as refused:
        registry.encode(wrong)
    assert named in str(refused.value)


def test_a_field_that_is_missing_is_said_to_be_missing() -> None:
    with pytest.raises(DecodeError, match=r"^Flight\.number: is missing; Flight\.miles: is missing$"):
        registry.decode("Flight", b"{}")


def test_a_refusal_does_not_show_the_value() -> None:
    with pytest.raises(DecodeError) as refused:
        registry.encode(Flight("a", "secret"))  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)


def test_a_model_changed_after_its_validation_is_checked_again() -> None:
    cat = Cat(name="Tom")
    cat.name = 3  # type: ignore[assignment]
    with pytest.raises(DecodeError, match=r"Cat\.name"):
        registry.encode(cat)


@pytest.mark.row("RT-14")
@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"number": 7, "miles": 1}', "Flight.number"),
        (b'{"number": "7"}', "Flight.miles"),
        (b'{"number": "7", "miles": "1"}', "Flight.miles"),
        (b"{", "Flight"),
        (b"", "Flight"),
        (b"\xff", "Flight"),
    ],
)
def test_a_wrong_body_is_refused_by_the_name_of_its_field(body: bytes, named: str) -> None:
    with pytest.raises(DecodeError, match=named):
        registry.decode("Flight", body)


def test_a_subclass_in_a_field_of_its_base_is_refused_instead_of_cut_down() -> None:
    with pytest.raises(DecodeError, match=r"Flight\.stops\.0: a Derived would arrive as a Base"):
        registry.encode(Flight("a", 1, [Derived(1, b"x")]))


@dataclass
class Left:
    n: int


@dataclass
class Right:
    n: int


@dataclass
class Side:
    which: Left | Right


def test_a_union_that_cannot_tell_its_classes_apart_is_refused_instead_of_guessed() -> None:
    registry.register(Side)
    assert registry.decode(*registry.encode(Side(Left(1)))) == Side(Left(1))
    with pytest.raises(DecodeError, match=r"Side\.which: a Right would arrive as a Left"):
        registry.encode(Side(Right(1)))


def test_a_value_that_json_turns_into_another_is_refused() -> None:
    class Loose(BaseModel):
        anything: Any = None
        _kept: int = PrivateAttr(default=0)

    registry.register(Loose)
    assert registry.decode(*registry.encode(Loose(anything=[1, {"a": None}]))).anything == [1, {"a": None}]
    with pytest.raises(DecodeError, match=r"Loose\.anything"):
        registry.encode(Loose(anything=datetime(2013, 1, 1)))  # noqa: DTZ001
    secret = Loose()
    secret._kept = 5
    with pytest.raises(DecodeError, match=r"Loose\._kept"):
        registry.encode(secret)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({1: "a"}, "dict: a key is a int"),
        ({"a": [1, (2,)]}, "dict.a.1: a tuple"),
        ([datetime.now(UTC)], "list.0: a datetime"),
        ([Colour.RED], "list.0: a Colour"),
        ({"a": {"b": b"x"}}, "dict.a.b: a bytes"),
        (["\ud800"], "list"),
    ],
)
def test_plain_json_holds_nothing_but_plain_json(wrong: object, named: str) -> None:
    with pytest.raises(DecodeError) as refused:
        registry.encode(wrong)
    assert named in str(refused.value)


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(DecodeError, match="nested too deeply"):
        registry.encode(endless)


@pytest.mark.parametrize(("name", "body"), [("str", b"1"), ("int", b"1.0"), ("int", b"true"), ("dict", b"[]")])
def test_a_plain_body_of_another_type_is_refused(name: str, body: bytes) -> None:
    with pytest.raises(DecodeError, match=name):
        registry.decode(name, body)


def test_a_body_over_the_limit_is_refused_with_both_sizes() -> None:
    fits = "x" * (limits.MAX_LARGE - 2)
    assert len(registry.encode(fits)[1]) == limits.MAX_LARGE
    spare = limits.MAX_LARGE - len(registry.encode(Flight("", 1))[1])
    assert len(registry.encode(Flight("x" * spare, 1))[1]) == limits.MAX_LARGE
    for large in (fits + "x", Flight("x" * (spare + 1), 1)):
        with pytest.raises(TooLarge, match=str(limits.MAX_LARGE)):
            registry.encode(large)


def test_a_class_keeps_its_own_json_outside_of_messages() -> None:
    @dataclass
    class Raw:
        data: bytes

    registry.register(Raw)
    assert registry.encode(Raw(b"\xff"))[1] == b'{"data":"_w=="}'
    assert TypeAdapter(Raw).dump_json(Raw(b"a")) == b'{"data":"a"}'
    assert not hasattr(Raw, "__pydantic_config__")


def test_a_class_may_name_one_that_is_defined_later() -> None:
    class Early(BaseModel):
        late: Late

    own = Registry()
    own.register(Early)

    class Late(BaseModel):
        n: int

    with pytest.raises(SpecError, match="Late"):
        own.encode(Early.model_construct(late=Late(n=1)))
    Early.model_rebuild(_types_namespace={"Late": Late})
    assert own.decode(*own.encode(Early(late=Late(n=1)))) == Early(late=Late(n=1))
