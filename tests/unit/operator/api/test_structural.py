"""From JSON schema to structural schema, rule by rule."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field
from starling.errors import SpecError
from starling_operator.api.model import Model, Rule
from starling_operator.api.structural import structural, structural_of

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "maxLength": 9}


def thing(schema: Schema, **more: Any) -> Schema:
    return {"type": "object", "properties": {"x": schema}, **more}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param({**TEXT, "title": "T", "examples": ["a"]}, TEXT, id="titles and examples go"),
        pytest.param({**TEXT, "description": "one\n  two"}, {**TEXT, "description": "one two"}, id="one line"),
        pytest.param({"allOf": [TEXT], "default": "a"}, {**TEXT, "default": "a"}, id="a wrapper of one"),
        pytest.param({"anyOf": [TEXT, {"type": "null"}], "default": None}, TEXT, id="optional"),
        pytest.param({**TEXT, "nullable": True}, {**TEXT, "nullable": True}, id="null that means something"),
        pytest.param({"const": "a"}, {"type": "string", "enum": ["a"]}, id="a constant"),
        pytest.param({"const": 3}, {"type": "integer", "format": "int64", "enum": [3]}, id="a constant number"),
        pytest.param(
            {"anyOf": [{"type": "integer", "minimum": 1}, {**TEXT, "pattern": "a"}], "default": "1Gi"},
            {"default": "1Gi", "minimum": 1, "pattern": "a", "maxLength": 9, "x-kubernetes-int-or-string": True},
            id="integer or text",
        ),
        pytest.param(
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 2.5},
            {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 2.5, "exclusiveMaximum": True},
            id="exclusive bounds",
        ),
        pytest.param(
            {"type": "integer", "maximum": 9}, {"type": "integer", "format": "int32", "maximum": 9}, id="32 bits"
        ),
        pytest.param({"type": "integer"}, {"type": "integer", "format": "int64"}, id="64 bits"),
        pytest.param(
            thing(TEXT, additionalProperties=False), {"type": "object", "properties": {"x": TEXT}}, id="closed"
        ),
        pytest.param(
            {"type": "object", "additionalProperties": True},
            {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            id="free form",
        ),
        pytest.param(
            {"type": "object", "additionalProperties": {**TEXT, "title": "T"}, "maxProperties": 3},
            {"type": "object", "additionalProperties": TEXT, "maxProperties": 3},
            id="a map",
        ),
        pytest.param(
            {"type": "array", "items": TEXT, "uniqueItems": True, "maxItems": 2},
            {"type": "array", "items": TEXT, "maxItems": 2, "x-kubernetes-list-type": "set"},
            id="a set",
        ),
        pytest.param(
            thing({**thing({**TEXT, "default": "a"}), "default": {"x": "a"}}),
            thing({**thing({**TEXT, "default": "a"}), "default": {}}),
            id="the default of an object is empty where its fields say the same",
        ),
        pytest.param(
            thing({**thing({**TEXT, "default": "a"}), "default": {"x": "b", "y": None}}),
            thing({**thing({**TEXT, "default": "a"}), "default": {"x": "b"}}),
            id="the default of an object keeps what differs",
        ),
    ],
)
def test_a_schema_becomes_structural(given: Schema, wanted: Schema) -> None:
    assert structural(given, "spec") == wanted


def test_references_are_replaced_and_what_stands_beside_wins() -> None:
    given = {
        **thing({"$ref": "#/$defs/A", "description": "here"}),
        "$defs": {"A": {**TEXT, "description": "there", "title": "A"}},
    }

    assert structural(given, "spec") == thing({**TEXT, "description": "here"})


def test_a_definition_may_be_used_twice() -> None:
    given = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/A"}, "y": {"$ref": "#/$defs/A"}},
        "$defs": {"A": TEXT},
    }

    assert structural(given, "spec") == {"type": "object", "properties": {"x": TEXT, "y": TEXT}}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (thing({"type": "string"}), r"^spec\.x: a string needs maxLength"),
        (thing({"type": "array", "items": TEXT}), r"^spec\.x: an array needs maxItems"),
        (thing({"type": "array", "maxItems": 2}), r"^spec\.x: an array needs one schema"),
        (thing({"type": "array", "maxItems": 2, "items": {"type": "string"}}), r"^spec\.x\[\]: a string needs"),
        (thing({"type": "array", "maxItems": 2, "items": thing(TEXT)}), r"^spec\.x: an array of objects needs"),
        (thing({"type": "array", "maxItems": 2, "prefixItems": [TEXT]}), r"^spec\.x: prefixItems has no form"),
        (thing({"type": "object", "additionalProperties": TEXT}), r"^spec\.x: a map needs maxProperties"),
        (thing({"type": "object"}), r"^spec\.x: an object needs properties"),
        (thing({}), r"^spec\.x: has no type"),
        (thing({"anyOf": [TEXT, {"type": "boolean"}]}), r"^spec\.x: a union has no form"),
        (
            thing({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
            r"^spec\.x: an integer or string needs maxLength",
        ),
        (thing({"oneOf": [TEXT, TEXT]}), r"^spec\.x: oneOf has no form"),
        (thing({"allOf": [TEXT, TEXT]}), r"^spec\.x: allOf has no form"),
        (thing({"type": "object", "patternProperties": {"a": TEXT}}), r"^spec\.x: patternProperties has no form"),
    ],
)
def test_what_has_no_form_or_no_bound_is_named(given: Schema, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        structural(given, "spec")


def test_a_model_that_contains_itself_is_refused() -> None:
    given = {"$ref": "#/$defs/A", "$defs": {"A": thing({"$ref": "#/$defs/A"})}}

    with pytest.raises(SpecError, match=r"^spec\.x: A contains itself"):
        structural(given, "spec")


class Inner(Model):
    """An inner thing."""

    size: Annotated[int, Field(ge=1, le=5)] = 3
    """How large."""


class Outer(Model):
    """An outer thing."""

    rules = (Rule("has(self.one)", "give one", ".one", lambda it: it.one is not None),)

    one: Annotated[str, Field(max_length=3)] | None = None
    inner_part: Inner = Inner()
    """Overrides."""


def test_a_model_brings_names_docstrings_defaults_and_rules() -> None:
    assert structural_of(Outer, "spec") == {
        "description": "An outer thing.",
        "type": "object",
        "properties": {
            "one": {"type": "string", "maxLength": 3},
            "innerPart": {
                "description": "Overrides.",
                "type": "object",
                "default": {},
                "properties": {
                    "size": {
                        "description": "How large.",
                        "type": "integer",
                        "format": "int32",
                        "default": 3,
                        "minimum": 1,
                        "maximum": 5,
                    }
                },
            },
        },
        "x-kubernetes-validations": [
            {"rule": "has(self.one)", "message": "give one", "fieldPath": ".one", "reason": "FieldValueInvalid"}
        ],
    }


def test_a_status_has_no_defaults() -> None:
    made = structural_of(Outer, "status", defaults=False)

    assert "default" not in made["properties"]["innerPart"]
    assert "default" not in made["properties"]["innerPart"]["properties"]["size"]
