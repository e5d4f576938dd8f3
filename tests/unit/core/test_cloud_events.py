"""Envelopes become CloudEvents 1.0 and come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.cloud_events import from_cloud_event, to_cloud_event
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, TopicId
from starling.errors import DecodeError, SpecError

TARGET = AgentId("airport", "EWR")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.dictionaries(TEXT, st.integers(-9, 9) | TEXT | st.none() | st.booleans(), max_size=3)


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


EVENTS = st.builds(
    Envelope,
    id=TEXT,
    type=TEXT,
    body=JSON.map(compact),
    target=st.just(TARGET),
    sender=st.none() | st.just(AgentId("tower", "a/b")),
    topic=st.builds(TopicId, st.just("airport.moved"), TEXT),
    trace=st.sampled_from(["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]),
    created=st.integers(0, 4_000_000_000_000),
    priority=st.integers(0, 3),
    headers=st.dictionaries(TEXT, TEXT, max_size=2),
)


@pytest.mark.row("RT-90", part="events map to CloudEvents 1.0 both ways")
@given(EVENTS)
def test_an_event_survives_both_ways_and_is_json(envelope: Envelope) -> None:
    event = json.loads(json.dumps(to_cloud_event(envelope)))
    assert event["specversion"] == "1.0"
    assert all(name.isalnum() or name == "data_base64" for name in event)
    assert from_cloud_event(event, TARGET) == envelope


@pytest.mark.row("RT-90", part="events map to CloudEvents 1.0 both ways")
def test_the_attributes_are_those_of_the_specification() -> None:
    envelope = Envelope(
        id="1",
        type="Moved",
        body=b'{"n":1}',
        target=TARGET,
        topic=TopicId("airport.moved", "EWR"),
        sender=AgentId("tower", "t"),
        created=1_700_000_000_123,
    )
    assert to_cloud_event(envelope) == {
        "specversion": "1.0",
        "id": "1",
        "source": "tower/t",
        "type": "Moved",
        "subject": "airport.moved/EWR",
        "datacontenttype": "application/json",
        "data": {"n": 1},
        "time": "2023-11-14T22:13:20.123+00:00",
    }


def test_a_body_that_is_no_json_travels_as_base64() -> None:
    envelope = Envelope(
        id="1", type="T", body=b"\xff\x00", content_type="application/x", target=TARGET, topic=TopicId("t", "s")
    )
    assert to_cloud_event(envelope)["data_base64"] == "/wA="
    assert from_cloud_event(to_cloud_event(envelope), TARGET) == envelope


def test_what_went_to_no_topic_is_no_event() -> None:
    with pytest.raises(SpecError, match=r"^envelope\.topic: "):
        to_cloud_event(Envelope(id="1", type="T", body=b"{}", target=TARGET))


GOOD = {"specversion": "1.0", "id": "1", "source": "/", "type": "T", "subject": "t/s", "data": {}}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": None}, "id"),
        ({"subject": "t"}, "subject"),
        ({"time": "noon"}, "noon"),
        ({"source": "nowhere"}, "nowhere"),
        ({"starlingheaders": "{"}, "cloud event"),
    ],
    ids=str,
)
def test_what_is_no_event_is_refused_by_its_attribute(changed: dict[str, Any], named: str) -> None:
    assert from_cloud_event(GOOD, TARGET).topic == TopicId("t", "s")
    with pytest.raises(DecodeError, match=named):
        from_cloud_event({**GOOD, **changed}, TARGET)
