"""Answers that wait for no commit: in order, at once where the connection takes them."""

from __future__ import annotations

import asyncio

from starling.adapters.memory import MemoryServer
from starling.engine.answers import Answers
from starling.errors import Unreachable
from starling.ports.store import Signal


class Slow:
    """A connection whose every second message has to wait, and one of which is lost."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.waits = asyncio.Event()
        self.cancelled = False

    def answer(self, subject: str, data: bytes) -> bool:
        if data.endswith(b"waits"):
            return False
        if data.endswith(b"lost"):
            raise Unreachable("away")
        self.sent.append(data)
        return True

    async def signal(self, subject: str, data: bytes = b"", reply: str = "") -> None:
        if data.endswith(b"waits"):
            try:
                await self.waits.wait()
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if data.endswith(b"lost"):
            raise Unreachable("away")
        self.sent.append(data)


async def test_what_the_connection_takes_is_on_its_way_when_put_returns() -> None:
    server = MemoryServer()
    heard: list[Signal] = []
    await server.connect("asker").listen("r.1", heard.append)
    Answers(server.connect("owner")).put("r.1", b"yes")
    await asyncio.sleep(0)
    assert [signal.data for signal in heard] == [b"yes"]


async def test_what_has_to_wait_keeps_its_place_and_a_lost_one_holds_up_nobody() -> None:
    store = Slow()
    answers = Answers(store)  # type: ignore[arg-type]
    running = asyncio.create_task(answers.run())
    for body in (b"1", b"2 waits", b"3", b"4 lost", b"5 waits", b"6"):
        answers.put("r.1", body)
    assert store.sent == [b"1"]
    await asyncio.sleep(0)
    store.waits.set()
    async with asyncio.timeout(5):
        while len(store.sent) < 5:
            await asyncio.sleep(0)
    assert store.sent == [b"1", b"2 waits", b"3", b"5 waits", b"6"]
    answers.put("r.1", b"7 lost")
    answers.put("r.1", b"8")
    assert store.sent[-1] == b"8"
    running.cancel()


async def test_the_end_of_the_shard_reaches_what_waits() -> None:
    store = Slow()
    answers = Answers(store)  # type: ignore[arg-type]
    running = asyncio.create_task(answers.run())
    answers.put("r.1", b"1 waits")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert store.cancelled
