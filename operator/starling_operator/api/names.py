"""Group, version, labels, annotations, managers and conditions: what the control plane is called on Kubernetes."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

GROUP: Final = "starlingmesh.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "starlingmesh.dev/v1alpha1"
CATEGORY: Final = "starling"

POOL_LABEL: Final = f"{GROUP}/pool"
MESH_LABEL: Final = f"{GROUP}/mesh"
PAUSE_ANNOTATION: Final = f"{GROUP}/pause"
FINALIZER: Final = f"{GROUP}/cleanup"

FIELD_MANAGER: Final = "starling-operator"
STATUS_MANAGER: Final = "starling-status"
LEASE: Final = "starling-operator"


class ConditionType(StrEnum):
    """The conditions that our objects carry."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    METRICS_AVAILABLE = "MetricsAvailable"
    AGENTS_PARKED = "AgentsParked"
    UNDELIVERED = "Undelivered"


class Pause(StrEnum):
    """What the pause annotation of a pool may stop; several are separated by commas."""

    ALL = "all"
    SCALE_IN = "scale-in"
    SCALE_OUT = "scale-out"
    MOVES = "moves"
