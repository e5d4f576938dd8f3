"""Spans and the W3C context between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starling.core.envelope import Envelope
from starling.core.error_record import ErrorRecord
from starling.core.ids import AgentId, PoolName, ShardId, TopicId
from starling.core.routes import PoolRoute, Target
from starling.tracing import Tracing, parsed, traceparent, tracing

EWR = AgentId("airport", "EWR")
TARGET = Target(EWR, PoolRoute(PoolName("airports"), 16, "abcdefgh"), ShardId(3))
GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Clock:
    """Moves on by a millisecond whenever somebody looks."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def __call__(self) -> float:
        self.time += 0.001
        return self.time


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Tracing(provider.get_tracer("starling"), Clock())
    provider.shutdown()


def envelope(**more: str) -> Envelope:
    return Envelope(id="m1", type="Movement", body=b"secret", target=EWR, **more)  # type: ignore[arg-type]


def test_without_an_sdk_there_is_no_tracing() -> None:
    assert tracing(Clock()) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-xyz7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
def test_what_is_no_traceparent_is_ignored(text: str) -> None:
    assert parsed(text) is None


@pytest.mark.parametrize("text", [GOOD, GOOD[:-2] + "00"])
def test_a_traceparent_is_read_and_written(text: str) -> None:
    context = parsed(text)
    assert context is not None
    assert traceparent(context) == text


def test_a_newer_version_of_traceparent_may_have_more_parts() -> None:
    assert parsed("01" + GOOD[2:] + "-more") is not None


def test_a_message_from_outside_starts_a_trace_and_its_turn_goes_on_with_it(
    tracer: Tracing, exporter: InMemorySpanExporter
) -> None:
    message = envelope()
    sending = tracer.sending(message, TARGET)
    sending.happened("sent")
    sending.ended()
    turn = tracer.turn(message, pool="airports", shard=3, attempt=1, stored=1_700_000_000.5, received=0)
    turn.finished("ok")
    turn.committed(replied=False)

    first, second = exporter.get_finished_spans()
    assert first.context is not None
    assert second.context is not None
    assert second.parent is not None
    assert second.context.trace_id == first.context.trace_id
    assert second.parent.span_id == first.context.span_id
    assert second.parent.is_remote
    assert (first.name, first.kind) == ("send Movement", trace.SpanKind.PRODUCER)
    assert (second.name, second.kind) == ("handle Movement", trace.SpanKind.CONSUMER)
    assert [event.name for event in second.events] == ["stored"]


def test_spans_say_message_agent_type_pool_and_shard_and_never_the_body(
    tracer: Tracing, exporter: InMemorySpanExporter
) -> None:
    message = envelope(reply="answers.1")
    tracer.sending(message, TARGET).ended()
    turn = tracer.turn(message, pool="airports", shard=3, attempt=2, stored=0.0, received=0)
    turn.committed(replied=True)

    for span in exporter.get_finished_spans():
        assert span.attributes is not None
        assert span.attributes["starling.message_id"] == "m1"
        assert span.attributes["starling.agent_type"] == "airport"
        assert span.attributes["starling.pool"] == "airports"
        assert span.attributes["starling.shard"] == 3
        assert "secret" not in span.to_json()
    assert exporter.get_finished_spans()[0].name == "call Movement"


async def test_the_handlers_own_spans_and_what_it_sends_hang_under_its_turn(
    tracer: Tracing, exporter: InMemorySpanExporter
) -> None:
    turn = tracer.turn(envelope(trace=GOOD), pool="airports", shard=3, attempt=1, stored=0.0, received=0)

    async def handler() -> str:
        with tracer._tracer.start_as_current_span("search the web"):
            sent.append(turn.sends("m1.0", "Milestone", TARGET, None))
        sent.append(turn.sends("m1.1", "Milestone", TARGET, TopicId("milestones", "EWR")))
        return "done"

    sent: list[str] = []
    assert await turn.around(handler()) == "done"
    assert not trace.get_current_span().get_span_context().is_valid
    turn.finished("ok")
    turn.committed(replied=False)

    spans = {span.name: span for span in exporter.get_finished_spans()}
    own, tool = spans["handle Movement"].context, spans["search the web"]
    assert own is not None
    assert tool.context is not None
    assert tool.parent is not None
    assert f"{own.trace_id:032x}" == GOOD[3:35]
    assert tool.parent.span_id == own.span_id
    parents = {name: span.parent.span_id for name, span in spans.items() if span.parent}
    assert parents["send Milestone"] == tool.context.span_id
    assert parents["publish Milestone"] == own.span_id
    assert [event.name for event in spans["send Milestone"].events] == ["created", "sent"]
    assert [event.name for event in spans["handle Movement"].events] == ["handler start", "handler end"]


async def test_a_call_that_fails_says_so_in_its_span_and_raises(
    tracer: Tracing, exporter: InMemorySpanExporter
) -> None:
    turn = tracer.turn(envelope(), pool="airports", shard=3, attempt=1, stored=0.0, received=0)

    async def refuse(_: str) -> None:
        raise LookupError("no such flight")

    with pytest.raises(LookupError):
        await turn.calling("Ask", TARGET, refuse)
    [call] = exporter.get_finished_spans()
    assert call.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in call.events] == ["created", "sent", "exception"]


@pytest.mark.row("RT-64", part="the span")
def test_a_failed_turn_has_its_error_record_as_an_event(tracer: Tracing, exporter: InMemorySpanExporter) -> None:
    turn = tracer.turn(envelope(), pool="airports", shard=3, attempt=1, stored=0.0, received=0)
    turn.sends("m1.0", "Milestone", TARGET, None)
    turn.failed(ErrorRecord.of(TimeoutError("too slow"), now=1_700_000_000.0, context={"agent": str(EWR)}))
    turn.finished("retry")
    turn.committed(replied=False)

    sent, handled = exporter.get_finished_spans()
    [event] = handled.events
    assert event.attributes is not None
    assert (event.name, event.attributes["exception.type"]) == ("exception", "TimeoutError")
    assert event.attributes["error.severity"] == "medium"
    assert event.attributes["error.context.agent"] == "airport/EWR"
    assert handled.status.status_code is trace.StatusCode.ERROR
    assert sent.status.description == "the turn failed: not sent"


async def test_two_turns_at_once_do_not_mix_their_spans(tracer: Tracing, exporter: InMemorySpanExporter) -> None:
    both = asyncio.Barrier(2)

    async def handle(key: str) -> int:
        turn = tracer.turn(
            Envelope(id=key, type="Movement", body=b"", target=EWR), pool="p", shard=0, attempt=1, stored=0, received=0
        )

        async def handler() -> int:
            await both.wait()
            return trace.get_current_span().get_span_context().span_id

        seen = await turn.around(handler())
        assert seen == turn.span.get_span_context().span_id
        return seen

    first, second = await asyncio.gather(handle("a"), handle("b"))
    assert first != second
