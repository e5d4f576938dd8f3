"""Export of traces from a worker, by OpenTelemetry's own environment variables; without them nothing is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace

from starling.errors import SpecError

EXPORTER: Final = "OTEL_TRACES_EXPORTER"
KINDS: Final = ("otlp", "console", "none")


@contextmanager
def traces(pool: str, pod: str, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Export spans while inside, and what is left at the end.

    OTEL_TRACES_EXPORTER: otlp (to OTEL_EXPORTER_OTLP_ENDPOINT, over HTTP), console (JSON on standard output) or none.
    Whoever has configured an SDK already, such as `opentelemetry-instrument`, is left alone. Raises SpecError.
    """
    found = os.environ if environment is None else environment
    kind = found.get(EXPORTER, "none")
    if kind not in KINDS:
        raise SpecError(EXPORTER, f"is {kind!r}; give one of {', '.join(KINDS)}")
    is_off = kind == "none" or found.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        yield
        return
    provider = _provider(kind, pool, pod)
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


def _provider(kind: str, pool: str, pod: str) -> Any:
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(kind)
    except ImportError as error:
        raise SpecError(
            EXPORTER, f"{kind} needs {error.name}, which is not installed; install starling-mesh[tracing]"
        ) from error
    resource = Resource.create({"service.name": f"starling-{pool}", "service.instance.id": pod})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(kind: str) -> Any:
    if kind == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\n")
