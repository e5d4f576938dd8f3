"""A NATS server of our own on loopback, as a child process: for `starling dev` and for tests."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from starling.errors import SpecError, Unreachable

HOST: Final = "127.0.0.1"
_PR_SET_PDEATHSIG: Final = 1
_LOG_TAIL: Final = 2000
_LOCK_WAIT: Final = 5.0
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None
_MEMORY_LIMITS: Final = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")


class EmbeddedServer:
    """One nats-server with JetStream, listening on loopback only; it never outlives the process that started it.

    directory: holds `data` and `nats-server.log`. port: 0 picks a free one, which stays the same over restarts.
    name: by which it is known from others on the port. arguments: further ones for nats-server, as for a cluster.
    soft_memory: bytes from which on Go collects garbage as often as it takes to stay there (GOMEMLIMIT); default: what
    the environment says, else a quarter of the machine's or container's memory, which workers share.
    Two servers on the same data would spoil it, so each holds a lock on its directory as long as it runs.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        name: str = "",
        arguments: Sequence[str] = (),
        soft_memory: int | None = None,
    ) -> None:
        self.directory = directory
        self.name = name or f"starling-{secrets.token_hex(6)}"
        self.port = port or free_port()
        self.log_file = directory / "nats-server.log"
        self._arguments = tuple(arguments)
        self._soft_memory = soft_memory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    async def start(self, timeout: float = 15.0) -> None:
        """Start and return when JetStream answers; nothing happens when it runs.

        Raises Unreachable with the end of its log when it is not ready after `timeout` seconds or has ended, and when
        another server still runs on the same directory after 5 s.
        """
        if self.pid is None:
            with await self._locked() as lock:
                self._spawn(lock)
        try:
            async with asyncio.timeout(timeout):
                while not await self._answers():
                    if self.pid is None:
                        raise Unreachable(f"nats-server ended while starting: {self._log_tail()}")
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise Unreachable(f"nats-server not ready after {timeout:g} s: {self._log_tail()}") from error

    async def stop(self, timeout: float = 10.0) -> None:
        """Shut down in order, by force after `timeout` seconds; idempotent. The data stays."""
        process = self._process
        if process is None:
            return
        process.terminate()
        if not await _ended(process, timeout):
            process.kill()
            await _ended(process, timeout)
        self._process = None

    async def kill(self) -> None:
        """End it at once, as a crash does; idempotent. The data stays."""
        process = self._process
        if process is None:
            return
        process.kill()
        await _ended(process, 10.0)
        self._process = None

    async def restart(self) -> None:
        """Crash it and start it again on the same port and data."""
        await self.kill()
        await self.start()

    def pause(self) -> None:
        """Freeze the process: connections stay open and nobody answers."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)

    async def _locked(self) -> IO[bytes]:
        """The directory's lock; a server whose parent was killed may be a moment in going."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = (self.directory / "lock").open("ab")
        deadline = asyncio.get_running_loop().time() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(0.05)
                    continue
                lock.close()
                raise Unreachable(
                    f"another nats-server runs on {self.directory}: end it, or use another folder"
                ) from None
            return lock

    def _spawn(self, lock: IO[bytes]) -> None:
        """Start the process. lock: it inherits this open file, so the lock ends with the process, however it ends."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [
            *(binary(), "--name", self.name, "--addr", HOST, "--port", str(self.port)),
            *("--jetstream", "--store_dir", str(data), "--log", str(self.log_file)),
            *self._arguments,
        ]
        # The hook makes one system call, through a library that is loaded already: safe beside threads.
        self._process = subprocess.Popen(  # noqa: S603 - the program is known, its arguments are ours
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us to pass on
            pass_fds=(lock.fileno(),),
            preexec_fn=_die_with_parent,  # noqa: PLW1509
        )

    def _environment(self) -> dict[str, str]:
        if self._soft_memory is None:
            return {"GOMEMLIMIT": str(memory_bytes() // 4), **os.environ}
        return {**os.environ, "GOMEMLIMIT": str(self._soft_memory)}

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        try:
            async with asyncio.timeout(1.0):
                line = await reader.readline()
            info = json.loads(line.partition(b" ")[2])
            return info.get("server_name") == self.name and bool(info.get("jetstream"))
        except (OSError, TimeoutError, ValueError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _log_tail(self) -> str:
        """Why it ended, where the last line says so; else the last lines."""
        try:
            tail = self.log_file.read_text(errors="replace")[-_LOG_TAIL:]
        except OSError as error:
            return f"no log: {error}"
        fatal = tail.rstrip().rpartition("\n")[2].partition("[FTL] ")[2]
        return f"{fatal} ({self.log_file})" if fatal else tail


def cluster(directory: Path, size: int = 3) -> list[EmbeddedServer]:
    """Return the servers of one cluster, not started: `n1`, `n2`, ... each with a directory of its own.

    Start them together (`asyncio.gather`); streams can be made once they have chosen a leader.
    """
    ports = [free_port() for _ in range(size)]
    routes = ",".join(f"nats://{HOST}:{port}" for port in ports)
    return [
        EmbeddedServer(
            directory / f"n{number}",
            name=f"n{number}",
            arguments=("--cluster_name", "starling", "--cluster", f"nats://{HOST}:{port}", "--routes", routes),
        )
        for number, port in enumerate(ports, start=1)
    ]


def binary() -> str:
    """Return the path of nats-server: the one installed beside this Python, else the one on the PATH.

    Raises SpecError when there is none.
    """
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if found is None:
        raise SpecError("nats-server", "not found: install `starling-mesh[dev]`, or put nats-server 2.11+ on the PATH")
    return found


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def memory_bytes(root: Path = Path("/")) -> int:
    """Return how much memory there is: what the container may have, at most what the machine has."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            found = min(found, int((root / limit).read_text()))
    return found


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _ended(process: subprocess.Popen[bytes], timeout: float) -> bool:
    deadline = asyncio.get_running_loop().time() + timeout
    while process.poll() is None:
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True
