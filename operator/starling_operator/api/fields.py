"""Bounded strings and quantities that several kinds use, with what to say when a text does not fit.

Patterns are written for both engines that read them, the API server's and pydantic's: no ``\\w``, no look-ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError
from starling.core import limits

from starling_operator.api.model import Json

Item = TypeVar("Item")

MAX_REPLICAS: Final = 1000
MAX_POOL_NAME: Final = 50  # a pod's name, its ordinal and the controller's hash must fit into a label's 63
MAX_TOPIC: Final = 128

POOL_NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
AGENT_TYPE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"
ENTRYPOINT_PATTERN: Final = "^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
TOPICS_PATTERN: Final = r"^[\p{L}\p{N}_.:=*>-]+$"
WORDS_PATTERN: Final = r"^((\*|[\p{L}\p{N}_:=-]+)\.)*(\*|>|[\p{L}\p{N}_:=-]+)$"
IMAGE_PATTERN: Final = "^[A-Za-z0-9][-A-Za-z0-9._:/@]*$"
SIZE_PATTERN: Final = "^[1-9][0-9]*(Ki|Mi|Gi|Ti)?$"
NUMBER_PATTERN: Final = r"^(0*[1-9][0-9]*(\.[0-9]+)?|0+\.0*[1-9][0-9]*)(m|k|M|G)?$"
TIME_PATTERN: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$"
CAMEL_PATTERN: Final = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"

HINTS: Final = {
    POOL_NAME_PATTERN: "must start with a small letter, go on with small letters, digits and '-', and not end in '-'",
    OBJECT_NAME_PATTERN: "must hold small letters, digits, '-' and '.', and start and end with a letter or digit",
    AGENT_TYPE_PATTERN: "must start with a letter or '_', go on with letters, digits, '_', '-' and inner dots",
    ENTRYPOINT_PATTERN: "must be of the form module:Class",
    TOPICS_PATTERN: "must hold word characters, '-', '.', ':' and '=' only, and '*' and '>' with match: pattern",
    IMAGE_PATTERN: "must be a container image such as example.org/flights:1.0",
    TIME_PATTERN: "must be a time such as 2026-11-24T12:00:00Z",
    CAMEL_PATTERN: "must be one CamelCase word",
}

SIZE_UNITS: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
NUMBER_UNITS: Final = {"m": Decimal("0.001"), "k": Decimal(1000), "M": Decimal(10**6), "G": Decimal(10**9)}

PoolName = Annotated[str, Field(pattern=POOL_NAME_PATTERN, max_length=MAX_POOL_NAME)]
ObjectName = Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, max_length=253)]
AgentType = Annotated[str, Field(pattern=AGENT_TYPE_PATTERN, max_length=limits.MAX_AGENT_TYPE)]
Image = Annotated[str, Field(pattern=IMAGE_PATTERN, max_length=512)]
Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Serial = Annotated[int, Field(ge=0, le=2**53)]  # the API server keeps bounds as floats
Ratio = Annotated[float, Field(ge=0)]
Seconds = Annotated[int, Field(ge=0, le=86_400)]
SomeSeconds = Annotated[int, Field(ge=1, le=86_400)]
Timestamp = Annotated[str, Field(pattern=TIME_PATTERN, max_length=40, json_schema_extra={"format": "date-time"})]


def _or_say(problem: str) -> WrapValidator:
    """Replace the errors of a union, one per branch, by one sentence."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("quantity", "{problem}", {"problem": problem}) from None

    return WrapValidator(check)


_PositiveInt = Annotated[int, Field(ge=1, le=2**53)]

SizeQuantity = Annotated[
    _PositiveInt | Annotated[str, Field(pattern=SIZE_PATTERN, max_length=20)],
    _or_say("must be a size above 0: bytes such as 1048576, or a whole number with Ki, Mi, Gi or Ti such as 1Gi"),
]
NumberQuantity = Annotated[
    _PositiveInt | Annotated[str, Field(pattern=NUMBER_PATTERN, max_length=20)],
    _or_say("must be a number above 0 such as 500, '0.8' (in quotes), 800m or 2k"),
]


def size_bytes(quantity: int | str) -> int:
    """Return the bytes of a SizeQuantity."""
    if isinstance(quantity, int):
        return quantity
    unit = quantity[-2:]
    return int(quantity.removesuffix(unit)) * SIZE_UNITS[unit] if unit in SIZE_UNITS else int(quantity)


def number(quantity: int | str) -> float:
    """Return the value of a NumberQuantity."""
    if isinstance(quantity, int):
        return float(quantity)
    unit = quantity[-1]
    if unit in NUMBER_UNITS:
        return float(Decimal(quantity.removesuffix(unit)) * NUMBER_UNITS[unit])
    return float(quantity)


def _not_boolean(value: Any) -> Any:
    if isinstance(value, bool):  # for Python True is 1
        raise PydanticCustomError("quantity", "{problem}", {"problem": "must be 1, 3 or 5"})
    return value


StreamReplicas = Annotated[Literal[1, 3, 5], BeforeValidator(_not_boolean)]


def list_map(key: str) -> Json:
    """Return the schema extension of a list whose items are told apart by `key`."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def distinct(key: str) -> Callable[[tuple[Item, ...]], tuple[Item, ...]]:
    """Return a validator that refuses two items of one `key`, as the API server does for such lists."""

    def check(items: tuple[Item, ...]) -> tuple[Item, ...]:
        seen: set[Hashable] = set()
        for item in items:
            value = getattr(item, key)
            if value in seen:
                problem = f"two items have the {key} {str(value)!r}; give each {key} once"
                raise PydanticCustomError("duplicate", "{problem}", {"problem": problem})
            seen.add(value)
        return items

    return check
