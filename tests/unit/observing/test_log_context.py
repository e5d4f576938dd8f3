"""What a log line knows of its turn."""

from __future__ import annotations

import contextvars
import json
import logging

import pytest
from starling import log_context
from starling.core.envelope import Envelope
from starling.core.ids import AgentId
from starling.log_context import TurnFilter, facts, id_only, is_id_only, trace_id
from starling.node.logs import JsonFormatter, TextFormatter

EWR = AgentId("airport", "EWR")


def message(message_id: str, trace: str = "") -> Envelope:
    return Envelope(id=message_id, type="Movement", body=b"secret", target=EWR, trace=trace)


def line(formatter: logging.Formatter, **extra: object) -> str:
    record = logging.getLogger("agents").makeRecord("agents", logging.INFO, "x.py", 1, "counted", (), None, "f", extra)
    TurnFilter().filter(record)
    return formatter.format(record)


def in_turn(formatter: logging.Formatter, **extra: object) -> str:
    def run() -> str:
        log_context.current.set(("airports", 3, message("m1")))
        return line(formatter, **extra)

    return contextvars.Context().run(run)


def test_outside_of_turns_a_line_has_its_own_facts_only() -> None:
    assert facts() == {}
    assert line(TextFormatter(), shard=1).endswith("info agents: counted shard=1")


@pytest.mark.row("RT-81", part="the fields of a line")
def test_a_line_of_a_turn_says_trace_pool_shard_agent_and_message_and_no_payload() -> None:
    told = json.loads(in_turn(JsonFormatter(), movements=7))
    del told["time"]
    assert told == {
        "level": "info",
        "logger": "agents",
        "message": "counted",
        "movements": 7,
        "pool": "airports",
        "shard": 3,
        "agent": "airport/EWR",
        "message_id": "m1",
        "trace_id": trace_id(message("m1")),
    }


def test_a_line_in_text_has_the_same_facts() -> None:
    text = in_turn(TextFormatter())
    assert "info agents: counted pool=airports shard=3 agent=airport/EWR message_id=m1 trace_id=" in text
    assert "secret" not in text


def test_what_a_line_says_itself_stays() -> None:
    assert json.loads(in_turn(JsonFormatter(), agent="weather/EWR"))["agent"] == "weather/EWR"


def test_the_trace_id_is_that_of_the_trace() -> None:
    traced = message("m1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert trace_id(traced) == "0af7651916cd43dd8448eb211c80319c"


def test_without_tracing_a_message_gives_its_id_to_those_after_it() -> None:
    first = message("m1")
    assert trace_id(message("another", id_only(first.id))) == trace_id(first)
    assert is_id_only(id_only(first.id))
    assert not is_id_only("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


def test_without_tracing_other_requests_have_other_ids() -> None:
    assert trace_id(message("m2")) != trace_id(message("m1"))
    assert trace_id(message("2013-01-01T05:00/UA1545")) != trace_id(message("2013-01-01T05:00/UA1546"))
