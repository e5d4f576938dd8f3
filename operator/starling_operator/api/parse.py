"""Reads Kubernetes objects into models, or says which field is wrong: the same rules as the API server's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starling.errors import SpecError

from starling_operator.api.constants import API_VERSION
from starling_operator.api.pool import MAX_POOL_NAME, AgentPool
from starling_operator.api.scaling import AgentScalingTarget
from starling_operator.api.subscription import AgentSubscription

Resource = AgentPool | AgentSubscription | AgentScalingTarget
KINDS: dict[str, type[AgentPool] | type[AgentSubscription] | type[AgentScalingTarget]] = {
    cls.kind: cls for cls in (AgentPool, AgentSubscription, AgentScalingTarget)
}


def parse(obj: Mapping[str, Any], old: Resource | None = None) -> Resource:
    """Return the object as a model. old: the same object before a change. Raises SpecError naming the field."""
    kind = obj.get("kind")
    if obj.get("apiVersion") != API_VERSION:
        raise SpecError("apiVersion", f"must be {API_VERSION}, this is {obj.get('apiVersion')!r}")
    cls = KINDS.get(str(kind))
    if cls is None:
        raise SpecError("kind", f"{kind!r} is none of {', '.join(KINDS)}")
    try:
        made = cls.model_validate({k: obj[k] for k in ("metadata", "spec", "status") if obj.get(k) is not None})
    except ValidationError as error:
        raise _spec_error(error) from None
    if isinstance(made, AgentPool) and len(made.metadata.name) > MAX_POOL_NAME:
        raise SpecError("metadata.name", f"of an AgentPool has at most {MAX_POOL_NAME} characters")
    for rule in made.spec.rules:
        if not rule.check(made.spec, old.spec if old is not None else None):
            raise SpecError(f"spec.{rule.field}", rule.message)
    _unique(made)
    return made


def _unique(made: Resource) -> None:
    if isinstance(made, AgentPool):
        seen: set[str] = set()
        for index, agent in enumerate(made.spec.agents):
            if agent.type in seen:
                raise SpecError(f"spec.agents[{index}].type", f"{agent.type!r} is there twice")
            seen.add(agent.type)


def _spec_error(error: ValidationError) -> SpecError:
    first = error.errors()[0]
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return SpecError(path, first["msg"])
