"""What is wrong with a JSON value by the JSON Schema of a message, as far as people mistype it.

Only what pydantic writes into the schemas of message classes is read, and only what it refuses for certain is found:
everything else is left to the agent's own pod.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any, Final

Schema = Mapping[str, Any]

_WORDS: Final = {
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_SHOWN: Final = 40


def wrong_in(schema: Schema, value: Any, at: str) -> str:
    """Return "path: what is wrong and what would be right" for the first field that does not fit, "" if all do.

    at: path of the value itself.
    """
    return _wrong(schema, value, at, schema.get("$defs", {}))


def nearest_first(word: str, known: Iterable[str]) -> list[str]:
    """Return the words, those that look most like `word` first."""
    return sorted(known, key=lambda each: (-SequenceMatcher(None, word.lower(), each.lower()).ratio(), each))


def _wrong(schema: Schema, value: Any, at: str, defs: Mapping[str, Schema]) -> str:
    if "$ref" in schema:
        return _wrong(defs.get(str(schema["$ref"]).removeprefix("#/$defs/"), {}), value, at, defs)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return _none_of(choices, value, at, defs)
    if "const" in schema and value != schema["const"]:
        return f"{at}: must be {_shown(schema['const'])}, not {_shown(value)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{at}: must be one of {', '.join(map(_shown, schema['enum']))}, not {_shown(value)}"
    kind = schema.get("type")
    if kind not in _WORDS:
        return ""
    if not _is(kind, value):
        return f"{at}: must be {_WORDS[kind]}, not {_shown(value)}"
    if kind == "object":
        return _wrong_in_object(schema, value, at, defs)
    return _wrong_in_list(schema, value, at, defs) if kind == "array" else ""


def _none_of(choices: Iterable[Schema], value: Any, at: str, defs: Mapping[str, Schema]) -> str:
    """What is wrong by the only choice that is not null; of several it is only said that none fits."""
    found = [(choice, _wrong(choice, value, at, defs)) for choice in choices]
    if any(not wrong for _, wrong in found):
        return ""
    real = [wrong for choice, wrong in found if choice.get("type") != "null"]
    return real[0] if len(real) == 1 else f"{at}: {_shown(value)} is none of the {len(found)} kinds that it may be"


def _wrong_in_object(schema: Schema, value: Mapping[str, Any], at: str, defs: Mapping[str, Schema]) -> str:
    fields: Mapping[str, Schema] = schema.get("properties", {})
    others = schema.get("additionalProperties", "properties" not in schema)
    for name, inner in value.items():
        if name not in fields and others is False:
            known = ", ".join(nearest_first(name, fields)) or "none"
            return f"{at}.{name}: is no field of it; there are: {known}"
        of_field = fields.get(name, others)
        if isinstance(of_field, Mapping) and (wrong := _wrong(of_field, inner, f"{at}.{name}", defs)):
            return wrong
    missing = [name for name in schema.get("required", ()) if name not in value]
    return f"{at}.{missing[0]}: is missing" if missing else ""


def _wrong_in_list(schema: Schema, value: list[Any], at: str, defs: Mapping[str, Schema]) -> str:
    first, rest = schema.get("prefixItems", []), schema.get("items", {})
    for index, inner in enumerate(value):
        of_item = first[index] if index < len(first) else rest
        if isinstance(of_item, Mapping) and (wrong := _wrong(of_item, inner, f"{at}.{index}", defs)):
            return wrong
    return ""


def _is(kind: str, value: Any) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case _:
            return value is None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
