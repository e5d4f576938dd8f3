"""Addresses: what is an agent, what is a topic, and how any text becomes one subject token."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core import limits
from starling.core.ids import (
    AgentId,
    ShardId,
    TopicId,
    check_agent_type,
    check_key,
    message_id,
    shard_of,
    token,
    untoken,
)
from starling.errors import SpecError

# Surrogates are no text: they have no UTF-8 form.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = TEXT.filter(lambda text: 0 < len(text.encode()) <= limits.MAX_KEY_BYTES)
TYPES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}(\.[A-Za-z0-9_-]{1,4})?", fullmatch=True)

HARD_KEYS = ["a.b", "*", ">", "a b", "a/b", "=2E", "%41", "é", "🛫", "\x00", "\n", "x" * limits.MAX_KEY_BYTES]


@pytest.mark.row("RT-8")
@given(TYPES, KEYS)
def test_the_text_form_of_an_agent_parses_back_to_an_equal_id(agent_type: str, key: str) -> None:
    agent = AgentId(agent_type, key)
    parsed = AgentId.parse(str(agent))
    assert parsed == agent
    assert hash(parsed) == hash(agent)


@pytest.mark.row("RT-8")
@pytest.mark.parametrize("key", ["a/b", "/", "é/ü", "Zürich", "🛫"])
def test_a_key_may_hold_slashes_and_any_letters(key: str) -> None:
    assert AgentId.parse(f"airport/{key}") == AgentId("airport", key)


@pytest.mark.row("RT-8")
@pytest.mark.parametrize("agent_type", ["a", "_a", "a.b", "a-b", "a_b", "A1.b2-c", "x" * limits.MAX_AGENT_TYPE])
def test_an_agent_type_of_letters_digits_and_inner_dots_is_accepted(agent_type: str) -> None:
    assert check_agent_type(agent_type) == agent_type


@pytest.mark.row("RT-8")
@pytest.mark.parametrize(
    "agent_type", ["", "a b", "1a", "-a", ".a", "a.", "a..b", "é", "a/b", "a*", "x" * (limits.MAX_AGENT_TYPE + 1)]
)
def test_any_other_agent_type_is_refused_by_name_with_what_would_be_right(agent_type: str) -> None:
    with pytest.raises(SpecError, match=r"^agent type: .*must start with a letter") as refused:
        AgentId(agent_type, "k")
    assert repr(agent_type) in str(refused.value)


def test_a_text_without_a_slash_is_no_agent() -> None:
    with pytest.raises(SpecError, match=r"^agent: 'airport' is not of the form type/key"):
        AgentId.parse("airport")


@pytest.mark.row("RT-9", part="length")
def test_a_key_has_between_one_and_256_bytes() -> None:
    assert check_key("x" * limits.MAX_KEY_BYTES) == "x" * limits.MAX_KEY_BYTES
    assert check_key("é" * (limits.MAX_KEY_BYTES // 2))
    for wrong, size_bytes in (("", 0), ("x" * 257, 257), ("é" * 129, 258)):
        with pytest.raises(SpecError, match=rf"^agent key: must have 1 to 256 bytes, this one has {size_bytes}$"):
            AgentId("a", wrong)


@pytest.mark.row("RT-36")
def test_a_topic_is_a_value_whose_source_may_be_any_text() -> None:
    topic = TopicId("user.login:v=1-a_b", "any > text * at all / é")
    assert topic == TopicId("user.login:v=1-a_b", "any > text * at all / é")
    assert hash(topic) == hash(TopicId("user.login:v=1-a_b", "any > text * at all / é"))
    assert topic != TopicId("user.login:v=1-a_b", "another")
    assert str(topic) == "user.login:v=1-a_b/any > text * at all / é"
    assert TopicId("t", "").source == ""


@pytest.mark.row("RT-36")
@pytest.mark.parametrize("kind", ["", "a b", "a/b", "a*", "a>", "a\n"])
def test_a_topic_type_of_other_characters_is_refused(kind: str) -> None:
    with pytest.raises(SpecError, match=r"^topic type: "):
        TopicId(kind, "s")


@given(TEXT)
def test_a_token_is_one_plain_subject_token_and_reads_back(text: str) -> None:
    made = token(text)
    assert re.fullmatch(r"[A-Za-z0-9_=-]*", made)
    assert untoken(made) == text


@pytest.mark.row("RT-9", part="one subject each")
@given(TEXT, TEXT)
def test_different_texts_never_share_a_token(one: str, other: str) -> None:
    assert (token(one) == token(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "made"),
    [("plain-Text_9", "plain-Text_9"), ("a.b", "a=2Eb"), ("=2E", "=3D2E"), ("é", "=C3=A9"), ("", "")],
)
def test_every_byte_but_letters_digits_and_two_marks_is_written_in_hex(text: str, made: str) -> None:
    assert token(text) == made


def test_hard_keys_stay_apart() -> None:
    assert len({token(key) for key in HARD_KEYS}) == len(HARD_KEYS)


@given(TYPES, KEYS, st.integers(1, limits.MAX_SHARDS))
def test_a_shard_is_always_within_the_pool(agent_type: str, key: str, shards: int) -> None:
    assert ShardId(0) <= shard_of(agent_type, key, shards) < shards


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**76 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**76 - 1))
def test_message_ids_are_uuids_of_version_7_and_sort_by_their_time(a: int, x: int, b: int, y: int) -> None:
    one, other = message_id(a, x), message_id(b, y)
    made = uuid.UUID(one)
    assert (made.version, made.variant, made.int >> 80, str(made)) == (7, uuid.RFC_4122, a, one)
    unused = 3 << 62
    assert (one == other) == ((a, x | unused) == (b, y | unused))
    if a != b:
        assert (one < other) == (a < b)


@pytest.mark.parametrize("key", [5, None, "\ud800"])
def test_a_key_that_is_no_text_is_refused_by_name(key: Any) -> None:
    with pytest.raises(SpecError, match=r"agent key: .* is no text that UTF-8 can hold; give a str"):
        AgentId("counter", key)


def test_a_type_that_is_no_text_is_refused_by_name() -> None:
    wrong: Any = 5
    with pytest.raises(SpecError, match="agent type: 5 must start with"):
        AgentId(wrong, "k")
