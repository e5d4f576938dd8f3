"""`kubectl logs`: the API server asks the node for /containerLogs/NAMESPACE/POD/CONTAINER."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from hack.cluster.procnode.container import Container
from hack.cluster.procnode.pod import Pod

LOOK_AGAIN_SECONDS = 0.2
BLOCK = 1 << 16
Find = Callable[[str, str], Pod | None]


@asynccontextmanager
async def log_server(sock: socket.socket, certs: Path, find: Find) -> AsyncIterator[None]:
    """Serve logs on this socket for the length of a `with`. find: namespace and name to the pod."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certs / "api.crt", certs / "api.key")
    app = web.Application()

    async def answer(request: web.Request) -> web.StreamResponse:
        return await _answer(request, find)

    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, sock, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


async def _answer(request: web.Request, find: Find) -> web.StreamResponse:
    pod = find(request.match_info["namespace"], request.match_info["pod"])
    container = _named(pod, request.match_info["container"])
    if pod is None or container is None or not container.log_path.exists():
        raise web.HTTPNotFound(text="no such container on this node\n")
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    with container.log_path.open("rb") as log:
        if (wanted := request.query.get("tailLines")) is not None:
            await response.write(tail(log.readlines(), int(wanted)))
        while True:
            over = pod.is_over  # asked first: what is written before the end is still read
            while block := log.read(BLOCK):
                await response.write(block)
            if over or request.query.get("follow") != "true":
                return response
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _named(pod: Pod | None, name: str) -> Container | None:
    return next((each for each in pod.containers if each.spec["name"] == name), None) if pod else None


def tail(lines: list[bytes], count: int) -> bytes:
    """Return the last `count` lines as one text; nothing for 0."""
    return b"".join(lines[max(0, len(lines) - count) :])
