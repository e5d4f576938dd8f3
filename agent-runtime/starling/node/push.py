"""Metrics pushed to collectors, for where nobody can scrape: the same text, every few seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from urllib.parse import SplitResult, urlsplit

from starling.errors import SpecError

log = logging.getLogger(__name__)

INTERVAL: Final = 10.0
TIMEOUT: Final = 5.0


class Push:
    """Sends the exposition text to each URL by PUT, as a Prometheus Pushgateway takes it; one that fails, next time."""

    def __init__(self, urls: Sequence[str], text: Callable[[], bytes], *, interval: float = INTERVAL) -> None:
        """urls: http or https, with their path; text: what to send; interval: seconds. Raises SpecError."""
        self._targets = [_parsed(url) for url in urls]
        self._text = text
        self._interval = interval
        if not interval > 0:
            raise SpecError("interval", f"is {interval!r} s; give more than 0")

    async def run(self) -> None:
        """Push until cancelled, and once more then; collectors do not wait for each other."""
        async with asyncio.TaskGroup() as tasks:
            for target in self._targets:
                tasks.create_task(self._keep(target), name=f"push to {target.netloc}")

    async def _keep(self, target: SplitResult) -> None:
        try:
            while True:
                await self._once(target)
                await asyncio.sleep(self._interval)
        finally:
            await self._once(target)  # what was counted in the last seconds

    async def _once(self, target: SplitResult) -> None:
        with _failure_logged(target):
            async with asyncio.timeout(TIMEOUT):
                await _put(target, self._text())


@contextmanager
def _failure_logged(target: SplitResult) -> Iterator[None]:
    try:
        yield
    except (OSError, TimeoutError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
        reason = str(error) or type(error).__name__
        log.warning("metrics not pushed", extra={"collector": target.netloc, "reason": reason})


async def _put(target: SplitResult, body: bytes) -> None:
    """Raises OSError, EOFError, ValueError for an answer that is no success."""
    secure = target.scheme == "https"
    port = target.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(target.hostname, port, ssl=secure or None)
    try:
        path = f"{target.path or '/'}{'?' + target.query if target.query else ''}"
        head = (
            f"PUT {path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Type: text/plain; version=0.0.4\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        status = (await reader.readuntil(b"\r\n")).split(b" ")
        if len(status) < 2 or not status[1].startswith(b"2"):
            raise ValueError(f"the collector answered {b' '.join(status[1:]).decode('latin-1').strip()}")
    finally:
        writer.close()


def _parsed(url: str) -> SplitResult:
    try:
        target = urlsplit(url)
        port = target.port
    except ValueError as error:
        raise SpecError("STARLING_METRICS_PUSH", f"{url!r}: {error}") from error
    if target.scheme not in ("http", "https") or not target.hostname or port == 0:
        raise SpecError("STARLING_METRICS_PUSH", f"{url!r} is not of the form http://host:port/path")
    return target
