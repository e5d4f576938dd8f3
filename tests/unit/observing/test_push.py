"""Metrics pushed to collectors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncIterator

import pytest
from starling.errors import SpecError
from starling.node.push import Push


class Collector:
    """Takes what is pushed; answers with `status`."""

    def __init__(self, status: str = "202 Accepted") -> None:
        self.status = status
        self.bodies: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        self.bodies.put_nowait((head.split("\r\n")[0], await reader.readexactly(length)))
        writer.write(f"HTTP/1.1 {self.status}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def collector(status: str = "202 Accepted") -> AsyncIterator[Collector]:
    made = Collector(status)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics/job/starling"
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.row("CP-26")
async def test_a_dead_collector_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    async with collector() as alive, asyncio.timeout(20):
        urls = [f"http://127.0.0.1:{closed_port()}/", alive.url]
        with caplog.at_level(logging.WARNING, "starling.node.push"):
            push = asyncio.create_task(Push(urls, lambda: b"turns_total 1\n", interval=0.01).run())
            for _ in range(3):
                line, body = await alive.bodies.get()
                assert line == "PUT /metrics/job/starling HTTP/1.1"
                assert body == b"turns_total 1\n"
            await stop(push)
    assert "metrics not pushed" in caplog.text
    assert asyncio.all_tasks() - tasks <= {asyncio.current_task()}
    assert threading.active_count() == threads


@pytest.mark.row("CP-26", part="nothing starts in a constructor")
async def test_nothing_starts_before_run() -> None:
    before = asyncio.all_tasks()
    Push(["http://127.0.0.1:1/"], lambda: b"")
    assert asyncio.all_tasks() == before


async def test_what_was_counted_last_is_pushed_at_the_end() -> None:
    async with collector() as alive, asyncio.timeout(20):
        text = b"turns_total 1\n"
        push = asyncio.create_task(Push([alive.url], lambda: text, interval=3600).run())
        await alive.bodies.get()
        text = b"turns_total 2\n"
        await stop(push)
        assert (await alive.bodies.get())[1] == b"turns_total 2\n"


async def test_a_collector_that_refuses_is_told_of_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    async with collector("400 Bad Request") as strict, asyncio.timeout(20):
        with caplog.at_level(logging.WARNING, "starling.node.push"):
            push = asyncio.create_task(Push([strict.url], lambda: b"x\n", interval=0.01).run())
            for _ in range(2):
                await strict.bodies.get()
            await stop(push)
    reasons = [getattr(record, "reason", "") for record in caplog.records]
    assert "the collector answered 400 Bad Request" in reasons


@pytest.mark.parametrize("url", ["", "127.0.0.1:9091", "ftp://collector/", "http://", "http://host:0/", "http://h:x/"])
def test_a_wrong_address_names_the_setting(url: str) -> None:
    with pytest.raises(SpecError, match="STARLING_METRICS_PUSH"):
        Push([url], lambda: b"")
