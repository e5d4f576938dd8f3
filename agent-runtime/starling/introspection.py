"""What agent types take and give, as JSON Schema, for people and for other programs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from starling.agent import Agent, AgentDefinition
from starling.codec import Codec, PlainCodec
from starling.dispatch import Handler
from starling.messages import registry


@dataclass(frozen=True, slots=True)
class HandlerDescription:
    """One handler. kind: event, rpc or query; takes, gives: message name to its JSON Schema."""

    name: str
    kind: str
    description: str
    takes: Mapping[str, Mapping[str, Any]]
    gives: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class AgentDescription:
    """One agent type. description: the docstring of its class, "" without one; takes_others: whether it has
    `on_unhandled`, which takes every message that no handler names."""

    type: str
    description: str
    handlers: tuple[HandlerDescription, ...]
    takes_others: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "description": self.description,
            "takes_others": self.takes_others,
            "handlers": [
                {
                    "name": handler.name,
                    "kind": handler.kind,
                    "description": handler.description,
                    "takes": dict(handler.takes),
                    "gives": dict(handler.gives),
                }
                for handler in self.handlers
            ],
        }


def describe(definition: AgentDefinition) -> AgentDescription:
    """Return what an agent type takes and gives."""
    return AgentDescription(
        type=definition.type,
        description=_docs(definition.cls, Agent),
        handlers=tuple(_handler(definition, name, handler) for name, handler in definition.handlers.items()),
        takes_others=definition.cls.on_unhandled is not Agent.on_unhandled,
    )


def _handler(definition: AgentDefinition, name: str, handler: Handler) -> HandlerDescription:
    return HandlerDescription(
        name=name,
        kind=handler.kind.value,
        description=_docs(getattr(definition.cls, name), None),
        takes=_schemas(registry.derived(handler.messages)),
        gives={} if handler.kind.value == "event" else _schemas(handler.results.values()),
    )


def _schemas(codecs: Iterable[Codec]) -> dict[str, Mapping[str, Any]]:
    return {codec.name: _schema(codec) for codec in codecs}


def _schema(codec: Codec) -> Mapping[str, Any]:
    """The JSON Schema of a message; {}, which says nothing, where its body is no JSON of pydantic's."""
    if type(codec) not in (Codec, PlainCodec):
        return {}
    try:
        return TypeAdapter(codec.cls).json_schema()
    except PydanticInvalidForJsonSchema:
        return {}


def _docs(thing: Any, base: type | None) -> str:
    """The docstring of the thing itself; one that only a base class has does not count."""
    docs = vars(thing).get("__doc__") if isinstance(thing, type) else getattr(thing, "__doc__", None)
    return inspect.cleandoc(docs) if docs and (base is None or docs is not base.__doc__) else ""
