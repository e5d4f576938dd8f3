"""From pydantic's JSON schema to the structural schema that Kubernetes wants.

What Kubernetes has no form for, and what has no bound, is an error when the definitions are generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starling.errors import SpecError

from starling_operator.api.model import Json, Model

KEPT: Final[tuple[str, ...]] = (
    *("description", "type", "format", "nullable", "default", "enum", "minimum", "exclusiveMinimum", "maximum"),
    *("exclusiveMaximum", "multipleOf", "pattern", "minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties", "required", "properties", "additionalProperties", "items"),
)
DROPPED: Final = ("title", "$defs", "examples", "const", "anyOf", "uniqueItems")
EXTENSION: Final = "x-kubernetes-"
RULES: Final = EXTENSION + "validations"
INT_OR_STRING: Final = EXTENSION + "int-or-string"
PRESERVE: Final = EXTENSION + "preserve-unknown-fields"
LIST_TYPE: Final = EXTENSION + "list-type"
JSON_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number"}
INT32_MAX: Final = 2**31 - 1
_MISSING: Final = object()


def structural_of(model: type[Model], path: str, *, defaults: bool = True) -> Json:
    """Return the structural schema of a model. path: what errors call it; defaults: False for a status.

    Raises SpecError naming the path of what cannot be said, or has no bound.
    """
    return structural(model.model_json_schema(by_alias=True, mode="validation"), path, defaults=defaults)


def structural(schema: Mapping[str, Any], path: str, *, defaults: bool = True) -> Json:
    """Return the structural form of a JSON schema with its ``$defs``. Raises SpecError."""
    return _Converter(schema.get("$defs", {}), defaults).convert(schema, path, ())


class _Converter:
    def __init__(self, definitions: Mapping[str, Json], defaults: bool) -> None:
        self._definitions = definitions
        self._defaults = defaults

    def convert(self, schema: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> Json:
        flat, inside = self._flat(dict(schema), path, inside)
        flat = _int_or_string(flat, path) if "anyOf" in flat else flat
        for key in flat:
            if key not in KEPT and key not in DROPPED and not key.startswith(EXTENSION):
                raise SpecError(path, f"{key} has no form in a structural schema")
        made = {key: flat[key] for key in KEPT if key in flat}
        made |= {key: value for key, value in sorted(flat.items()) if key.startswith(EXTENSION)}
        if "description" in made:
            made["description"] = " ".join(made["description"].split())
        if "const" in flat:
            made["enum"] = [flat["const"]]
            made.setdefault("type", JSON_TYPES.get(type(flat["const"])))
        _openapi_bounds(made)
        self._object(made, path, inside)
        self._array(made, flat, path, inside)
        self._default(made)
        _check(made, path)
        return {key: made[key] for key in (*KEPT, *made) if key in made}

    def _flat(self, schema: Json, path: str, inside: tuple[str, ...]) -> tuple[Json, tuple[str, ...]]:
        """Replace references, wrappers of one and ``X or null`` by what they stand for; what stands beside wins."""
        while True:
            if "$ref" in schema:
                name = str(schema.pop("$ref")).removeprefix("#/$defs/")
                if name in inside:
                    raise SpecError(path, f"{name} contains itself; a structural schema is finite")
                inside = (*inside, name)
                schema = {**self._definitions[name], **schema}
                continue
            for key in ("allOf", "anyOf"):
                branches = [branch for branch in schema.get(key, ()) if branch != {"type": "null"}]
                if len(branches) == 1:
                    beside = {name: value for name, value in schema.items() if name != key}
                    schema = {**branches[0], **beside}
                    break
            else:
                return schema, inside

    def _object(self, made: Json, path: str, inside: tuple[str, ...]) -> None:
        if "properties" in made:
            made["properties"] = {
                name: self.convert(schema, f"{path}.{name}", inside) for name, schema in made["properties"].items()
            }
        values = made.pop("additionalProperties", False)
        if values is True or values == {}:
            made[PRESERVE] = True
        elif values:
            made["additionalProperties"] = self.convert(values, f"{path}.*", inside)

    def _array(self, made: Json, flat: Json, path: str, inside: tuple[str, ...]) -> None:
        if flat.get("uniqueItems"):
            made[LIST_TYPE] = "set"
        if "items" in made:
            made["items"] = self.convert(made["items"], f"{path}[]", inside)

    def _default(self, made: Json) -> None:
        if made.get("default") is None or not self._defaults:
            made.pop("default", None)
        else:
            made["default"] = _lean(made["default"], made)


def _lean(default: Any, schema: Mapping[str, Any]) -> Any:
    """Leave out of an object's default what the defaults of its fields say anyway.

    An object with rules keeps it all: the API server tries the rules on the default as it is written.
    """
    if not isinstance(default, dict) or "properties" not in schema:
        return default
    if RULES in schema:
        return {name: value for name, value in default.items() if value is not None}
    lean = {}
    for name, value in default.items():
        field = schema["properties"].get(name, {})
        if value is not None and (said := _lean(value, field)) != field.get("default", _MISSING):
            lean[name] = said
    return lean


def _int_or_string(schema: Json, path: str) -> Json:
    branches = {branch.get("type"): branch for branch in schema["anyOf"]}
    if set(branches) != {"integer", "string"} or len(schema["anyOf"]) != 2:
        raise SpecError(path, "a union has no form; model one object with optional fields and an 'exactly one of' rule")
    merged = {**branches["integer"], **branches["string"], **schema, INT_OR_STRING: True}
    return {key: value for key, value in merged.items() if key not in ("anyOf", "type")}


def _openapi_bounds(made: Json) -> None:
    """OpenAPI 3.0 says exclusive bounds by a flag beside the bound; integers have a width."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(exclusive), (int, float)) and not isinstance(made[exclusive], bool):
            made[bound], made[exclusive] = made[exclusive], True
    if made.get("type") == "integer" and "format" not in made:
        made["format"] = "int32" if made.get("maximum", INT32_MAX + 1) <= INT32_MAX else "int64"


def _check(made: Json, path: str) -> None:
    kind = made.get("type")
    if kind is None and INT_OR_STRING not in made:
        raise SpecError(path, "has no type")
    if kind == "string" and not made.keys() & {"maxLength", "enum"}:
        raise SpecError(path, "a string needs maxLength or enum")
    if INT_OR_STRING in made and "maxLength" not in made:
        raise SpecError(path, "an integer or string needs maxLength")
    if kind == "array":
        _check_array(made, path)
    if kind == "object" and not made.keys() & {"properties", "additionalProperties", PRESERVE}:
        raise SpecError(path, "an object needs properties")
    if "additionalProperties" in made and "maxProperties" not in made:
        raise SpecError(path, "a map needs maxProperties")


def _check_array(made: Json, path: str) -> None:
    if "items" not in made:
        raise SpecError(path, "an array needs one schema for its items")
    if "maxItems" not in made:
        raise SpecError(path, "an array needs maxItems")
    if made["items"].get("type") == "object" and LIST_TYPE not in made:
        raise SpecError(path, f"an array of objects needs {LIST_TYPE}, else two appliers overwrite each other's items")
