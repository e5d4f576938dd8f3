"""Envelopes and frames on the wire: what is written is read back, what is unknown is kept."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core import envelope as envelope_module
from starling.core.envelope import KNOWN_AGENTS, Envelope, FrameHeader, frame_body, known_agent, open_frame
from starling.core.ids import AgentId, TopicId
from starling.errors import DecodeError, SpecError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
AGENTS = st.builds(
    AgentId,
    st.from_regex(r"[a-z_][a-z0-9_-]{0,6}", fullmatch=True),
    TEXT.filter(bool),
)
TOPICS = st.builds(TopicId, st.from_regex(r"[a-z.:=-]{1,8}", fullmatch=True), TEXT)
MILLISECONDS = st.integers(0, 2**48)
KNOWN = {"i", "t", "ct", "b", "s", "a", "tp", "r", "tr", "c", "p", "nb", "dl", "h", "at", "ch", "rp", "bb"}
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), TEXT, st.binary(max_size=8))

ENVELOPES = st.builds(
    Envelope,
    id=TEXT.filter(lambda text: not {"\r", "\n"} & set(text)),
    type=TEXT,
    body=st.binary(max_size=40),
    target=AGENTS,
    content_type=TEXT,
    sender=st.none() | AGENTS,
    topic=st.none() | TOPICS,
    reply=st.just("") | st.from_regex(r"[a-z0-9.$_]{1,12}", fullmatch=True),
    trace=TEXT,
    created=MILLISECONDS,
    priority=st.integers(0, 3),
    not_before=MILLISECONDS,
    deadline=MILLISECONDS,
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    attempt=st.integers(0, 100),
    chain=st.lists(TEXT, max_size=3).map(tuple),
    repeatable=st.booleans(),
    unknown=st.dictionaries(TEXT.filter(lambda key: key not in KNOWN), PLAIN, max_size=3),
)

SMALLEST = Envelope(id="i", type="T", body=b"{}", target=AgentId("a", "k"))


@given(st.lists(ENVELOPES, max_size=4))
def test_what_is_packed_into_a_frame_is_read_back_equal_with_its_unknown_keys(envelopes: list[Envelope]) -> None:
    frame = frame_body(envelope.pack() for envelope in envelopes)
    assert [Envelope.from_map(value) for value in open_frame(frame)] == envelopes


def test_a_frame_of_many_envelopes_is_read_back() -> None:
    for count in (0, 1, 15, 16, 70_000):
        assert len(open_frame(frame_body([SMALLEST.pack()] * count))) == count


def test_what_has_its_default_is_not_written() -> None:
    assert set(msgpack.unpackb(SMALLEST.pack())) == {"i", "t", "b", "a"}


@pytest.mark.parametrize(
    "changed",
    [
        {"a": None},
        {"a": ["a"]},
        {"a": ["1a", "k"]},
        {"a": ["a", ""]},
        {"i": ...},
        {"t": ...},
        {"b": ...},
        {"s": ["a"]},
        {"tp": ["a b", "s"]},
        {"tp": 3},
        {"ch": 3},
        {"ch": [3]},
        {"i": 3},
        {"i": "two\r\nlines"},
        {"t": b"T"},
        {"b": "text"},
        {"c": 1.5},
        {"dl": "soon"},
        {"p": 4},
        {"p": -1},
        {"p": True},
        {"r": "a b"},
        {"r": "a.*"},
        {"r": "a\r\nPUB x"},
        {"h": [1]},
        {"h": {"a": 1}},
        {"rp": 1},
    ],
    ids=str,
)
def test_a_map_that_is_no_envelope_is_a_decode_error(changed: dict[str, Any]) -> None:
    value = {"i": "i", "t": "T", "b": b"", "a": ["a", "k"], **changed}
    value = {key: part for key, part in value.items() if part is not ...}
    with pytest.raises(DecodeError, match=r"^envelope: "):
        Envelope.from_map(value)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x93\x01", b"\x80", b"\x91\x01", b"\x92\x80\x01", b"not msgpack at all"], ids=repr
)
def test_bytes_that_are_no_frame_are_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^frame: "):
        open_frame(body)


@given(TEXT, st.integers(0, 2**53), st.integers(0, 2**53), st.integers(1, 9))
def test_frame_headers_read_back(source: str, number: int, previous: int, version: int) -> None:
    header = FrameHeader(source, number, previous, version)
    assert FrameHeader.decode(header.encode()) == header


def test_a_frame_without_headers_comes_from_outside() -> None:
    assert FrameHeader.decode(None) == FrameHeader.decode({}) == FrameHeader("", 0, 0, 1)
    assert FrameHeader.decode({"Other": "x"}) == FrameHeader()


@pytest.mark.parametrize("name", ["St-No", "St-Prev", "St-V"])
@pytest.mark.parametrize("text", ["x", "", "-1", "1.5", "\u0663", "99999999999999999999"])
def test_a_header_that_is_no_number_a_record_can_hold_is_a_decode_error(name: str, text: str) -> None:
    with pytest.raises(DecodeError, match=r"^frame headers: "):
        FrameHeader.decode({name: text})


JSONLIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["ct", "s", "tp", "r", "tr", "c", "p", "nb", "dl", "h", "at", "ch", "rp"]), JSONLIKE
    )
)
def test_whatever_is_read_can_be_written_again(parts: dict[str, Any]) -> None:
    try:
        envelope = Envelope.from_map({"i": "i", "t": "T", "b": b"", "a": ["a", "k"], **parts})
    except DecodeError:
        return
    (again,) = open_frame(frame_body([envelope.pack()]))
    assert Envelope.from_map(again) == envelope


@pytest.mark.parametrize("order", [("i", "t", "b", "a", "tr", "s"), ("s", "a", "b", "tr", "t", "i")])
def test_an_envelope_reads_the_same_whatever_the_order_of_its_keys(order: tuple[str, ...]) -> None:
    value = {"i": "i", "t": "T", "b": b"x", "a": ["a", "k"], "tr": "00", "s": ["b", "l"]}
    assert Envelope.from_map({name: value[name] for name in order}) == Envelope(
        id="i", type="T", body=b"x", target=AgentId("a", "k"), trace="00", sender=AgentId("b", "l")
    )


def test_a_field_of_another_type_is_named_among_messages_with_the_same_keys() -> None:
    Envelope.from_map({"i": "i", "t": "T", "b": b"", "a": ["a", "k"], "c": 5})
    with pytest.raises(DecodeError, match="'c' is of type str, not int"):
        Envelope.from_map({"i": "i", "t": "T", "b": b"", "a": ["a", "k"], "c": "5"})


def test_the_shapes_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: dict[tuple[str, ...], Any] = {}
    monkeypatch.setattr(envelope_module, "_shapes", shapes)
    value = {"i": "i", "t": "T", "b": b"", "a": ["a", "k"], "tr": "", "c": 0, "p": 1}
    for order in permutations(value):
        Envelope.from_map({name: value[name] for name in order})
    assert 0 < len(shapes) <= 1024


def test_an_envelope_without_headers_gives_nobody_a_place_to_write_them_for_all_others() -> None:
    first = Envelope.from_map({"i": "i", "t": "T", "b": b"", "a": ["a", "k"]})
    with pytest.raises(TypeError):
        first.headers["x"] = "y"  # type: ignore[index]
    assert SMALLEST.headers == {}


def test_an_address_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="agent key"):
        known_agent("a", ["k"])  # type: ignore[arg-type]


def test_agents_seen_lately_are_known_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[tuple[str, str], AgentId] = {}
    monkeypatch.setattr(envelope_module, "_agents", known)
    assert known_agent("a", "k") is known_agent("a", "k")
    for number in range(KNOWN_AGENTS):
        known_agent("a", str(number))
    assert 0 < len(known) <= KNOWN_AGENTS
    assert known_agent("a", "k") == AgentId("a", "k")
