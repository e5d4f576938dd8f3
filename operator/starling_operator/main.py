"""The operator's process: becomes the one writer, then runs kopf until it is told to stop or loses its lease."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from starling.adapters.nats import connect
from starling.errors import MeshError, SpecError, Unreachable
from starling.node.logs import configure_logging

from starling_operator.adapters.kubeclient import KubeClient
from starling_operator.adapters.lease import Lease
from starling_operator.adapters.prometheus import PrometheusLoads
from starling_operator.handlers import operate
from starling_operator.metrics import OperatorMetrics, serve_http
from starling_operator.plan.values import ShardLoads
from starling_operator.settings import OperatorSettings
from starling_operator.world import World

log = logging.getLogger(__name__)


class NoLoads:
    """No Prometheus is configured: nothing is measured."""

    async def loads(self, namespace: str, pool: str, window: float) -> ShardLoads | None:
        return None


async def run(settings: OperatorSettings) -> int:
    """Run until SIGTERM (0) or until the lease or a watcher is lost (1: somebody restarts us)."""
    metrics = OperatorMetrics()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    http = await serve_http(metrics, settings.http_host, settings.http_port, alive=lambda: "")
    kube = await KubeClient.connect()
    store = await connect(settings.nats_url, name="starling operator", credentials=settings.nats_creds)
    loads = PrometheusLoads(settings.prometheus_url) if settings.prometheus_url else NoLoads()
    lease = Lease(kube, settings.pod_namespace, f"{settings.pod_name}-{os.getpid()}")
    try:
        if not await _acquired(lease, stop):
            return 0
        metrics.leader.set(1)
        world = World(settings, kube, store, loads, metrics, lease.holds)
        return await _lead(world, lease, settings, stop)
    finally:
        metrics.leader.set(0)
        await _quietly(lease.release())
        if isinstance(loads, PrometheusLoads):
            await loads.close()
        await store.close()
        await kube.close()
        await http.cleanup()


async def _acquired(lease: Lease, stop: asyncio.Event) -> bool:
    """Wait for the lease, or for the end."""
    waits = [asyncio.ensure_future(lease.acquire()), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    return lease.holds() and not stop.is_set()


async def _lead(world: World, lease: Lease, settings: OperatorSettings, stop: asyncio.Event) -> int:
    keeping = asyncio.ensure_future(lease.keep())
    operating = asyncio.ensure_future(operate(world, namespaces=settings.namespaces, stop=stop))
    try:
        await asyncio.wait([keeping, operating, world.failure], return_when=asyncio.FIRST_COMPLETED)
        clean = stop.is_set()
        stop.set()
        await asyncio.wait([operating], timeout=30.0)
        if world.failure.done() and (error := world.failure.exception()) is not None:
            log.error("a task of the operator ended", exc_info=error)
        if operating.done() and not operating.cancelled() and (error := operating.exception()) is not None:
            log.error("kopf ended", exc_info=error)
        return 0 if clean else 1
    finally:
        world.failure.cancel()
        for task in (keeping, operating):
            task.cancel()
        await asyncio.gather(keeping, operating, return_exceptions=True)
        await world.close()


async def _quietly(work: object) -> None:
    try:
        await work  # type: ignore[misc]
    except (MeshError, OSError) as error:
        log.debug("lease not released", extra={"error": str(error)})


def main() -> int:
    """Entry point of `starling-operator`: 0 stopped, 1 failed, 2 wrong settings, 3 unreachable."""
    try:
        settings = OperatorSettings.from_environment()
        configure_logging(settings.log_level, settings.log_format)
        logging.getLogger("kopf").setLevel(logging.WARNING)
        return asyncio.run(run(settings))
    except SpecError as error:
        print(f"starling-operator: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except Unreachable as error:
        print(f"starling-operator: {error}", file=sys.stderr)  # noqa: T201
        return 3
