"""Replies that a shard has sent lately and can send again."""

from __future__ import annotations

import pytest
from starling.core import limits
from starling.core.record import ReplyRecord
from starling.core.replies import address, gathered
from starling.core.sent_replies import FEW, SentReplies

ONE, OTHER = "st.m.r.one", "st.m.r.other"


def sent(*messages: tuple[str, bytes]) -> SentReplies:
    made = SentReplies()
    for subject, body in messages:
        made.keep(subject, body)
    return made


def many(client: str, *numbers: int) -> tuple[str, bytes]:
    replies = [ReplyRecord(address(client, number), f"{client} {number}".encode()) for number in numbers]
    (message,) = gathered(replies)
    return message


def found(replies: SentReplies, *asked: str) -> dict[str, bytes]:
    return dict(replies.find(asked))


def test_a_reply_that_travelled_alone_is_found_by_its_address() -> None:
    replies = sent((address(ONE, 1), b"one"), (address(OTHER, 1), b"other"), (address(ONE, 2), b"two"))
    assert found(replies, address(OTHER, 1), address(ONE, 3)) == {address(OTHER, 1): b"other"}


def test_a_reply_among_many_is_found_without_the_others_that_travelled_with_it() -> None:
    replies = sent(many(ONE, 3, 4), many(ONE, 31, 32), many(OTHER, 3, 5))
    wanted = (address(ONE, 3), address(ONE, 32), address(OTHER, 5))
    assert found(replies, *wanted, address(ONE, 5)) == dict(
        zip(wanted, (b"%s 3" % ONE.encode(), b"%s 32" % ONE.encode(), b"%s 5" % OTHER.encode()), strict=True)
    )


@pytest.mark.parametrize("asked", [FEW, FEW + 1])
def test_few_and_many_who_ask_are_told_the_same(asked: int) -> None:
    replies = sent(*(many(ONE, number, number + 100) for number in range(100)))
    wanted = [address(ONE, number) for number in range(100 - asked // 2, 100 + asked - asked // 2)]
    assert found(replies, *wanted) == {at: f"{ONE} {at.rpartition('.m')[2]}".encode() for at in wanted}
    assert found(replies, *(f"{at}00" for at in wanted)) == {}


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("after", [0, 1])
def test_of_a_reply_that_was_sent_twice_the_newest_comes_once(before: int, after: int) -> None:
    """With others or alone, each time."""
    other = ReplyRecord(address(ONE, 2), b"other")
    sendings = [[ReplyRecord(address(ONE, 1), b"old"), *[other] * before]]
    sendings += [[ReplyRecord(address(ONE, 1), b"new"), *[other] * after]]
    replies = sent(*(message for sending in sendings for message in gathered(sending)))
    assert list(replies.find([address(ONE, 1)])) == [(address(ONE, 1), b"new")]


def test_only_the_newest_are_kept_within_the_bound() -> None:
    body = b"x" * 1000
    replies = sent(*((address(ONE, number), body) for number in range(3000)))
    kept = [number for number in range(3000) if found(replies, address(ONE, number))]
    assert kept == list(range(kept[0], 3000))
    assert limits.SENT_REPLIES - 2000 <= len(kept) * 1200 <= limits.SENT_REPLIES


def test_what_is_no_address_finds_nothing() -> None:
    replies = sent(many(ONE, 1, 2), (f"{ONE}.many", b"m7 is no list"))
    assert found(replies, "", ".", ONE, f"{ONE}.", f"{ONE}.m", f"{ONE}.many", "\ufffd", f"{ONE}.m7") == {}
