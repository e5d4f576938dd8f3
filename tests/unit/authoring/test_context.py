"""What a handler knows of its message, and what it may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel
from starling import Agent, AgentId, Context, Topic, TopicId, event, query, rpc
from starling.errors import DecodeError, SpecError, UnregisteredType

from tests.unit.authoring.outbox import Outbox


class Question(BaseModel):
    text: str = ""


class Answer(BaseModel):
    text: str = ""


class Stranger(BaseModel):
    pass


class Oracle(Agent):
    @rpc
    async def ask(self, message: Question, ctx: Context) -> Answer:
        return Answer(text=message.text)

    @query
    async def peek(self, message: Question) -> Answer:
        return Answer(text=message.text)

    @event
    async def told(self, message: Answer) -> None: ...


def context(outbox: Outbox, headers: Mapping[str, str] | None = None) -> Context:
    return Context(
        outbox,
        id=AgentId("seeker", "s1"),
        sender=None,
        topic=None,
        message_id="m1",
        attempt=1,
        deadline=None,
        created=0.0,
        headers=headers or {},
        is_call=False,
    )


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def ctx(outbox: Outbox) -> Context:
    return context(outbox)


ORACLE = AgentId("oracle", "delphi")


async def test_send_publish_and_call_hand_over_names_and_bodies(ctx: Context, outbox: Outbox) -> None:
    ctx.send(ORACLE, Answer(text="x"))
    ctx.publish(Topic("riddle")("sphinx"), Question())
    answer = await ctx.call(ORACLE, Question(text="?"), timeout=1.5)

    assert answer == Answer(text="42")
    assert outbox.said == [
        ("send", ORACLE, "Answer", b'{"text":"x"}', {}),
        ("publish", TopicId("riddle", "sphinx"), "Question", b'{"text":""}', {}),
        ("call", ORACLE, "Question", b'{"text":"?"}', {}, 1.5),
    ]


async def test_a_stand_in_mirrors_the_handlers_of_its_class(ctx: Context, outbox: Outbox) -> None:
    oracle = ctx.agent(Oracle, "delphi")
    answer = await oracle.ask(Question(text="?"), timeout=2.0, headers={"a": "b"})
    oracle.told(Answer())
    ctx.send(oracle, Answer(text="again"))
    assert await oracle.peek(Question(text="!"), timeout=0.5) == answer

    assert answer.text == "42"
    assert oracle.id == ORACLE
    assert outbox.said == [
        ("call", ORACLE, "Question", b'{"text":"?"}', {"a": "b"}, 2.0),
        ("send", ORACLE, "Answer", b'{"text":""}', {}),
        ("send", ORACLE, "Answer", b'{"text":"again"}', {}),
        ("query", ORACLE, "Question", b'{"text":"!"}', {}, 0.5),
    ]


def test_type_checkers_follow_a_stand_in(ctx: Context, outbox: Outbox) -> None:
    """mypy reads this too, and reports an ignore that is not needed: the types are held by `make check`."""
    oracle = ctx.agent(Oracle, "delphi")
    oracle.told(Question())  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        oracle.told(Answer(), timeout=1.0)  # type: ignore[call-overload]
    with pytest.raises(SpecError, match="is a str; give an AgentId"):
        ctx.send("oracle/delphi", Answer())  # type: ignore[arg-type]
    assert len(outbox.said) == 1


@pytest.mark.parametrize("name", ["state", "log", "nothing", "on_unhandled"])
def test_a_stand_in_has_nothing_but_handlers(ctx: Context, name: str) -> None:
    with pytest.raises(SpecError, match=rf"Oracle\.{name}: is no handler; other agents are reached by messages only"):
        getattr(ctx.agent(Oracle, "delphi"), name)
    assert not hasattr(ctx.agent(Oracle, "delphi"), name)


def test_a_stand_in_for_something_else_or_with_a_bad_key_is_refused(ctx: Context) -> None:
    with pytest.raises(SpecError, match="is not an Agent class"):
        ctx.agent(Question, "k")  # type: ignore[type-var]
    with pytest.raises(SpecError, match="is not an Agent class"):
        ctx.agent([Oracle], "k")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="agent key"):
        ctx.agent(Oracle, "")


@pytest.mark.row("RT-11", part="nothing is published")
async def test_what_cannot_be_sent_is_refused_before_anything_is_said(ctx: Context, outbox: Outbox) -> None:
    wrong = Answer.model_construct(text=5)  # type: ignore[arg-type]
    for bad, error in ((Stranger(), UnregisteredType), (wrong, DecodeError)):
        with pytest.raises(error):
            ctx.send(ORACLE, bad)
        with pytest.raises(error):
            ctx.publish(TopicId("riddle", "x"), bad)
        with pytest.raises(error):
            await ctx.call(ORACLE, bad)
    assert outbox.said == []


@pytest.mark.row("RT-43")
async def test_headers_travel_on_and_may_be_added_to(outbox: Outbox) -> None:
    ctx = context(outbox, {"tenant": "t1", "hop": "1"})
    ctx.send(ORACLE, Answer())
    ctx.publish(TopicId("riddle", "x"), Answer(), headers={"hop": "2"})
    await ctx.call(ORACLE, Question(), headers={"new": "n"})

    assert [said[4] for said in outbox.said] == [
        {"tenant": "t1", "hop": "1"},
        {"tenant": "t1", "hop": "2"},
        {"tenant": "t1", "hop": "1", "new": "n"},
    ]
    assert ctx.headers == {"tenant": "t1", "hop": "1"}


@pytest.mark.row("RT-43")
def test_headers_have_a_bound_with_those_that_are_passed_on(outbox: Outbox) -> None:
    ctx = context(outbox, {"tenant": "t" * 9000})
    ctx.send(ORACLE, Answer(), headers={"hop": "1" * 7000})
    with pytest.raises(SpecError, match=r"headers: have 17009 bytes, at most 16384; put it into the message"):
        ctx.send(ORACLE, Answer(), headers={"hop": "1" * 8000})
    assert len(outbox.said) == 1


@pytest.mark.parametrize("priority", [99, -1, "urgent", True])
def test_a_priority_that_is_none_is_refused_at_the_sender(ctx: Context, outbox: Outbox, priority: Any) -> None:
    with pytest.raises(SpecError, match=r"priority: is .*; give one of Priority.LOW, .*Priority.URGENT"):
        ctx.send(ORACLE, Answer(), priority=priority)
    with pytest.raises(SpecError, match=r"priority: is "):
        ctx.publish(TopicId("riddle", "x"), Answer(), priority=priority)
    assert outbox.said == []


def test_a_delay_that_is_no_number_is_refused(ctx: Context) -> None:
    with pytest.raises(SpecError, match=r"delay: is '5' s; give 0 or more"):
        ctx.send(ORACLE, Answer(), delay="5")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["St-Src", "st-no", "Nats-Msg-Id", "traceparent", "TraceState"])
def test_a_reserved_header_is_refused_by_its_name(ctx: Context, outbox: Outbox, name: str) -> None:
    with pytest.raises(SpecError, match=rf"headers\.{name}: .* are reserved"):
        ctx.send(ORACLE, Answer(), headers={name: "x"})
    assert outbox.said == []


def test_a_header_that_is_no_text_is_refused(ctx: Context) -> None:
    with pytest.raises(SpecError, match=r"headers\.n: .* not int"):
        ctx.send(ORACLE, Answer(), headers={"n": 1})  # type: ignore[dict-item]


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
async def test_a_timeout_that_is_no_time_is_refused(ctx: Context, outbox: Outbox, timeout: float) -> None:
    with pytest.raises(SpecError, match="timeout"):
        await ctx.call(ORACLE, Question(), timeout=timeout)
    assert outbox.said == []


async def test_an_answer_of_an_unknown_class_is_an_error() -> None:
    with pytest.raises(UnregisteredType, match="Elsewhere"):
        await context(Outbox(("Elsewhere", b"{}"))).call(ORACLE, Question())


def test_the_idempotency_key_differs_between_the_hearers_of_one_message(outbox: Outbox) -> None:
    one, other = context(outbox), context(outbox)
    other.id = AgentId("seeker", "s2")
    assert one.idempotency_key == context(outbox).idempotency_key
    assert one.idempotency_key != other.idempotency_key
