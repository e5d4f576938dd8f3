"""What a sender may rely on: published is stored, subscribers are apart, repeats and late cancels have no effect."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import starling.testing
from starling import Agent, AgentId, Context, Topic, event, message, rpc
from starling.core.ids import ShardId
from starling.core.names import MeshNames
from starling.core.retry import RetryPolicy
from starling.log_context import TurnFilter

NEWS = Topic("publishing.news")


@message("publishing.News")
@dataclass(frozen=True)
class News:
    text: str


@message("publishing.Pass")
@dataclass(frozen=True)
class PassOn:
    text: str


@message("publishing.Heard")
@dataclass(frozen=True)
class AskHeard:
    """Asks for what was heard."""


@dataclass
class HeardNews:
    texts: list[str] = field(default_factory=list)


class Reader(Agent[HeardNews], type="publishing_reader"):
    @event
    async def news(self, message: News) -> None:
        self.state.texts.append(message.text)

    @rpc
    async def heard(self, message: AskHeard) -> list[str]:
        return self.state.texts


class OtherReader(Reader, type="publishing_other"):
    """Another one."""


class Failing(Agent[HeardNews], type="publishing_failing"):
    @event
    async def news(self, message: News) -> None:
        raise ValueError("cannot read")


class SlowReader(Agent[HeardNews], type="publishing_slow"):
    gate: ClassVar[asyncio.Event]
    entered: ClassVar[asyncio.Event]

    @event
    async def news(self, message: News) -> None:
        SlowReader.entered.set()
        await SlowReader.gate.wait()
        self.state.texts.append(message.text)


class Passer(Agent[HeardNews], type="publishing_passer"):
    @event
    async def pass_on(self, message: PassOn, ctx: Context) -> None:
        ctx.send(AgentId("publishing_slow", "k"), News(message.text))

    @rpc
    async def passes(self, message: News, ctx: Context) -> str:
        self.state.texts.append(ctx.message_id)
        return ctx.message_id

    @rpc
    async def heard(self, message: AskHeard) -> list[str]:
        return self.state.texts


@pytest.mark.row("RT-23", part="returns after storage while the handler is still at work", completes=True)
async def test_a_publish_returns_once_stored_however_long_its_handler_takes() -> None:
    SlowReader.gate, SlowReader.entered = asyncio.Event(), asyncio.Event()
    async with starling.testing.mesh(SlowReader, subscriptions={NEWS.type: SlowReader}) as mesh:
        for text in ("first", "second"):
            (stored,) = await mesh.publish(NEWS("k"), News(text))
            assert stored.sequence > 0
        await SlowReader.entered.wait()
        assert (await mesh.state(SlowReader, "k")).texts == []
        SlowReader.gate.set()
        await mesh.idle()
        assert (await mesh.state(SlowReader, "k")).texts == ["first", "second"]


@pytest.mark.row("RT-24", part="two of three handle it; log and dead letter name the third", completes=True)
async def test_of_three_subscribers_two_handle_what_the_third_fails_at(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = [Reader, Failing, OtherReader]
    once = RetryPolicy(attempts=1)
    monkeypatch.setattr(caplog.handler, "filters", [TurnFilter()])
    async with starling.testing.mesh(*readers, subscriptions={NEWS.type: readers}, retry=once) as mesh:
        with caplog.at_level(logging.INFO):
            assert len(await mesh.publish(NEWS("k"), News("hello"))) == 3
            await mesh.idle()
        for cls in (Reader, OtherReader):
            assert (await mesh.state(cls, "k")).texts == ["hello"]
        (letter,) = await mesh.dead_letters()
    assert letter.envelope is not None
    assert str(letter.envelope.target) == "publishing_failing/k"
    bad = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [vars(record)["agent"] for record in bad] == ["publishing_failing/k"]


@pytest.mark.row("RT-16", part="a frame that comes again has no effect", completes=True)
async def test_a_frame_that_is_stored_again_is_handled_once() -> None:
    SlowReader.gate, SlowReader.entered = asyncio.Event(), asyncio.Event()
    async with starling.testing.mesh(Passer, SlowReader, shards=1) as mesh:
        await mesh.send(AgentId("publishing_passer", "k"), PassOn("one"))
        await SlowReader.entered.wait()  # what is not handled yet is still in the mailbox
        names = MeshNames("test").pool(next(pool.name for pool in mesh._pools if SlowReader.type in pool.agents))
        (frame,) = await mesh._admin.page(names.mailbox(ShardId(0)), names.mailbox_subjects(ShardId(0)), 1)
        assert frame.headers is not None
        assert "St-No" in frame.headers
        await (await mesh._admin.publish(frame.subject, frame.data, dict(frame.headers)))
        SlowReader.gate.set()
        await mesh.idle()
        await (await mesh._admin.publish(frame.subject, frame.data, dict(frame.headers)))
        await mesh.send(AgentId("publishing_slow", "k"), News("last"))
        await mesh.idle()
        assert (await mesh.state(SlowReader, "k")).texts == ["one", "last"]


@pytest.mark.row("RT-22", part="a cancel that comes after the commit undoes nothing", completes=True)
async def test_a_cancel_that_comes_after_the_commit_undoes_nothing() -> None:
    passer = AgentId("publishing_passer", "k")
    async with starling.testing.mesh(Passer, shards=1) as mesh:
        call = await mesh.call(passer, News("x"))
        (pool,) = mesh._pools
        await mesh._admin.signal(MeshNames("test").pool(pool.name).cancel(ShardId(0)), str(call).encode())
        assert await mesh.call(passer, AskHeard()) == [call]
        await mesh.crash()
        assert await mesh.call(passer, AskHeard()) == [call]
