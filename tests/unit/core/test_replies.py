"""Replies of one record: those to one client in one message, if it takes many at once; none lost, none to another."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core import limits
from starling.core.record import ReplyRecord
from starling.core.replies import MANY, address, gathered, spread

CLIENTS = st.sampled_from(["st.m.r.a", "st.m.r.b"])
ADDRESSES = st.one_of(
    st.builds(address, CLIENTS, st.integers(1, 10_000)),
    st.builds("{}.{}".format, CLIENTS, st.integers(1, 10_000)),  # of a client that takes them one by one
)
BODIES = st.one_of(st.binary(max_size=20), st.integers(0, limits.MAX_BODY).map(bytes))


@given(st.lists(st.builds(ReplyRecord, ADDRESSES, BODIES), max_size=30, unique_by=lambda reply: reply.subject))
def test_each_reply_arrives_once_at_its_own_address(replies: list[ReplyRecord]) -> None:
    heard: list[ReplyRecord] = []
    for subject, body in gathered(replies):
        client, _, token = subject.rpartition(".")
        if token == MANY:
            heard.extend(ReplyRecord(f"{client}.{token}", data) for token, data in spread(body))
            assert len(body) <= 2 * limits.MAX_BODY
        else:
            heard.append(ReplyRecord(subject, body))
    assert sorted(heard) == sorted(replies)


def test_replies_to_one_client_are_one_message() -> None:
    replies = [ReplyRecord(address("st.m.r.a", number), b"answer") for number in range(100)]
    ((subject, _),) = gathered(replies)
    assert subject == "st.m.r.a.many"


def test_a_message_of_many_replies_goes_on_as_it_is() -> None:
    (one,) = gathered([ReplyRecord(address("st.m.r.a", number), b"answer") for number in range(2)])
    assert list(gathered([ReplyRecord(*one), ReplyRecord(*one)])) == [one, one]


def test_a_client_that_does_not_say_so_gets_its_replies_one_by_one() -> None:
    tokens = ("0", "1", "m", "mF3b8Qz1", "m1x", MANY)  # such as the libraries of NATS make for their inboxes
    replies = [ReplyRecord(f"st.m.r.a.{token}", b"answer") for token in tokens]
    assert list(gathered(replies)) == [(reply.subject, reply.body) for reply in replies]


def test_a_reply_alone_goes_to_its_own_address() -> None:
    one, other = ReplyRecord(address("st.m.r.a", 1), b"1"), ReplyRecord(address("st.m.r.b", 1), b"2")
    assert list(gathered([one])) == [tuple(one)]
    assert sorted(gathered([one, other])) == [tuple(one), tuple(other)]


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", msgpack.packb(7), msgpack.packb([["m1"]]), msgpack.packb([["m1", 1.5]])]
)
def test_what_is_no_message_of_replies_holds_none_and_is_a_warning(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert spread(data) == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
