"""Clusters of three servers that fall out with each other: a route cut one way, leaders sent away, data gone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import nats
from starling.adapters.nats import EmbeddedServer
from starling.adapters.nats.server import HOST, free_port

from benchmarks.faults.proxy import Proxy
from benchmarks.faults.trial import Report, Trial, trial

SIZE: Final = 3
CUT: Final = 12.0
"""Seconds: longer than a server waits for its leader before it wants to be one (4 to 9)."""
STORM: Final = 8.0
PER_SECOND: Final = 150.0


async def route_one_way(folder: Path, report: Report) -> None:
    """Of the route between two of three servers one direction carries nothing; then the other, of another pair."""
    async with (
        routed(folder / "mesh" / "nats") as (made, routes),
        trial(folder / "mesh", report, servers=SIZE, cluster=made, per_second=PER_SECOND) as it,
    ):
        for route, there in zip(routes, (True, False), strict=False):
            since = it.now
            async with asyncio.TaskGroup() as tasks:
                route.cut(there=there, back=not there)
                try:
                    tasks.create_task(it.recovered(since))
                    await asyncio.sleep(CUT)
                finally:
                    route.heal()
            await asyncio.sleep(2)


@asynccontextmanager
async def routed(folder: Path) -> AsyncIterator[tuple[list[EmbeddedServer], list[Proxy]]]:
    """Servers, not started, and the proxies of their routes: of the second to the first, the third to both.

    Each makes its routes to those before it only, and says of itself an address where nobody is, so that no two find
    a way around a proxy.
    """
    ports = [free_port() for _ in range(SIZE)]
    servers, proxies = [], []
    async with AsyncExitStack() as ends:
        for number, port in enumerate(ports):
            own = [await ends.enter_async_context(Proxy(HOST, there)) for there in ports[:number]]
            proxies += own
            nobody = f"{HOST}:{free_port()}"
            routes = ",".join(proxy.url for proxy in own) or f"nats://{nobody}"  # a cluster needs some route
            arguments = ("--cluster_name", "starling", "--cluster", f"nats://{HOST}:{port}", "--routes", routes)
            name = f"n{number + 1}"
            servers.append(
                EmbeddedServer(folder / name, name=name, arguments=(*arguments, "--cluster_advertise", nobody))
            )
        yield servers, proxies


async def leaders_step_down(folder: Path, report: Report) -> None:
    """Every stream's leader is told to step down, again and again, for eight seconds."""
    async with trial(folder, report, servers=SIZE, per_second=PER_SECOND) as it:
        connection = await nats.connect(servers=[server.url for server in it.mesh.servers])
        stepped = 0
        try:
            names = [info.config.name for info in await connection.jetstream().streams_info()]
            since = it.now
            while it.now < since + STORM:
                for name in names:
                    subject = f"$JS.API.STREAM.LEADER.STEPDOWN.{name}"
                    try:
                        answer = await connection.request(subject, b"", timeout=1)
                    except nats.errors.Error:
                        continue  # it has no leader now
                    stepped += b'"success":true' in answer.data
        finally:
            await connection.close()
        await it.recovered(since + STORM)
        report.check(stepped > len(names), f"only {stepped} leaders stepped down")
        report.facts["stepped_down"] = stepped


async def storage_gone(folder: Path, report: Report) -> None:
    """Each server in turn is killed and comes back with nothing on its disk, once the others have caught up."""

    async with trial(folder, report, servers=SIZE, shards=4, per_second=PER_SECOND) as it:
        for server in it.mesh.servers:
            since = it.now
            await server.kill()
            await asyncio.to_thread(shutil.rmtree, server.directory / "data")
            await server.start()
            await it.recovered(since)
            if not await caught_up(it):
                return


async def caught_up(it: Trial, timeout: float = 60.0) -> bool:
    """Wait until every stream has a leader and every replica is current; a check of the row fails if not."""
    connection = await nats.connect(servers=[server.url for server in it.mesh.servers])
    end = it.now + timeout
    behind: list[str] = ["all"]
    try:
        while behind and it.now < end:
            await asyncio.sleep(0.5)
            try:
                infos = await connection.jetstream().streams_info()
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                continue
            behind = [info.config.name or "" for info in infos if not _is_whole(info)]
    finally:
        await connection.close()
    it.report.check(not behind, f"not caught up: {behind}")
    return not behind


def _is_whole(info: nats.js.api.StreamInfo) -> bool:
    group = info.cluster
    return (
        group is not None
        and bool(group.leader)
        and len(group.replicas or ()) == SIZE - 1
        and all(peer.current and not peer.offline for peer in group.replicas or ())
    )
