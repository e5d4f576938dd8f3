"""One writer at a time, by a Lease: taken before anything is written, given up on the way out."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any, Final

from starling.errors import MeshError

from starling_operator.adapters.kubeclient import Conflict, KubeClient
from starling_operator.api.names import LEASE

log = logging.getLogger(__name__)

DURATION: Final = 15.0
RENEW_DEADLINE: Final = 10.0
RETRY: Final = 2.0


class Lease:
    """The operator's Lease in its own namespace. `holds` is asked right before each write, by our own clock."""

    def __init__(self, kube: KubeClient, namespace: str, identity: str) -> None:
        self._kube = kube
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._identity = identity
        self._renewed: float | None = None
        self._seen: tuple[str, float] | None = None
        """The holder's renewTime as we last saw it change, and when that was by our clock."""

    def holds(self) -> bool:
        """Whether we are the writer now: renewed within the deadline, by the monotonic clock."""
        return self._renewed is not None and asyncio.get_running_loop().time() - self._renewed < RENEW_DEADLINE

    async def acquire(self) -> None:
        """Wait until we hold it."""
        while not await self._try():
            await asyncio.sleep(RETRY)
        log.info("leading", extra={"identity": self._identity})

    async def keep(self) -> None:
        """Renew until it is lost, then return."""
        while self.holds():
            await asyncio.sleep(RETRY)
            await self._try()
        log.error("lease lost", extra={"identity": self._identity})

    async def release(self) -> None:
        """Let the next one take it at once."""
        if not self.holds():
            return
        self._renewed = None
        current = await self._kube.get(f"{self._path}/{LEASE}")
        if current and current["spec"].get("holderIdentity") == self._identity:
            current["spec"]["holderIdentity"] = ""
            await self._kube.request("PUT", f"{self._path}/{LEASE}", body=current)

    async def _try(self) -> bool:
        try:
            return await self._take()
        except MeshError as error:
            log.debug("lease not renewed", extra={"error": str(error)})
            return False

    async def _take(self) -> bool:
        now = asyncio.get_running_loop().time()
        current = await self._kube.get(f"{self._path}/{LEASE}")
        spec: dict[str, Any] = (current or {}).get("spec") or {}
        holder, renewed = str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or "")
        if holder and holder != self._identity and not self._expired(renewed, now):
            return False
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        wanted = {
            **spec,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION),
            "renewTime": stamp,
            "acquireTime": spec.get("acquireTime", stamp) if holder == self._identity else stamp,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (holder != self._identity),
        }
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": wanted}
        try:
            if current is None:
                await self._kube.request("POST", self._path, body={**body, "metadata": {"name": LEASE}})
            else:
                await self._kube.request("PUT", f"{self._path}/{LEASE}", body={**body, "metadata": current["metadata"]})
        except Conflict:
            return False
        self._renewed = now
        return True

    def _expired(self, renewed: str, now: float) -> bool:
        """Whether the holder has not renewed for the lease's duration, by our clock and what we saw."""
        if self._seen is None or self._seen[0] != renewed:
            self._seen = (renewed, now)
        return now - self._seen[1] >= DURATION
