"""Traces by OpenTelemetry: a span for each message that is sent and for each turn, W3C trace context in between.

Only the API is needed. `tracing` returns None unless an SDK is configured, and then nothing here is ever called.
Of one message, by the clock of whoever saw it: its sender's span holds `created` and `sent` (and `reply`, of a call);
the span of its turn `stored` (in its mailbox), `received`, `handler start`, `call`, `handler end`, `exception` and
`reply`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from starling.core.envelope import Envelope
from starling.core.error_record import ErrorRecord
from starling.core.routes import Target
from starling.log_context import is_id_only

T = TypeVar("T")

NAME: Final = "starling"
_OFF: Final = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)


def tracing(wall: Callable[[], float]) -> Tracing | None:
    """Return what makes spans, None when no SDK is configured by now. wall: seconds since 1970."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, _OFF) else Tracing(provider.get_tracer(NAME), wall)


def trace_event(name: str, attributes: Mapping[str, str | int | float | bool] | None = None) -> None:
    """Add an event to the current span, such as the start or end of a pipeline; nothing happens without an SDK."""
    trace.get_current_span().add_event(name, dict(attributes or {}))


class Tracing:
    """Makes spans; one a process."""

    def __init__(self, tracer: Tracer, wall: Callable[[], float]) -> None:
        self._tracer = tracer
        self._wall = wall

    def sending(self, envelope: Envelope, target: Target, *, parent: str = "") -> Sending:
        """Start the span of a message from outside a turn and put its context into the envelope, which is not packed.

        parent: a traceparent; "" is the span that is current here.
        """
        verb = "call" if envelope.reply else "publish" if envelope.topic else "send"
        sending = self._sending(verb, envelope.type, target, _parent(parent))
        sending.span.set_attribute("starling.message_id", envelope.id)
        envelope.trace = sending.traceparent
        return sending

    def _sending(self, verb: str, type_name: str, target: Target, within: otel_context.Context | None) -> Sending:
        now = self.now()
        span = self._tracer.start_span(
            f"{verb} {type_name}",
            context=within,
            kind=SpanKind.CLIENT if verb in ("call", "query") else SpanKind.PRODUCER,
            attributes={
                "messaging.system": NAME,
                "messaging.operation.type": "send",
                "starling.message_type": type_name,
                "starling.agent_type": target.agent.type,
                "starling.pool": target.pool.pool,
                "starling.shard": int(target.shard),
            },
            start_time=now,
        )
        span.add_event("created", timestamp=now)
        return Sending(span, self.now)

    def turn(
        self, envelope: Envelope, *, pool: str, shard: int, attempt: int, stored: float, received: int
    ) -> TurnTrace:
        """Start the span of one attempt at a message. stored: seconds, received: nanoseconds since 1970, 0: unknown.

        A message without a trace gets that of its first attempt, so that later ones and log lines share it.
        """
        parent = _parent(envelope.trace)
        span = self._tracer.start_span(
            f"handle {envelope.type}",
            context=parent or otel_context.Context(),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": NAME,
                "messaging.operation.type": "process",
                "starling.message_id": envelope.id,
                "starling.message_type": envelope.type,
                "starling.agent_type": envelope.target.type,
                "starling.pool": pool,
                "starling.shard": int(shard),
                "starling.attempt": attempt,
            },
            start_time=self.now(),
        )
        if parent is None:
            envelope.trace = traceparent(span.get_span_context())
        for name, at in (("stored", int(stored * 1e9)), ("received", received)):
            if at:
                span.add_event(name, timestamp=at)
        return TurnTrace(self, span)

    def now(self) -> int:
        """Nanoseconds since 1970."""
        return int(self._wall() * 1e9)


class Sending:
    """The span of one message on its way."""

    __slots__ = ("_now", "span", "traceparent")

    def __init__(self, span: Span, now: Callable[[], int]) -> None:
        self.span = span
        self.traceparent = traceparent(span.get_span_context())
        self._now = now

    def happened(self, stage: str) -> None:
        """Note a stage of the message's way."""
        self.span.add_event(stage, timestamp=self._now())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.ended(error)

    def stored(self, done: asyncio.Future[Any]) -> None:
        """End with the future that waits for the message to be stored."""
        self.ended(None if done.cancelled() else done.exception())

    def ended(self, error: BaseException | None = None) -> None:
        """End the span; error: why the message did not get where it should, or what a call raised."""
        if error is not None:
            _failed(self.span, ErrorRecord.of(error, now=self._now() / 1e9), self._now())
        self.span.end(self._now())


class TurnTrace:
    """The span of one turn, and those of what it sends. All end when the commit is stored."""

    __slots__ = ("_sends", "_tracing", "span")

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self.span = span
        self._sends: list[Sending] | None = None

    async def around(self, handler: Coroutine[Any, Any, T]) -> T:
        """Run the handler with this span current; it waits only where the handler waits."""
        token = otel_context.attach(trace.set_span_in_context(self.span))
        try:
            self._happened("handler start")
            return await handler
        finally:
            self._happened("handler end")
            otel_context.detach(token)

    def sends(self, message_id: str, type_name: str, target: Target, topic: object | None) -> str:
        """Start the span of a message that this turn sends; return its traceparent."""
        sending = self._tracing._sending("publish" if topic else "send", type_name, target, self._own())
        sending.span.set_attribute("starling.message_id", message_id)
        if self._sends is None:
            self._sends = []
        self._sends.append(sending)
        return sending.traceparent

    async def calling(
        self, type_name: str, target: Target, call: Callable[[str], Awaitable[T]], *, verb: str = "call"
    ) -> T:
        """Make a call of this turn in a span of its own; `call` gets its traceparent."""
        self._happened(verb)
        sending = self._tracing._sending(verb, type_name, target, self._own())
        with sending:
            sending.happened("sent")
            answer = await call(sending.traceparent)
            sending.happened("reply")
            return answer

    async def step(self, name: str, work: Awaitable[T]) -> T:
        """Run a step of this turn in a span of its own."""
        tracer = self._tracing._tracer
        with tracer.start_as_current_span(f"step {name}", context=self._own(), end_on_exit=False) as span:
            try:
                return await work
            finally:
                span.end(self._tracing.now())

    def failed(self, record: ErrorRecord) -> None:
        """Note what the handler raised."""
        _failed(self.span, record, self._tracing.now())

    def finished(self, result: str) -> None:
        """Note how the turn ended: ok, retry, dead or failed. What it sent is on its way with the commit, if it is."""
        self.span.set_attribute("starling.result", result)
        for sending in self._sends or ():
            if result == "ok":
                sending.happened("sent")
            else:
                sending.span.set_status(Status(StatusCode.ERROR, "the turn failed: not sent"))

    def committed(self, *, replied: bool) -> None:
        """The commit is stored, and the reply goes out."""
        if replied:
            self._happened("reply")
        for sending in self._sends or ():
            sending.ended()
        self.span.end(self._tracing.now())

    def _own(self) -> otel_context.Context:
        """The author's own span where one is current, else the turn's."""
        current = trace.get_current_span()
        if current.get_span_context().trace_id == self.span.get_span_context().trace_id:
            return otel_context.get_current()
        return trace.set_span_in_context(self.span)

    def _happened(self, stage: str) -> None:
        self.span.add_event(stage, timestamp=self._tracing.now())


def _failed(span: Span, record: ErrorRecord, now: int) -> None:
    span.add_event("exception", record.attributes(), timestamp=now)
    span.set_status(Status(StatusCode.ERROR, record.type))


def traceparent(context: SpanContext) -> str:
    """Return the W3C header value (Trace Context, level 1)."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parsed(text: str) -> SpanContext | None:
    """Return what a traceparent says, None when it is none: a message is never lost for its trace."""
    parts = text.split("-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2] or parts[0] == "ff":
        return None
    if parts[0] == "00" and len(parts) != 4:
        return None
    try:
        trace_id, span_id, flags = int(parts[1], 16), int(parts[2], 16), int(parts[3], 16)
    except ValueError:
        return None
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & 1))
    return context if context.is_valid else None


def _parent(text: str) -> otel_context.Context | None:
    context = parsed(text) if text and not is_id_only(text) else None
    return trace.set_span_in_context(NonRecordingSpan(context), otel_context.Context()) if context else None
