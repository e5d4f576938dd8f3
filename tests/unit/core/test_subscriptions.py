"""Who hears a topic: by its type, by how the type starts, by a pattern; with a key from the source or a fixed one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling import LocalRuntime
from starling.core.ids import AgentId, TopicId
from starling.core.subscriptions import Match, SubscriptionRoute, Subscriptions, is_topic_pattern
from starling.errors import SpecError
from starling.topics import exact, pattern, prefix, subscriptions_of

ROWS = (
    exact("user.login", "greeter"),
    prefix("user.", "audit"),
    prefix("user.", "desk", key="front"),
    pattern("*.*.failed", "alarm"),
    pattern("user.>", "log", key="all"),
    prefix("user.", "greeter"),
)
WORDS = st.lists(st.sampled_from(["a", "b", "ab", "*"]), min_size=1, max_size=4).map(".".join)
TYPES = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4).map(".".join)


def heard(topic: str, source: str = "ann") -> list[str]:
    return [str(agent) for agent in Subscriptions(ROWS).hearers(TopicId(topic, source))]


@pytest.mark.row("RT-34", part="the table: exact, by prefix, by pattern; key from the source or fixed")
@pytest.mark.row("RT-35", part="exact and prefix match one agent, which is there once")
@pytest.mark.parametrize(
    ("topic", "agents"),
    [
        ("user.login", ["greeter/ann", "audit/ann", "desk/front", "log/all"]),
        ("user.logout", ["audit/ann", "desk/front", "log/all", "greeter/ann"]),
        ("user.login.failed", ["audit/ann", "desk/front", "alarm/ann", "log/all", "greeter/ann"]),
        ("shop.order.failed", ["alarm/ann"]),
        ("user.", ["audit/ann", "desk/front", "greeter/ann"]),
        ("user", []),
        ("users.login", []),
        ("shop.failed", []),
    ],
)
def test_a_topic_is_heard_by_those_that_it_matches_in_the_order_of_the_table(topic: str, agents: list[str]) -> None:
    assert heard(topic) == agents


@pytest.mark.row("RT-35", part="a fixed key that is the topic's source")
def test_a_fixed_agent_that_is_also_the_one_of_the_source_hears_it_once() -> None:
    rows = Subscriptions((exact("t", "desk"), prefix("t", "desk", key="ann")))
    assert list(rows.hearers(TopicId("t", "ann"))) == [AgentId("desk", "ann")]
    assert list(rows.hearers(TopicId("t", "bob"))) == [AgentId("desk", "bob"), AgentId("desk", "ann")]


@given(st.lists(st.tuples(WORDS, st.sampled_from(list(Match))), max_size=6), TYPES)
def test_the_index_finds_what_comparing_one_by_one_finds(given_rows: list[tuple[str, Match]], topic: str) -> None:
    rows = [
        SubscriptionRoute(words if how is Match.PATTERN else words.replace("*", "a"), f"t{number}", how)
        for number, (words, how) in enumerate(given_rows)
    ]
    expected = [row.agent_type for row in rows if _matches(row, topic)]
    index = Subscriptions(rows)
    for _ in range(2):  # the second time from memory
        assert [agent.type for agent in index.hearers(TopicId(topic, "k"))] == expected


def _matches(row: SubscriptionRoute, topic: str) -> bool:
    if row.match is Match.PREFIX:
        return topic.startswith(row.topic)
    words, wanted = topic.split("."), row.topic.split(".")
    return len(words) == len(wanted) and all(w in ("*", word) for w, word in zip(wanted, words, strict=True))


@pytest.mark.parametrize("text", ["*", ">", "a.*", "a.>", "*.b.>", "größe.x:y=z-1"])
def test_patterns_are_words_and_wildcards(text: str) -> None:
    assert is_topic_pattern(text)


@pytest.mark.parametrize("text", ["", ".", "a.", "a*", ">.a", "a..b", "a b", "a.>>"])
def test_what_is_no_pattern_is_refused_by_name(text: str) -> None:
    with pytest.raises(SpecError, match=re.escape(repr(text))):
        pattern(text, "audit")


@pytest.mark.parametrize("wrong", [lambda: prefix("", "a"), lambda: exact("a.*", "a"), lambda: exact("a", "a", key="")])
def test_a_subscription_that_cannot_be_is_refused(wrong: object) -> None:
    with pytest.raises(SpecError):
        wrong()  # type: ignore[operator]


def test_a_runtime_names_the_match_that_it_does_not_know() -> None:
    with pytest.raises(SpecError, match="match: is 'regex'; give one of exact, prefix, pattern"):
        LocalRuntime().subscribe("t", "audit", match="regex")  # type: ignore[arg-type]


def test_a_list_takes_what_says_how_to_match_only() -> None:
    with pytest.raises(SpecError, match="subscriptions: 'paid' is none; give what exact, prefix and pattern return"):
        subscriptions_of(["paid"])  # type: ignore[list-item]


def test_no_subscriptions_are_no_rows() -> None:
    assert subscriptions_of(None) == subscriptions_of({}) == ()
