"""The base of the three kinds, and what Kubernetes wants to know of a kind beside its schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from starling_operator.api.common import Metadata
from starling_operator.api.model import Json, Model
from starling_operator.api.names import API_VERSION, ConditionType


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`. priority 1: only with ``-o wide``."""

    name: str
    path: str
    type: Literal["string", "integer", "number", "boolean", "date"] = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """Names, columns and subresources of a kind. scalable: it has `spec.replicas` and the scale subresource."""

    name: str
    plural: str
    short: str
    columns: tuple[Column, ...]
    scalable: bool = False

    @property
    def singular(self) -> str:
        return self.name.lower()


def condition_column(name: str, condition: ConditionType, field: str = "status", priority: int = 0) -> Column:
    """Return a column that shows one field of a condition."""
    return Column(name, f'.status.conditions[?(@.type=="{condition}")].{field}', priority=priority)


AGE = Column("Age", ".metadata.creationTimestamp", "date")


class Resource(Model):
    """An object of one of our kinds; subclasses add kind, spec and status."""

    resource_kind: ClassVar[Kind]

    api_version: Literal["starlingmesh.dev/v1alpha1"] = API_VERSION
    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    def dump(self) -> Json:
        """Return the object as JSON values, defaults filled in; fields that are None are left out."""
        made: Json = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return made
