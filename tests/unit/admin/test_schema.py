"""What is wrong with a body by the schema that a pod has told: never what the pod itself would take."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter
from starling.admin.schema import nearest_first, wrong_in
from starling.errors import DecodeError
from starling.messages import registry


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    size: int
    weight: float = 1.0


class Order(BaseModel):
    count: int
    price: float = 0.0
    text: str = ""
    urgent: bool = False
    colour: Colour = Colour.RED
    mode: Literal["x", "y"] = "x"
    at: datetime.datetime | None = None
    within: datetime.timedelta | None = None
    amount: decimal.Decimal = decimal.Decimal(1)
    data: bytes = b""
    part: Part | None = None
    parts: list[Part] = []
    pair: tuple[int, str] = (1, "a")
    stock: dict[str, int] = {}
    either: Part | list[int] | None = None
    renamed: int = Field(1, alias="other")


def ours(body: Any) -> str:
    return wrong_in(TypeAdapter(Order).json_schema(), body, "Order")


def pods_own(body: Any) -> str:
    try:
        registry.register(Order, "schema.Order").load(json.dumps(body).encode())
    except DecodeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ({"count": "1"}, 'count: must be an integer, not "1"'),
        ({"count": 1.5}, "count: must be an integer, not 1.5"),
        ({"count": True}, "count: must be an integer, not true"),
        ({"price": "2"}, 'price: must be a number, not "2"'),
        ({"text": 5}, "text: must be text, not 5"),
        ({"text": None}, "text: must be text, not null"),
        ({"urgent": 1}, "urgent: must be true or false, not 1"),
        ({"colour": "green"}, 'colour: must be one of "red", "blue", not "green"'),
        ({"mode": "z"}, 'mode: must be one of "x", "y", not "z"'),
        ({"part": {"size": "9"}}, 'part.size: must be an integer, not "9"'),
        ({"at": 5}, "at: must be text, not 5"),
        ({"within": 5}, "within: must be text, not 5"),
        ({"data": 5}, "data: must be text, not 5"),
        ({"part": {}}, "part.size: is missing"),
        ({"parts": [{"size": 1}, {"size": None}]}, "parts.1.size: must be an integer, not null"),
        ({"parts": {"size": 1}}, 'parts: must be a list, not {"size": 1}'),
        ({"pair": ["a", "b"]}, 'pair.0: must be an integer, not "a"'),
        ({"stock": {"EWR": "many"}}, 'stock.EWR: must be an integer, not "many"'),
        ({"either": "neither"}, 'either: "neither" is none of the 3 kinds that it may be'),
        ({"text": ["a" * 50]}, 'text: must be text, not ["' + "a" * 38 + "..."),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right_and_its_pod_refuses_it_too(
    field: dict[str, Any], wrong: str
) -> None:
    assert ours({"count": 1} | field) == f"Order.{wrong}"
    assert pods_own({"count": 1} | field)


def test_a_missing_field_and_a_body_of_another_kind_are_named() -> None:
    assert ours({}) == "Order.count: is missing"
    assert ours([1]) == "Order: must be an object, not [1]"


def test_a_field_that_is_none_is_told_of_with_the_nearest_ones_first() -> None:
    assert ours({"count": 1, "prize": 2}).startswith("Order.prize: is no field of it; there are: price, ")
    assert ours({"count": 1, "part": {"size": 1, "wait": 2}}) == (
        "Order.part.wait: is no field of it; there are: weight, size"
    )


@pytest.mark.parametrize(
    "field",
    [
        {"price": 2},
        {"price": float("nan")},
        {"at": "2026-01-31T12:00:00Z"},
        {"at": None},
        {"within": "PT5S"},
        {"amount": "1.50"},
        {"amount": 1.5},
        {"data": "eA=="},
        {"part": {"size": 1, "weight": 2}},
        {"parts": [{"size": 1}]},
        {"pair": [1, "a"]},
        {"stock": {"EWR": 1}},
        {"either": [1]},
        {"either": {"size": 1}},
        {"other": 5},
    ],
)
def test_what_the_pod_takes_is_taken(field: dict[str, Any]) -> None:
    assert pods_own({"count": 1} | field) == ""
    assert ours({"count": 1} | field) == ""


@pytest.mark.parametrize(
    ("cls", "right", "wrong"), [(str, "a", 1), (int, 1, "a"), (dict, {"a": 1}, []), (bool, True, 1)]
)
def test_plain_types_are_messages_too(cls: type, right: object, wrong: object) -> None:
    schema = TypeAdapter(cls).json_schema()
    assert wrong_in(schema, right, "it") == ""
    assert wrong_in(schema, wrong, "it").startswith("it: must be ")


def test_a_schema_that_says_nothing_refuses_nothing() -> None:
    assert [wrong_in({}, body, "it") for body in (1, "a", None, [1], {"a": 1})] == [""] * 5
    assert wrong_in({"type": "object", "properties": {}, "additionalProperties": True}, {"a": 1}, "it") == ""


def test_words_that_look_most_alike_come_first() -> None:
    assert nearest_first("Payd", ["Ask", "paid", "Spoilt"])[0] == "paid"
