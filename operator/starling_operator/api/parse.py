"""From a Kubernetes object, as JSON or YAML values, to a frozen model; what the API server refuses is refused here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starling.errors import SpecError

from starling_operator.api.fields import HINTS
from starling_operator.api.model import RULE_BROKEN, Model
from starling_operator.api.names import API_VERSION
from starling_operator.api.pool import AgentPool
from starling_operator.api.resource import Resource
from starling_operator.api.scaling import AgentScalingTarget
from starling_operator.api.subscription import AgentSubscription

AnyResource = AgentPool | AgentSubscription | AgentScalingTarget
KINDS: Final[tuple[type[AnyResource], ...]] = (AgentPool, AgentSubscription, AgentScalingTarget)

R = TypeVar("R", bound=Resource)
M = TypeVar("M", bound=Model)

_SUBJECT = re.compile(r"^(Input|Value|Number|String|List|Tuple|Object|Dictionary) should ")


def parse(obj: Mapping[str, Any], *, refuse_unknown: bool = False) -> AnyResource:
    """Return the object as a model of its kind.

    refuse_unknown: a field of the spec that the kind does not have is an error, as with `kubectl apply`; else it is
    ignored. Raises SpecError naming the field.
    """
    kind = obj.get("kind")
    for model in KINDS:
        if model.resource_kind.name == kind:
            return parse_as(model, obj, refuse_unknown=refuse_unknown)
    known = ", ".join(model.resource_kind.name for model in KINDS)
    raise SpecError("kind", f"{kind!r} is none of {known}")


def parse_as(model: type[R], obj: Mapping[str, Any], *, refuse_unknown: bool = False) -> R:
    """Return the object as a `model`, such as AgentPool. Raises SpecError naming the field."""
    for field, wanted in (("apiVersion", API_VERSION), ("kind", model.resource_kind.name)):
        if obj.get(field) != wanted:
            raise SpecError(field, f"must be {wanted}, not {obj.get(field)!r}")
    text = json.dumps(_without_nulls(obj), default=str)
    made = _validated(model, text)
    if refuse_unknown:
        _refuse_unknown(model, obj)
    return made


def check_change(new: Resource, old: Resource) -> None:
    """Raise SpecError when a field that is fixed for the life of the object has changed."""
    _check_change(new, old, "")


def _check_change(new: Model, old: Model, path: str) -> None:
    for rule in new.change_rules:
        if not rule.holds(new, old):
            raise SpecError((path + rule.field).lstrip("."), rule.message)
    for name, field in type(new).model_fields.items():
        now, before = getattr(new, name), getattr(old, name)
        if isinstance(now, Model) and isinstance(before, type(now)):
            _check_change(now, before, f"{path}.{field.alias}")


def _validated(model: type[M], text: str) -> M:
    try:
        return model.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise spec_error(error) from None


def _refuse_unknown(model: type[Resource], obj: Mapping[str, Any]) -> None:
    known = {str(field.alias) for field in model.model_fields.values()}
    if extra := sorted({str(key) for key in obj} - known):
        raise SpecError(extra[0], f"is not a field of {model.resource_kind.name}; remove it")
    spec: Any = model.model_fields["spec"].annotation
    try:
        spec.model_validate_json(
            json.dumps(_without_nulls(obj["spec"]), default=str), by_alias=True, by_name=False, extra="forbid"
        )
    except ValidationError as error:
        raise spec_error(error, "spec") from None


def _without_nulls(value: Any) -> Any:
    """Drop object fields that are null, as the API server does; free-form parts stay as they are."""
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item) if key == "template" else _without_nulls(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, (list, tuple)):
        return [_without_nulls(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def spec_error(error: ValidationError, prefix: str = "") -> SpecError:
    """Return the first error as field path and problem."""
    first = error.errors(include_url=False)[0]
    path = prefix
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    if first["type"] == RULE_BROKEN:
        path += first["ctx"]["field"]
    return SpecError(path.lstrip(".") or "object", _problem(first))


def _problem(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    given = json.dumps(error["input"], ensure_ascii=False, default=str)
    shown = given if len(given) <= 80 else f"{given[:77]}..."
    match error["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a field here; remove it or correct its name"
        case "rule_broken" | "duplicate":
            return str(context["problem"])
        case "quantity":
            return f"{context['problem']}; not {shown}"
        case "string_pattern_mismatch":
            return f"{HINTS[context['pattern']]}; not {shown}"
    text = _SUBJECT.sub("must ", error["msg"]).replace(" after validation", "")
    return text if ", not " in text else f"{text}, not {shown}"
