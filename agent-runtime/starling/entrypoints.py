"""Agent classes by their entrypoint, as manifests name them: "module:Class"."""

from __future__ import annotations

import importlib

from starling.agent import Agent, AgentDefinition, definition
from starling.errors import SpecError


def load(entrypoint: str, agent_type: str | None = None) -> AgentDefinition:
    """Import an agent class. agent_type: what the manifest says it is. Raises SpecError."""
    module_name, colon, class_name = entrypoint.partition(":")
    if not colon or not module_name or not class_name:
        raise SpecError("entrypoint", f"{entrypoint!r} is not of the form module:Class")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SpecError("entrypoint", f"{entrypoint!r}: module {module_name!r} cannot be imported: {error}") from error
    cls = getattr(module, class_name, None)
    if cls is None:
        raise SpecError("entrypoint", f"{entrypoint!r}: module {module_name!r} has no {class_name!r}")
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        raise SpecError("entrypoint", f"{entrypoint!r} is not an Agent class")
    made = definition(cls)
    if agent_type is not None and made.type != agent_type:
        raise SpecError(
            "type", f"the manifest says {agent_type!r}, class {class_name} of {module_name} says {made.type!r}"
        )
    return made
