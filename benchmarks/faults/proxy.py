"""A TCP proxy on loopback whose connections can be made to carry nothing, or be dropped."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from starling.adapters.nats.server import HOST, free_port


class Proxy:
    """Forwards to a port. `cut`: bytes wait, as in a network that is cut, or in one direction; `heal` ends that."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.port = free_port()
        self._there = asyncio.Event()
        self._back = asyncio.Event()
        self._open()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, HOST, self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._open()
        self.drop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def cut(self, *, there: bool = True, back: bool = True) -> None:
        """From now on nothing comes through; connections stay, new ones get no answer.

        there, back: towards the port that we forward to, and from it; without one of them that direction works.
        """
        if there:
            self._there.clear()
        if back:
            self._back.clear()

    def _open(self) -> None:
        self._there.set()
        self._back.set()

    def heal(self) -> None:
        """What was cut is gone: old connections are dropped, new ones work."""
        self._open()
        self.drop()

    def drop(self) -> None:
        """Drop all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._there.wait()
            await self._back.wait()
            there, back = await asyncio.open_connection(*self._target)
            self._writers.add(back)
            ways = [
                asyncio.create_task(self._pump(reader, back, self._there)),
                asyncio.create_task(self._pump(there, writer, self._back)),
            ]
            self._tasks.update(ways)
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._tasks.difference_update(ways)
            back.transport.abort()
            self._writers.discard(back)
        except OSError:
            pass  # the server is away: the caller's connection ends, as it would without us
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await way.wait()
                writer.write(data)
                await writer.drain()
