"""kopf, and nothing but kopf: events note what was seen, one daemon a pool looks at it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, Final

import kopf
from starling.errors import MeshError

from starling_operator.api import FINALIZER, GROUP
from starling_operator.api.names import POOL_LABEL
from starling_operator.world import ERROR_PAUSE, World

KINDS: Final = {
    "agentpools": "AgentPool",
    "agentsubscriptions": "AgentSubscription",
    "agentscalingtargets": "AgentScalingTarget",
}


class Backoff:
    """Endless, jittered: an API server that is away never ends the watchers."""

    def __iter__(self) -> Iterator[float]:
        for delay in (0.5, 1.0, 2.0, 4.0, 8.0):
            yield delay * random.uniform(0.7, 1.3)
        while True:
            yield 15.0 * random.uniform(0.7, 1.3)


def registry(world: World, *, scanning: bool) -> kopf.OperatorRegistry:
    """Return the handlers of one operator process. scanning: whether CRDs and namespaces may be watched."""
    made = kopf.OperatorRegistry()

    @kopf.on.startup(registry=made)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.persistence.finalizer = FINALIZER
        settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
        settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP, key="last-handled")
        settings.networking.request_timeout = 30
        settings.networking.connect_timeout = 5
        settings.networking.error_backoffs = Backoff()
        settings.watching.server_timeout = 290
        settings.watching.client_timeout = 320
        settings.queueing.worker_limit = 50
        settings.posting.enabled = False
        settings.peering.standalone = True
        settings.scanning.disabled = not scanning
        settings.background.instant_exit_timeout = 0.1

    for plural, kind in KINDS.items():
        _watch(made, world, plural, kind)

    @kopf.on.event("apps", "v1", "statefulsets", labels={POOL_LABEL: kopf.PRESENT}, registry=made)
    async def stateful_set_seen(namespace: str | None, labels: Any, **_: Any) -> None:
        world.wake(_known(namespace), labels[POOL_LABEL])

    @kopf.on.event("v1", "pods", labels={POOL_LABEL: kopf.PRESENT}, registry=made)
    async def pod_seen(namespace: str | None, labels: Any, **_: Any) -> None:
        world.wake(_known(namespace), labels[POOL_LABEL])

    @kopf.daemon(GROUP, "agentpools", cancellation_backoff=10, cancellation_timeout=10, registry=made)
    async def pool_loop(namespace: str | None, name: str, body: Any, stopped: Any, **_: Any) -> None:
        place = _known(namespace)
        wake = world.event(place, name)
        while not stopped:
            wake.clear()
            delay = await world.look(place, name)
            await _first(wake.wait(), stopped.wait(delay), timeout=delay)
        if stopped.reason is not None and kopf.DaemonStoppingReason.RESOURCE_DELETED in stopped.reason:
            await _removed(world, place, name, dict(body))

    return made


def _watch(made: kopf.OperatorRegistry, world: World, plural: str, kind: str) -> None:
    @kopf.on.event(GROUP, plural, id=f"{plural}_seen", registry=made)
    async def seen(namespace: str | None, name: str, body: Any, type: str | None, **_: Any) -> None:  # noqa: A002
        world.seen(kind, _known(namespace), name, None if type == "DELETED" else dict(body))


def _known(namespace: str | None) -> str:
    """Our kinds, and what we watch of others, all live in a namespace."""
    assert namespace is not None
    return namespace


async def _removed(world: World, namespace: str, name: str, body: dict[str, Any]) -> None:
    """Clean up until it works: the finalizer holds the object until then."""
    while True:
        try:
            await world.remove(namespace, name, body)
            return
        except MeshError:
            await asyncio.sleep(ERROR_PAUSE)


async def _first(*waits: Any, timeout: float) -> None:
    """Wait for the first of several things, at most `timeout` seconds."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def operate(world: World, *, namespaces: list[str], stop: asyncio.Event) -> None:
    """Run kopf until `stop` is set. Raises what ends it."""
    ready = asyncio.Event()
    made = registry(world, scanning=not namespaces)
    login(made)
    await kopf.operator(
        registry=made,
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
        ready_flag=ready,
    )


def login(made: kopf.OperatorRegistry) -> None:
    """Log in as the pod's service account, else by kubeconfig; never by what other libraries find."""

    @kopf.on.login(registry=made)
    async def log_in(settings: kopf.OperatorSettings, logger: Any, **_: Any) -> Any:
        return kopf.login_with_service_account(settings=settings, logger=logger) or kopf.login_with_kubeconfig(
            settings=settings, logger=logger
        )
