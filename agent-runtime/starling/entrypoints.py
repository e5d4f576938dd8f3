"""Agent classes by their entrypoint, as manifests name them: "module:Class", or as an installed package registers them.

A package registers an agent type under the entry point group `starling.agents`: its name is the type, its value the
entrypoint. Then a manifest needs to say the type only.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from types import ModuleType
from typing import Any, Final

from starling.agent import Agent, AgentDefinition, definition
from starling.errors import SpecError

GROUP: Final = "starling.agents"


def registered(agent_type: str, *, field: str = "entrypoint") -> AgentDefinition:
    """Return the agent class that an installed package registers as this type.

    field: where the manifest could have named an entrypoint. Raises SpecError when no package does, or several do.
    """
    found = {
        point.value: point.dist.name if point.dist else "?"
        for point in importlib.metadata.entry_points(group=GROUP, name=agent_type)
    }
    if not found:
        raise SpecError(field, f"no installed package registers agent type {agent_type!r}; give module:Class")
    if len(found) > 1:
        who = ", ".join(f"{package} ({value})" for value, package in sorted(found.items()))
        raise SpecError(field, f"several packages register agent type {agent_type!r}: {who}; give module:Class")
    return load(next(iter(found)), agent_type, field=field)


def load(entrypoint: str, agent_type: str | None = None, *, field: str = "entrypoint") -> AgentDefinition:
    """Import an agent class.

    agent_type: what the manifest says it is, None when it says nothing; field: where the manifest says it.
    Raises SpecError, also for whatever goes wrong while the module is imported.
    """
    module_name, colon, class_name = entrypoint.partition(":")
    if not colon or not module_name or not class_name:
        raise SpecError(field, f"{entrypoint!r} is not of the form module:Class")
    module = _module(module_name, entrypoint, field)
    try:
        cls: Any = functools.reduce(getattr, class_name.split("."), module)
    except AttributeError as error:
        raise SpecError(field, f"{entrypoint!r}: module {module_name!r} has no {class_name!r}") from error
    if isinstance(cls, Agent):
        raise SpecError(
            field,
            f"{entrypoint!r} is an instance; every pod makes its own, so name the class. Instances are for "
            "`starling.local` only",
        )
    if not (isinstance(cls, type) and issubclass(cls, Agent) and cls is not Agent):
        raise SpecError(field, f"{entrypoint!r} is not an Agent class")
    made = definition(cls)
    if agent_type is not None and made.type != agent_type:
        raise SpecError(field, f"the manifest says type {agent_type!r}, but {entrypoint} says {made.type!r}")
    return made


def _module(name: str, entrypoint: str, field: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise SpecError(field, f"{entrypoint!r}: there is no module {error.name!r} on the path") from error
        raise SpecError(field, f"{entrypoint!r}: module {name!r} needs {error.name!r}, which is missing") from error
    except SpecError as error:
        raise SpecError(field, f"{entrypoint!r}: {error}") from error
    except Exception as error:
        raise SpecError(field, f"{entrypoint!r}: importing it failed: {type(error).__name__}: {error}") from error
