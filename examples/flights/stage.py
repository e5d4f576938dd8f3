"""What the demo needs of the place where it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from starling.errors import MeshError


class DemoFailed(MeshError):
    """The demo cannot go on; the text says why."""


class Killed(NamedTuple):
    """A worker that got SIGKILL, and when, by the loop's clock."""

    pod: str
    at: float


class Stage(Protocol):
    """A mesh with the example's manifests. Every method is bounded in time and raises DemoFailed."""

    @property
    def name(self) -> str:
        """`dev` or `cluster`."""
        ...

    @property
    def nats_url(self) -> str:
        """Address of NATS; known once started."""
        ...

    @property
    def mesh(self) -> str:
        """Name of the mesh; known once started."""
        ...

    async def start(self) -> None:
        """Start, and return once a pod serves every shard of both pools."""
        ...

    async def stop(self) -> None:
        """End everything that `start` started; also after a start that failed, and twice."""
        ...

    async def pods(self) -> Mapping[str, int]:
        """Return the number of running pods by pool."""
        ...

    async def moves(self) -> Sequence[str]:
        """Return the moves because of load so far, one line each."""
        ...

    async def scale_ups(self) -> Sequence[str]:
        """Return each time that a scaling target added pods so far, one line each."""
        ...

    async def kill_worker(self, pool: str) -> Killed:
        """SIGKILL the process of one pod that owns shards."""
        ...

    async def kill_operator(self) -> None:
        """SIGKILL the operator; nobody starts it again."""
        ...

    async def start_operator(self) -> None:
        """Start the operator again."""
        ...

    async def checks(self) -> Mapping[str, tuple[bool, str]]:
        """Make the checks of this place alone, once everything is handled; return name to (it holds, what was seen)."""
        ...
