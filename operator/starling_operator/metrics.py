"""The operator's own metrics."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


class OperatorMetrics:
    """Everything that the operator counts, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile = Histogram(
            "starling_operator_reconcile_seconds", "Seconds of one look at a pool.", ["result"], registry=self.registry
        )
        self.moves = Counter(
            "starling_operator_moves", "Shards moved because of load.", ["namespace", "pool"], registry=self.registry
        )
        self.refused = Counter(
            "starling_operator_moves_refused",
            "Map writes that somebody else had overtaken.",
            ["namespace", "pool"],
            registry=self.registry,
        )
        self.imbalance = Gauge(
            "starling_operator_imbalance_ratio",
            "Load of the most loaded pod over the mean.",
            ["namespace", "pool"],
            registry=self.registry,
        )
        self.leader = Gauge("starling_operator_leader", "1 while this process is the writer.", registry=self.registry)
        self.age = Gauge(
            "starling_operator_metrics_age_seconds",
            "Seconds since load was measured.",
            ["namespace", "pool"],
            registry=self.registry,
        )


async def serve_http(metrics: OperatorMetrics, host: str, port: int, *, alive: Callable[[], str]) -> web.AppRunner:
    """Serve /livez, /readyz and /metrics; alive: returns "" or why the process should be restarted."""

    async def livez(_: web.Request) -> web.Response:
        reason = alive()
        return web.Response(text=reason or "ok", status=500 if reason else 200)

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
