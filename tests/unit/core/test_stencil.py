"""What messages of a turn share is packed once, and each reads as if it had been packed by itself."""

from __future__ import annotations

import msgpack
from hypothesis import given
from hypothesis import strategies as st
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, PoolName, TopicId
from starling.core.reference import Reference
from starling.core.stencil import Stencil

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SENDER = AgentId("relay", "r")


@given(
    messages=st.lists(
        st.tuples(TEXT.filter(lambda t: not {"\r", "\n"} & set(t)), TEXT, st.binary(max_size=300)),
        min_size=1,
        max_size=3,
    ),
    keys=st.lists(TEXT.filter(bool), min_size=3, max_size=3),
    topic=st.none() | st.builds(TopicId, st.just("t"), TEXT),
    trace=TEXT,
    created=st.integers(0, 2**48),
    priority=st.integers(0, 3),
    not_before=st.integers(0, 2**48),
    headers=st.dictionaries(TEXT, TEXT, max_size=20),
    large=st.none()
    | st.builds(Reference, st.just(PoolName("p")), TEXT, st.integers(0, 2**30), st.binary(), st.just(1)),
)
def test_a_message_of_a_stencil_is_the_envelope_with_the_same_fields(
    messages: list[tuple[str, str, bytes]],
    keys: list[str],
    topic: TopicId | None,
    trace: str,
    created: int,
    priority: int,
    not_before: int,
    headers: dict[str, str],
    large: Reference | None,
) -> None:
    stencil = Stencil(
        SENDER, topic=topic, trace=trace, created=created, priority=priority, not_before=not_before, headers=headers
    )
    for (message_id, type_name, body), key in zip(messages, keys, strict=False):
        packed = stencil.pack(message_id, type_name, body, AgentId("counter", key), large)
        assert Envelope.from_map(msgpack.unpackb(packed)) == Envelope(
            id=message_id,
            type=type_name,
            body=b"" if large else body,
            target=AgentId("counter", key),
            sender=SENDER,
            topic=topic,
            trace=trace,
            created=created,
            priority=priority,
            not_before=not_before,
            headers=headers,
            large=large,
        )
