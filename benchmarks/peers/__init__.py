"""The peers, each in an environment of its own, made from its hash-locked requirements on first use."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from starling.adapters.nats import EmbeddedServer
from starling.adapters.nats.server import free_port

from benchmarks.processes import ROOT, json_of, running

PEERS: Final = Path(__file__).parent
CACHE: Final = ROOT / ".cache" / "bench"
INSTALL_TIMEOUT: Final = 600.0


class Peer:
    """One peer: its Python, its script, and the server that it talks to."""

    def __init__(self, name: str, url: str = "") -> None:
        self.name = name
        self.url = url
        self.script = str(PEERS / name / "bench.py")
        self.python = python_of(name)
        self.pids: list[int] = []
        """Processes whose CPU time counts beside the load's own."""

    async def load(self, workload: str, **parameters: Any) -> dict[str, float]:
        """Run a load in a process of its own and return its figures."""
        given = {"workload": workload, **parameters}
        if self.url:
            given.update(url=self.url, pids=self.pids)
        return await json_of(self.script, "drive", given, python=self.python)

    async def provision(self) -> None:
        await json_of(self.script, "provision", {"url": self.url}, python=self.python)


def python_of(name: str) -> str:
    """Return the Python of a peer's environment, which is made when it is not there or its lock has changed.

    Raises subprocess.CalledProcessError.
    """
    requirements = PEERS / name / "requirements.txt"
    folder = CACHE / name
    stamp = folder / "lock.sha256"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != digest:
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(
            str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--require-hashes", "--requirement", str(requirements),
        )  # fmt: skip
        stamp.write_text(digest)
    return str(python)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT)


@asynccontextmanager
async def nats_by_hand(folder: Path, *, workers: int = 2, state: bool = True) -> AsyncIterator[Peer]:
    """Workers written by hand with nats-py, on a server of their own."""
    async with _on_server("nats_by_hand", folder) as peer, AsyncExitStack() as processes:
        for number in range(workers):
            given = {"url": peer.url, "number": number, "workers": workers, "state": state}
            worker = await processes.enter_async_context(running(peer.script, "worker", given, python=peer.python))
            peer.pids.append(worker.pid)
        echo = running(peer.script, "echo", {"url": peer.url}, python=peer.python)
        peer.pids.append((await processes.enter_async_context(echo)).pid)
        yield peer


@asynccontextmanager
async def faststream(folder: Path, *, workers: int = 2) -> AsyncIterator[Peer]:
    """FastStream workers on a server of their own."""
    async with _on_server("faststream", folder) as peer, AsyncExitStack() as processes:
        for number in range(workers):
            given = {"url": peer.url, "number": number, "workers": workers}
            worker = await processes.enter_async_context(running(peer.script, "worker", given, python=peer.python))
            peer.pids.append(worker.pid)
        yield peer


@asynccontextmanager
async def _on_server(name: str, folder: Path) -> AsyncIterator[Peer]:
    server = EmbeddedServer(folder)
    await server.start()
    try:
        peer = Peer(name, server.url)
        assert server.pid is not None
        peer.pids.append(server.pid)
        await peer.provision()
        yield peer
    finally:
        await server.stop()


@asynccontextmanager
async def autogen_over_grpc() -> AsyncIterator[tuple[Peer, str]]:
    """autogen-core's gRPC host with one worker; the peer and the host's address."""
    peer = Peer("autogen")
    address = f"127.0.0.1:{free_port()}"
    async with (
        running(peer.script, "host", {"address": address}, python=peer.python),
        running(peer.script, "worker", {"address": address}, python=peer.python),
    ):
        yield peer, address
