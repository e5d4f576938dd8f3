"""Export of traces, by the environment variables of OpenTelemetry."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from opentelemetry import trace
from starling.errors import SpecError
from starling.node.telemetry import traces

PROGRAM = """
from opentelemetry import trace
from starling.node.telemetry import traces
with traces("airports", "airports-1"):
    with trace.get_tracer("t").start_as_current_span("taxi"):
        pass
"""


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**clean, **environment}, capture_output=True, text=True, check=False
    )


def test_spans_of_a_worker_are_exported_by_its_end() -> None:
    told = run(OTEL_TRACES_EXPORTER="console")
    [line] = told.stdout.splitlines()
    span = json.loads(line)
    assert span["name"] == "taxi"
    assert span["resource"]["attributes"]["service.name"] == "starling-airports"
    assert span["resource"]["attributes"]["service.instance.id"] == "airports-1"
    assert told.stderr == ""


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}],
)
def test_nothing_is_exported_unless_asked_for(environment: dict[str, str]) -> None:
    told = run(**environment)
    assert (told.stdout, told.stderr, told.returncode) == ("", "", 0)


def test_an_unknown_exporter_names_the_variable() -> None:
    unknown = traces("airports", "airports-1", {"OTEL_TRACES_EXPORTER": "zipkin"})
    with pytest.raises(SpecError, match=r"OTEL_TRACES_EXPORTER: is 'zipkin'; give one of otlp, console, none"), unknown:
        pass


def test_a_missing_exporter_says_what_to_install() -> None:
    missing = traces("airports", "airports-1", {"OTEL_TRACES_EXPORTER": "otlp"})
    with pytest.raises(SpecError, match=r"install starling-mesh\[tracing\]"), missing:
        pass
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
