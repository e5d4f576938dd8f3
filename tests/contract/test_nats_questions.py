"""Questions over NATS: what one moment answers to one asker is one message, and each waiter gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgpack
import pytest
from starling.adapters.nats import EmbeddedServer, connect
from starling.core import limits
from starling.errors import Unreachable
from starling.ports.store import Signal, Store

from .conftest import BOUND


@asynccontextmanager
async def connected(server: EmbeddedServer, *names: str) -> AsyncIterator[list[Store]]:
    stores: list[Store] = [await connect(server.url, name=name) for name in names]
    try:
        async with asyncio.timeout(2 * BOUND):
            yield stores
    finally:
        for store in stores:
            await store.close()


async def _subjects(owner: Store, seen: list[Signal], inbox: str) -> list[str]:
    """Return the subjects below the inbox of all that the owner has sent so far, as a watcher sees them."""
    await owner.signal("_INBOX.end")
    while not seen or seen[-1].subject != "_INBOX.end":
        await asyncio.sleep(0.005)
    return [signal.subject for signal in seen if signal.subject.startswith(inbox)]


async def test_answers_of_one_moment_to_one_asker_are_one_message(nats_server: EmbeddedServer) -> None:
    seen: list[Signal] = []
    asked: list[Signal] = []

    def all_at_once(signal: Signal) -> None:
        asked.append(signal)
        if len(asked) == 20:
            for one in asked:
                assert owner.answer(one.reply, b"to " + one.data)

    async with connected(nats_server, "owner", "asker", "watcher") as (owner, asker, watcher):
        await owner.listen("many.answers", all_at_once)
        await watcher.listen("_INBOX.>", seen.append)
        questions = [asker.ask("many.answers", b"%d" % number, timeout=BOUND) for number in range(20)]
        assert await asyncio.gather(*questions) == [b"to %d" % number for number in range(20)]
        inbox = asked[0].reply.rpartition(".")[0]
        assert await _subjects(owner, seen, inbox) == [f"{inbox}.many"]


async def test_answers_that_are_too_much_for_one_message_come_in_several(nats_server: EmbeddedServer) -> None:
    seen: list[Signal] = []
    asked: list[Signal] = []
    third = limits.MAX_BODY // 3

    def all_at_once(signal: Signal) -> None:
        asked.append(signal)
        if len(asked) == 8:
            for one in asked:
                assert owner.answer(one.reply, one.data * third)

    async with connected(nats_server, "owner", "asker", "watcher") as (owner, asker, watcher):
        await owner.listen("large.answers", all_at_once)
        await watcher.listen("_INBOX.>", seen.append)
        questions = [asker.ask("large.answers", b"%d" % number, timeout=BOUND) for number in range(8)]
        assert await asyncio.gather(*questions) == [b"%d" % number * third for number in range(8)]
        inbox = asked[0].reply.rpartition(".")[0]
        assert await _subjects(owner, seen, inbox) == [f"{inbox}.many"] * 3


async def test_who_is_away_or_full_is_told_before_anything_is_sent(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server, "owner", "asker") as (owner, asker):
        heard: list[bytes] = []
        await asker.listen("full.*", lambda signal: heard.append(signal.data))
        sent = 0
        while owner.answer("full.one", b"x" * limits.MAX_BODY):
            sent += 1
            assert sent < 1000
        await owner.signal("full.two", b"last")  # waits for room
        while not heard or heard[-1] != b"last":
            await asyncio.sleep(0.005)
        assert len(heard) == sent + 1
        await owner.close()
        with pytest.raises(Unreachable):
            owner.answer("full.one", b"")


async def test_bytes_that_are_no_answers_are_logged_and_the_next_answer_is_heard(
    nats_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    tasks: set[asyncio.Task[None]] = set()

    async def mislead(signal: Signal) -> None:
        together = signal.reply.rpartition(".")[0] + ".many"
        for data in (b"\xc1", msgpack.packb([["m0", b"for nobody"]])):
            await owner.signal(together, data)
        await owner.signal(signal.reply, b"right")
        await owner.signal(signal.reply, b"late")

    async with connected(nats_server, "owner", "asker") as (owner, asker):
        await owner.listen("misled", lambda signal: tasks.add(asyncio.ensure_future(mislead(signal))))
        assert await asker.ask("misled", b"", timeout=BOUND) == b"right"
        assert await asker.ask("misled", b"", timeout=BOUND) == b"right"
    assert "cannot be read" in caplog.text


async def test_who_waits_for_an_answer_hears_that_the_connection_is_cut(nats_server: EmbeddedServer) -> None:
    async with connected(nats_server, "owner", "asker") as (owner, asker):
        heard = asyncio.Event()
        await owner.listen("silent", lambda _: heard.set())
        question = asyncio.ensure_future(asker.ask("silent", b"", timeout=10 * BOUND))
        await heard.wait()
        await asker.close()
        with pytest.raises(Unreachable, match="cut"):
            await question
