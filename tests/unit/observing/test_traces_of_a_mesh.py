"""The exported trace of a request through several agents on several workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import starling
import starling.testing
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starling import Agent, AgentId, Context, ErrorRecord, Topic, on_error, trace_event
from starling.core.retry import Backoff, RetryPolicy
from starling.core.severity import Severity
from starling.errors import HandlerFailed, ModelFailed
from starling.log_context import TurnFilter

PRINTED = Topic("traced.printed")
AT_ONCE = RetryPolicy(attempts=2, backoff=Backoff.FIXED, initial=0.0, jitter=False)


@dataclass
class TracedOrder:
    text: str


@dataclass
class TracedAsk:
    text: str


@dataclass
class Page:
    text: str


@dataclass
class Pages:
    count: int = 0


async def look_up(text: str) -> str:
    with trace.get_tracer("tool").start_as_current_span("tool look_up"):
        return text.upper()


class TracedDesk(Agent, type="traced_desk"):
    @starling.rpc
    async def take(self, message: TracedOrder, ctx: Context) -> str:
        self.log.info("order taken")
        trace_event("pipeline start")
        written = await ctx.agent(TracedWriter, message.text).write(TracedAsk(message.text), timeout=10.0)
        trace_event("pipeline end")
        return f"<{written}>"


class TracedWriter(Agent, type="traced_writer"):
    @starling.rpc
    async def write(self, message: TracedAsk, ctx: Context) -> str:
        self.log.info("writing")
        found = await ctx.step(look_up, message.text)
        ctx.publish(PRINTED(message.text), Page(found))
        return found


class TracedPress(Agent[Pages], type="traced_press"):
    tries = 0

    def __init__(self) -> None:
        self.mark = object()

    @starling.event
    async def print(self, message: Page) -> None:
        self.log.info("printing")
        marks.append(self.mark)
        if message.text.startswith("JAM") and not self.state.count and len(marks) < 2:
            raise ModelFailed("paper jam", status=503)
        self.state.count += 1

    @starling.rpc
    async def fail(self, message: TracedAsk) -> None:
        self.state.count += 100
        raise ModelFailed("no ink", status=401)

    @starling.rpc
    async def pages(self, message: str) -> int:
        return self.state.count

    @on_error(ModelFailed)
    async def jammed(self, error: ModelFailed, ctx: Context) -> None:
        told.append(str(error))
        if ctx.attempt == 1 and ctx.is_call:
            raise RuntimeError("the hook fails as well")


marks: list[object] = []
told: list[str] = []


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """An SDK for this test alone: the process may have one provider only, once it is set for good."""
    provider, made = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(made))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    marks.clear()
    told.clear()
    yield made
    provider.shutdown()


def by_name(spans: tuple[ReadableSpan, ...]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


def moments(*spans: ReadableSpan) -> list[str]:
    """The mesh's events of these spans in the order of their times, those of one time as they were noted."""
    stages = [event for span in spans for event in span.events if not event.name.startswith("pipeline")]
    events = [(event.timestamp, event.name) for event in stages]
    return [name for _, name in sorted(events, key=lambda event: event[0])]


@pytest.mark.row("RT-40")
async def test_a_request_of_three_hops_over_two_workers_is_one_trace_with_the_right_parents(
    exporter: InMemorySpanExporter,
) -> None:
    agents = (TracedDesk, TracedWriter, TracedPress)
    async with starling.testing.mesh(*agents, subscriptions={"traced.printed": TracedPress}, pods=2) as mesh:
        assert await mesh.agent(TracedDesk, "front").take(TracedOrder("hello"), timeout=10.0) == "<HELLO>"
        await mesh.idle()

    spans = by_name(exporter.get_finished_spans())
    chain = [
        "call TracedOrder",  # the sender's
        "handle TracedOrder",  # the desk's
        "call TracedAsk",
        "handle TracedAsk",  # the writer's
        "step look_up",
        "tool look_up",
    ]
    assert {*chain, "publish Page", "handle Page"} <= spans.keys()
    assert len({span.context.trace_id for span in spans.values() if span.context}) == 1
    parents = {span.context.span_id: name for name, span in spans.items() if span.context}
    pairs = [*itertools.pairwise(chain), ("handle TracedAsk", "publish Page"), ("publish Page", "handle Page")]
    for parent, child in pairs:
        found = spans[child].parent
        assert found is not None
        assert (parents[found.span_id], child) == (parent, child)
    pods = {
        name: (spans[name].attributes or {})["starling.pool"]
        for name in ("handle TracedOrder", "handle TracedAsk", "handle Page")
    }
    assert pods == {
        "handle TracedOrder": "traced-desk",
        "handle TracedAsk": "traced-writer",
        "handle Page": "traced-press",
    }
    assert all("HELLO" not in span.to_json() for span in spans.values())


@pytest.mark.row("RT-40", part="the stages of a message, in order")
async def test_the_stages_of_a_request_come_in_their_order(exporter: InMemorySpanExporter) -> None:
    async with starling.testing.mesh(TracedDesk, TracedWriter, TracedPress) as mesh:
        await mesh.agent(TracedDesk, "front").take(TracedOrder("hello"), timeout=10.0)
        await mesh.idle()
    spans = by_name(exporter.get_finished_spans())
    noted = [event.name for event in spans["handle TracedOrder"].events]
    assert noted == [
        "stored",
        "received",
        "handler start",
        "pipeline start",
        "call",
        "pipeline end",
        "handler end",
        "reply",
    ]
    assert moments(spans["call TracedOrder"], spans["handle TracedOrder"]) == [
        "created",
        "sent",
        "stored",
        "received",
        "handler start",
        "call",
        "handler end",
        "reply",  # goes out with the commit
        "reply",  # and comes in
    ]


@pytest.mark.row("RT-64")
@pytest.mark.row("RT-65")
async def test_an_error_is_an_event_of_its_span_and_its_record_reaches_the_caller(
    exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        async with starling.testing.mesh(TracedPress) as mesh:
            with pytest.raises(HandlerFailed, match="ModelFailed: no ink") as raised:
                await mesh.agent(TracedPress, "big").fail(TracedAsk("x"), timeout=10.0)
            assert await mesh.agent(TracedPress, "big").pages("now", timeout=10.0) == 0
    record = raised.value.record
    assert isinstance(record, ErrorRecord)
    assert (record.type, record.severity, record.details) == ("ModelFailed", Severity.CRITICAL, {"status": 401})
    assert record.context["agent"] == "traced_press/big"
    assert "raise ModelFailed" in record.stack
    handled = by_name(exporter.get_finished_spans())["handle TracedAsk"]
    [error] = [event for event in handled.events if event.name == "exception"]
    assert (error.attributes or {})["error.severity"] == "critical"
    assert told == ["no ink"]
    assert "the hook fails as well" in caplog.text
    assert [r.levelname for r in caplog.records if r.message == "message given up"] == ["CRITICAL"]


@pytest.mark.row("RT-65", part="the instance is dropped, the next message finds the same state in a new one")
async def test_after_an_error_the_same_state_is_found_in_a_new_instance(
    exporter: InMemorySpanExporter,
) -> None:
    async with starling.testing.mesh(TracedPress, retry=AT_ONCE) as mesh:
        await mesh.send(AgentId("traced_press", "big"), Page("JAM"))
        await mesh.idle()
        async with asyncio.timeout(20):
            while await mesh.agent(TracedPress, "big").pages("now", timeout=10.0) != 1:
                await mesh.advance(1.0)
    assert told == ["paper jam"]
    assert len(marks) == 2
    assert marks[0] is not marks[1]
    attempts = [span for span in exporter.get_finished_spans() if span.name == "handle Page"]
    assert [(span.attributes or {})["starling.result"] for span in attempts] == ["retry", "ok"]
    assert len({span.context.trace_id for span in attempts if span.context}) == 1


class Lines(logging.Handler):
    """Keeps what was logged, with the facts of its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(TurnFilter())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    logger = logging.getLogger("starling")
    before = logger.level
    logger.addHandler(made)
    logger.setLevel(logging.DEBUG)
    yield made
    logger.removeHandler(made)
    logger.setLevel(before)


async def logged(lines: Lines) -> dict[str, set[str]]:
    """Trace ids by line."""
    agents = (TracedDesk, TracedWriter, TracedPress)
    async with starling.testing.mesh(*agents, subscriptions={"traced.printed": TracedPress}) as mesh:
        await mesh.agent(TracedDesk, "front").take(TracedOrder("hello"), timeout=10.0)
        await mesh.idle()
    seen: dict[str, set[str]] = {}
    for record in lines.records:
        if record.getMessage() in ("order taken", "writing", "printing", "message handled"):
            assert {"trace_id", "pool", "shard", "agent", "message_id"} <= vars(record).keys()
            seen.setdefault(record.getMessage(), set()).add(vars(record)["trace_id"])
            assert "hello" not in record.getMessage()
    assert sum(record.getMessage() == "message handled" for record in lines.records) == 3
    return seen


@pytest.mark.row("RT-81")
async def test_a_requests_lines_share_its_trace_id(exporter: InMemorySpanExporter, lines: Lines) -> None:
    found = await logged(lines)
    [span, *_] = exporter.get_finished_spans()
    assert span.context is not None
    assert found.keys() == {"order taken", "writing", "printing", "message handled"}
    assert set().union(*found.values()) == {f"{span.context.trace_id:032x}"}


@pytest.mark.row("RT-81", part="without tracing")
async def test_a_requests_lines_share_an_id_without_an_sdk(lines: Lines) -> None:
    found = await logged(lines)
    assert found.keys() == {"order taken", "writing", "printing", "message handled"}
    assert len(set().union(*found.values())) == 1


@pytest.mark.row("RT-15", part="look-up by the id finds the message's trace and its dead letter", completes=True)
async def test_a_message_id_finds_its_trace_its_log_line_and_its_dead_letter(
    exporter: InMemorySpanExporter, lines: Lines
) -> None:
    once, target = RetryPolicy(attempts=1), AgentId("traced_press", "k")
    async with starling.testing.mesh(TracedPress, retry=once) as mesh:
        await mesh.send(target, Page("JAM"), id="order-7")
        await mesh.send(target, Page("fine"), id="order-8")
        await mesh.idle()
        found = [letter.envelope for letter in await mesh.dead_letters() if letter.envelope is not None]
    spans = exporter.get_finished_spans()
    traces = {
        message_id: {
            span.context.trace_id
            for span in spans
            if span.context is not None and (span.attributes or {}).get("starling.message_id") == message_id
        }
        for message_id in ("order-7", "order-8")
    }
    assert [envelope.id for envelope in found] == ["order-7"]
    (bad,), (good,) = traces["order-7"], traces["order-8"]
    assert bad != good
    assert f"{bad:032x}" in found[0].trace
    named = [record for record in lines.records if getattr(record, "message_id", "") == "order-7"]
    assert {getattr(record, "trace_id", "") for record in named} == {f"{bad:032x}"}
