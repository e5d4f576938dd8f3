"""Names of the control plane's API, used by models, generator, operator and chart."""

from __future__ import annotations

from typing import Final

GROUP: Final = "starlingmesh.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "starling"

POOL_LABEL: Final = f"{GROUP}/pool"
MESH_LABEL: Final = f"{GROUP}/mesh"
VERSION_ANNOTATION: Final = f"{GROUP}/version"
PAUSE_ANNOTATION: Final = f"{GROUP}/pause"
FINALIZER: Final = f"{GROUP}/cleanup"

FIELD_MANAGER: Final = "starling-operator"
STATUS_MANAGER: Final = "starling-status"
LEASE: Final = "starling-operator"

READY: Final = "Ready"
PROGRESSING: Final = "Progressing"
DEGRADED: Final = "Degraded"
METRICS_AVAILABLE: Final = "MetricsAvailable"
