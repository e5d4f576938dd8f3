"""One trace through several processes: exported by each, put together here. And their logs, as one request's."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starling.core.ids import AgentId

from tests.integration.probes import CallOn

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster, Pod

CALLER = {"caller": "tests.integration.probes:Caller"}
STAGES = ["created", "sent", "stored", "received", "handler start"]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Spans of this process, the sender's; the workers print theirs."""
    provider, made = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(made))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    yield made
    provider.shutdown()


def printed(*pods: Pod) -> list[dict[str, Any]]:
    lines = [line for pod in pods for line in pod.log.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"name"')]


def logged(*pods: Pod) -> list[dict[str, Any]]:
    lines = [line for pod in pods for line in pod.log.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"time"')]


@pytest.mark.row("RT-40", part="across pods")
@pytest.mark.row("RT-81", part="across pods")
async def test_a_request_through_three_processes_is_one_trace_and_its_lines_share_the_id(
    cluster: Cluster, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARLING_LOG_FORMAT", "json")
    monkeypatch.setenv("STARLING_LOG_LEVEL", "DEBUG")
    pool = await cluster.pool("callers", agents=CALLER, shards=3)
    await pool.map("callers-0", "callers-1", "callers-2")
    pods = [pool.start(f"callers-{number}") for number in range(3)]
    for number in range(3):
        await pool.owns(f"callers-{number}", number)
    first, second, third = (AgentId("caller", pool.key("caller", shard)) for shard in range(3))

    async with cluster.client() as mesh:
        answer = await mesh.call(first, CallOn([str(second), str(third)]), timeout=20)
    assert answer == f"{first} {second} {third}"
    for pod in pods:
        pod.stop()
    for pod in pods:
        assert await pod.ended() == 0

    spans = [json.loads(span.to_json()) for span in exported.get_finished_spans()] + printed(*pods)
    assert len({span["context"]["trace_id"] for span in spans}) == 1
    by_id = {span["context"]["span_id"]: span for span in spans}
    [last] = [span for span in spans if span["attributes"]["starling.shard"] == 2 and span["name"].startswith("handle")]
    way = [last]
    while way[-1]["parent_id"] is not None:
        way.append(by_id[way[-1]["parent_id"]])
    assert [(span["name"], span["attributes"]["starling.shard"]) for span in reversed(way)] == [
        ("call CallOn", 0),
        ("handle CallOn", 0),
        ("call CallOn", 1),
        ("handle CallOn", 1),
        ("call CallOn", 2),
        ("handle CallOn", 2),
    ]
    for call, handled in zip(way[1::2], way[0::2], strict=True):
        stages = sorted((event["timestamp"], event["name"]) for event in call["events"] + handled["events"])
        assert [name for _, name in stages[:5]] == STAGES
        assert [name for _, name in stages][-1] == "reply"
    assert len({span["resource"]["attributes"].get("service.instance.id") for span in printed(*pods)}) == 3

    lines = [line for line in logged(*pods) if line["message"] == "message handled"]
    assert {line["trace_id"] for line in lines} == {spans[0]["context"]["trace_id"].removeprefix("0x")}
    assert {(line["shard"], line["agent"]) for line in lines} == {
        (n, str(a)) for n, a in enumerate((first, second, third))
    }


@pytest.mark.row("RT-43")
async def test_a_header_set_at_the_first_hop_is_read_at_the_third(cluster: Cluster) -> None:
    pool = await cluster.pool("bearers", agents={"bearer": "tests.integration.probes:Bearer"}, shards=3)
    await pool.map("bearers-0")
    pool.start("bearers-0")
    await pool.owns("bearers-0", 0, 1, 2)
    first, second, third = (AgentId("bearer", pool.key("bearer", shard)) for shard in range(3))
    secret = f"{random.Random(1).getrandbits(64):x}"
    async with cluster.client() as mesh:
        found = await mesh.call(first, CallOn([str(second), str(third)]), timeout=20, headers={"tenant": secret})
    assert found == {"tenant": secret, "hop": str(second)}
