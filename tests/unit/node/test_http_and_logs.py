"""Probes, scrapes and log lines of a worker."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starling.node.http import Health
from starling.node.logs import JsonFormatter, TextFormatter
from starling.node.metrics import registry

if TYPE_CHECKING:
    from tests.unit.node.conftest import World


class Served:
    """A health server whose readiness the test decides."""

    def __init__(self, health: Health, port: int) -> None:
        self.reason = ""
        self.health = health
        self.port = port

    async def ask(self, request: bytes) -> tuple[str, str]:
        """Return status line and body of an answer; both empty when there is none."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        writer.write_eof()
        async with asyncio.timeout(10):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return head.partition("\r\n")[0], body

    async def get(self, path: str) -> tuple[str, str]:
        return await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


@pytest.fixture
async def served(world: World) -> AsyncIterator[Served]:
    await world.pool(1)
    await world.map("p-0")
    pod = world.start("p-0")
    await world.until(lambda: pod.owned == {0})
    made: list[Served] = []
    health = Health(registry(pod.worker.collector), lambda: made[0].reason)
    port = await health.open("127.0.0.1", 0)
    made.append(Served(health, port))
    try:
        yield made[0]
    finally:
        await health.close()


async def test_a_process_lives_as_long_as_it_answers(served: Served) -> None:
    served.reason = "starting"
    assert await served.get("/livez") == ("HTTP/1.1 200 OK", "ok\n")


async def test_readiness_says_why_not(served: Served) -> None:
    assert await served.get("/readyz?verbose") == ("HTTP/1.1 200 OK", "ok\n")
    served.reason = "no connection to NATS"
    assert await served.get("/readyz") == ("HTTP/1.1 503 Service Unavailable", "no connection to NATS\n")


async def test_other_paths_and_what_is_no_request_get_no_harm_done(served: Served) -> None:
    assert (await served.get("/else"))[0] == "HTTP/1.1 404 Not Found"
    for noise in (b"", b"\r\n\r\n", b"x" * 100_000, b"GET\r\n\r\n"):
        assert await served.ask(noise) == ("", "")
    assert await served.get("/livez") == ("HTTP/1.1 200 OK", "ok\n")


async def test_a_scrape_tells_takes_shards_and_commits_with_bounded_labels(served: Served) -> None:
    _, body = await served.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(body)}
    values = {
        name: {tuple(sorted(s.labels.items())): s.value for s in family.samples} for name, family in families.items()
    }
    assert values["starling_shards_owned"] == {(("pool", "p"),): 1.0}
    assert values["starling_takes"] == {(("pool", "p"),): 1.0}
    assert values["starling_fenced"] == {(("pool", "p"),): 0.0}
    lanes = {(("lane", lane), ("pool", "p"), ("shard", "0")): 0.0 for lane in "un"}
    assert values["starling_mailbox_lag"] == lanes
    allowed = {"pool", "shard", "lane", "agent_type", "result", "reason"}
    assert {label for family in families.values() for sample in family.samples for label in sample.labels} <= allowed


async def test_counts_of_a_shard_stay_when_it_leaves_and_grow_on_when_it_comes_back(world: World) -> None:
    await world.pool(1)
    await world.map("p-0")
    one, two = world.start("p-0"), world.start("p-1")
    await world.until(lambda: one.owned == {0})

    def commits() -> float:
        families = {family.name: family for family in one.worker.collector.collect()}
        return sum(sample.value for sample in families["starling_commits"].samples)

    await world.map("p-1")
    await world.until(lambda: two.owned == {0})
    first = commits()
    assert first > 0
    await world.map("p-0")
    await world.until(lambda: one.owned == {0})
    assert commits() >= first
    await world.map("p-1")
    await world.until(lambda: two.owned == {0} and not one.owned)
    assert commits() > first


def record(**facts: object) -> logging.LogRecord:
    made = logging.LogRecord("starling.x", logging.WARNING, "f.py", 1, "turn failed", None, None)
    vars(made).update(facts)
    return made


def test_a_text_line_holds_the_constant_message_and_its_facts() -> None:
    line = TextFormatter().format(record(shard=3, agent="a/k"))
    assert line.endswith(" warning starling.x: turn failed shard=3 agent=a/k")


def test_a_json_line_holds_the_same_and_the_error() -> None:
    made = record(shard=3, odd=object())
    try:
        raise ValueError("x")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    value = json.loads(JsonFormatter().format(made))
    assert (value["level"], value["logger"], value["message"], value["shard"]) == (
        *("warning", "starling.x", "turn failed", 3),
    )
    assert value["error"].endswith("ValueError: x")
    assert "\n" not in JsonFormatter().format(made)
    assert "ValueError: x" in TextFormatter().format(made)
