"""The base of every API model, and the rules that join several fields.

A rule is written twice, side by side: as CEL for the API server, and in Python for those who have none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError

Json = dict[str, Any]

RULE_BROKEN = "rule_broken"


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold of one value. field: path of the culprit below the model, such as ``.maxReplicas``."""

    cel: str
    message: str
    field: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """What must hold between a value and the one that it replaces: ``holds(new, old)``."""

    cel: str
    message: str
    field: str
    holds: Callable[[Any, Any], bool]


class Model(BaseModel):
    """Frozen, camelCase on the outside; unknown fields are ignored, so that an old operator reads newer objects."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    change_rules: ClassVar[tuple[ChangeRule, ...]] = ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                raise PydanticCustomError(RULE_BROKEN, "{problem}", {"problem": rule.message, "field": rule.field})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        schema = handler(core_schema)
        if validations := cel_rules(cls):
            handler.resolve_ref_schema(schema)["x-kubernetes-validations"] = validations
        return schema


def cel_rules(model: type[Model]) -> list[Json]:
    """Return the model's rules as `x-kubernetes-validations`."""
    every: tuple[Rule | ChangeRule, ...] = (*model.rules, *model.change_rules)
    return [_validation(rule) for rule in every]


def _validation(rule: Rule | ChangeRule) -> Json:
    made = {"rule": rule.cel, "message": rule.message, "fieldPath": rule.field, "reason": "FieldValueInvalid"}
    if rule.field.startswith(".metadata"):
        del made["fieldPath"]  # the API server knows no such path in our schema; the message names the field
    return made
