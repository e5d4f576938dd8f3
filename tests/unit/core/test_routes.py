"""Routes: which pool and shard a message goes to, and who hears a topic."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core import routes as routes_module
from starling.core.ids import AgentId, PoolName, ShardId, TopicId, shard_of
from starling.core.priority import Priority
from starling.core.record import Target as Mailbox
from starling.core.retry import Backoff, RetryPolicy
from starling.core.routes import PoolRoute, Routes, Target
from starling.core.subscriptions import Match, SubscriptionRoute
from starling.errors import DecodeError, UnknownAgentType

AIRPORTS = PoolRoute(PoolName("airports"), 16, "inc1")
BOARDS = PoolRoute(PoolName("boards"), 4, "inc2")
ROUTES = Routes(
    {AIRPORTS.pool: AIRPORTS, BOARDS.pool: BOARDS},
    {"airport": AIRPORTS.pool, "weather": AIRPORTS.pool, "board": BOARDS.pool},
    (
        SubscriptionRoute("movement", "airport"),
        SubscriptionRoute("movement", "board"),
        SubscriptionRoute("movement", "airport"),
        SubscriptionRoute("gust", "weather"),
    ),
)
NAMES = st.from_regex(r"[a-z][a-z-]{0,6}", fullmatch=True)


def test_an_agent_is_found_in_the_pool_of_its_type_at_the_shard_of_its_key() -> None:
    agent = AgentId("board", "EWR")
    assert ROUTES.target(agent) == Target(agent, BOARDS, shard_of("board", "EWR", 4))


def test_the_lane_of_a_message_goes_by_its_priority_and_is_one_object_for_all_agents_of_a_shard() -> None:
    route = PoolRoute(PoolName("boards"), 1, "inc2")
    one, other = (Target(AgentId("board", key), route, ShardId(0)) for key in ("EWR", "JFK"))
    assert [mailbox.lane for mailbox in one.mailboxes] == ["n", "n", "u", "u"]
    assert one.mailboxes[Priority.HIGH] == Mailbox(PoolName("boards"), "inc2", ShardId(0), "u")
    assert one.mailboxes is other.mailboxes


def test_targets_that_are_remembered_are_bounded_and_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "_KNOWN_TARGETS", 10)
    routes = Routes(ROUTES.pools, ROUTES.agent_types)
    for number in [*range(25), *range(25)]:
        agent = AgentId("board", f"k{number}")
        assert routes.target(agent) == Target(agent, BOARDS, shard_of("board", f"k{number}", 4))
    assert len(routes._targets) <= 10
    assert routes == Routes(ROUTES.pools, ROUTES.agent_types)


@pytest.mark.row("RT-19", part="a look-up error that names the type")
def test_an_unknown_agent_type_is_a_look_up_error_that_names_it() -> None:
    with pytest.raises(UnknownAgentType, match="agent type 'train'") as raised:
        ROUTES.target(AgentId("train", "k"))
    assert isinstance(raised.value, LookupError)


def test_a_type_whose_pool_is_gone_is_unknown() -> None:
    with pytest.raises(UnknownAgentType):
        Routes({}, {"airport": AIRPORTS.pool}).target(AgentId("airport", "k"))


@pytest.mark.row("RT-35", part="two subscriptions, one target")
def test_a_topic_goes_once_to_each_agent_that_hears_it_with_the_source_as_key() -> None:
    targets = [target.agent for target in ROUTES.targets(TopicId("movement", "EWR"))]
    assert targets == [AgentId("airport", "EWR"), AgentId("board", "EWR")]


def test_a_topic_that_nobody_hears_has_no_targets() -> None:
    assert list(ROUTES.targets(TopicId("silence", "x"))) == []


@given(
    st.dictionaries(NAMES, st.tuples(st.integers(1, 1024), NAMES), min_size=1, max_size=3),
    st.dictionaries(NAMES, st.integers(0, 2), max_size=4),
    st.lists(st.tuples(NAMES, NAMES), max_size=4),
)
def test_routes_read_back_equal(
    pools: dict[str, tuple[int, str]], types: dict[str, int], subscriptions: list[tuple[str, str]]
) -> None:
    names = sorted(pools)
    routes = Routes(
        {PoolName(n): PoolRoute(PoolName(n), *pools[n]) for n in names},
        {kind: PoolName(names[index % len(names)]) for kind, index in types.items()},
        tuple(SubscriptionRoute(*row) for row in subscriptions),
    )
    read = Routes.decode(routes.encode())
    assert read == routes
    for topic, _ in subscriptions:
        known = [kind for wanted, kind in subscriptions if wanted == topic]
        if set(known) <= set(types):
            assert [t.agent.type for t in read.targets(TopicId(topic, "k"))] == list(dict.fromkeys(known))


def test_prefixes_patterns_and_fixed_keys_read_back_equal() -> None:
    rows = (
        SubscriptionRoute("user.", "airport", Match.PREFIX),
        SubscriptionRoute("user.*", "airport", Match.PATTERN, "all"),
    )
    read = Routes.decode(Routes(ROUTES.pools, ROUTES.agent_types, rows).encode())
    assert read.subscriptions == rows
    assert [t.agent for t in read.targets(TopicId("user.x", "k"))] == [
        AgentId("airport", "k"),
        AgentId("airport", "all"),
    ]


def test_a_delivery_policy_is_that_of_the_agent_types_first_subscription_that_has_one() -> None:
    own, other = RetryPolicy(2, Backoff.LINEAR, 0.5, 4.0, jitter=False), RetryPolicy(9)
    rows = (
        SubscriptionRoute("user.x", "airport"),
        SubscriptionRoute("user.x", "board", retry=other),
        SubscriptionRoute("user.", "airport", Match.PREFIX, retry=own),
        SubscriptionRoute("user.*", "airport", Match.PATTERN, retry=other),
    )
    read = Routes.decode(Routes(ROUTES.pools, ROUTES.agent_types, rows).encode())
    assert read.subscriptions == rows
    asked = [("user.x", "airport"), ("user.x", "board"), ("user.y", "airport"), ("user", "airport"), ("gust", "a")]
    assert [read.retry(TopicId(topic, "k"), kind) for topic, kind in asked] == [own, other, own, None, None]
    assert ROUTES.retry(TopicId("movement", "k"), "airport") is None


def test_a_table_of_older_code_says_exact_topics() -> None:
    old = b'{"pools": {}, "agentTypes": {}, "subscriptions": [{"topic": "t", "agentType": "a"}]}'
    assert Routes.decode(old).subscriptions == (SubscriptionRoute("t", "a"),)
    assert json.loads(Routes.decode(old).encode()) == json.loads(old)


def test_a_type_of_a_pool_that_is_not_there_is_left_out() -> None:
    assert Routes.decode(b'{"pools": {}, "agentTypes": {"a": "gone"}, "subscriptions": []}').agent_types == {}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"pools": {"p": {}}, "agentTypes": {}, "subscriptions": []}'])
def test_what_is_no_route_table_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^routes: "):
        Routes.decode(data)
