"""How a shard answers those who ask for a reply again: all of a moment together, and no more than it has to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager

from starling.adapters.memory import MemoryServer
from starling.core import limits
from starling.core.record import ReplyRecord
from starling.core.replies import address, gathered
from starling.core.sent_replies import SentReplies
from starling.engine.answers import Answers
from starling.engine.missed import Missed
from starling.ports.store import Signal

CLIENT = "st.m.r.one"


class Counted(SentReplies):
    """Counts the looks, and how many addresses each was for."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[int] = []

    def find(self, asked: Collection[str]) -> Iterator[tuple[str, bytes]]:
        self.looks.append(len(asked))
        return super().find(asked)


@asynccontextmanager
async def owner(sent: SentReplies) -> AsyncIterator[tuple[Missed, list[Signal]]]:
    server = MemoryServer()
    heard: list[Signal] = []
    await server.connect("asker").listen(f"{CLIENT}.*", heard.append)
    missed = Missed(sent, Answers(server.connect("owner")))
    running = asyncio.create_task(missed.run())
    try:
        yield missed, heard
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def ask(missed: Missed, text: str) -> None:
    missed.heard(Signal("again", text.encode(), ""))


async def until_looked(sent: Counted, looks: int) -> None:
    async with asyncio.timeout(10):
        while len(sent.looks) < looks:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)


async def test_a_thousand_who_ask_at_once_cost_one_look_and_each_hears_its_own_reply_only() -> None:
    sent = Counted()
    for message in gathered([ReplyRecord(address(CLIENT, number), b"%d" % number) for number in range(1000)]):
        sent.keep(*message)
    async with owner(sent) as (missed, heard):
        for number in range(500, 1500):
            ask(missed, address(CLIENT, number))
            ask(missed, address(CLIENT, number))
        await until_looked(sent, 1)
    assert sent.looks == [1000]
    assert sorted(int(signal.data) for signal in heard) == list(range(500, 1000))


async def test_between_two_looks_is_a_pause_however_many_ask() -> None:
    sent = Counted()
    loop = asyncio.get_running_loop()
    async with owner(sent) as (missed, _):
        began = loop.time()
        for number in range(3):
            ask(missed, address(CLIENT, number))
            await until_looked(sent, number + 1)
        assert loop.time() - began >= 2 * limits.ASKED_PAUSE
    assert sent.looks == [1, 1, 1]


async def test_a_flood_of_asks_is_bounded_and_what_is_no_address_is_left_out() -> None:
    sent = Counted()
    sent.keep(address(CLIENT, 0), b"mine")
    async with owner(sent) as (missed, heard):
        ask(missed, "x" * (limits.ADDRESS_BYTES + 1))
        missed.heard(Signal("again", b"\xff\xfe", ""))
        ask(missed, address(CLIENT, 0))
        for number in range(2 * limits.ASKED_AT_ONCE):
            ask(missed, f"garbage.{number}")
        await until_looked(sent, 1)
        ask(missed, address(CLIENT, 0))
        await until_looked(sent, 2)
    assert sent.looks == [limits.ASKED_AT_ONCE, 1]
    assert [signal.data for signal in heard] == [b"mine", b"mine"]
