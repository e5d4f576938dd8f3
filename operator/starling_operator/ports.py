"""What the control loop needs of the world: pods, loads, and objects with their status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from starling_operator.plan.values import ShardLoads


@dataclass(frozen=True, slots=True)
class PodSeen:
    """One pod as it is. phase: starting, running (its process or container runs), terminating, failed.

    process: its process id where it is our child; version: hash of the configuration that it was made with.
    """

    name: str
    ordinal: int
    phase: str
    version: str
    restarts: int = 0
    process: int | None = None
    node_lost: bool = False


@dataclass(frozen=True, slots=True)
class PoolPods:
    """A pool's pods, and what was asked for. resource_version: of the object that holds the replicas, "" locally."""

    pods: tuple[PodSeen, ...]
    replicas: int
    version: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class PoolPodsSpec:
    """What a pool's pods should be. config: pool.json; code: file name to text; template: pod overrides."""

    pool: str
    namespace: str
    replicas: int
    version: str
    config: Mapping[str, Any]
    code: Mapping[str, str] = field(default_factory=dict)
    code_config_map: str | None = None
    image: str | None = None
    drain_seconds: float = 30.0
    template: Mapping[str, Any] = field(default_factory=dict)
    uid: str = ""
    """Of the AgentPool object, for owner references; "" outside Kubernetes."""
    resource_version: str = ""
    """The snapshot that this was planned on; a write over another one is refused."""


class Pods(Protocol):
    """Runs the pods of pools."""

    async def observe(self, pool: str) -> PoolPods | None:
        """Return the pool's pods as they are; None when it was never applied."""
        ...

    async def apply(self, spec: PoolPodsSpec) -> None:
        """Make the pool's pods what `spec` says; doing it again changes nothing."""
        ...

    async def replace(self, pool: str, ordinal: int) -> None:
        """Let one pod of an older version come back with the present one."""
        ...

    async def remove(self, pool: str) -> None:
        """Remove the pods and all that goes with them."""
        ...


class LoadSource(Protocol):
    """Where loads come from: Prometheus, or the workers themselves."""

    async def loads(self, namespace: str, pool: str, window: float) -> ShardLoads | None:
        """Return the loads of a pool over the last `window` seconds; None when they cannot be had."""
        ...
