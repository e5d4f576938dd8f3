"""Replies that a shard has sent lately and can send again."""

from __future__ import annotations

from starling.core import limits
from starling.core.record import ReplyRecord
from starling.core.replies import address, gathered
from starling.core.sent_replies import SentReplies

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


def test_a_reply_that_travelled_alone_is_found_by_its_address() -> None:
    replies = sent((address(ONE, 1), b"one"), (address(OTHER, 1), b"other"), (address(ONE, 2), b"two"))
    assert replies.find(address(OTHER, 1)) == (address(OTHER, 1), b"other")
    assert replies.find(address(ONE, 3)) is None


def test_a_reply_among_many_comes_with_the_message_that_carried_it() -> None:
    first, second, foreign = many(ONE, 3, 4), many(ONE, 31, 32), many(OTHER, 3, 5)
    replies = sent(first, second, foreign)
    assert replies.find(address(ONE, 3)) == first
    assert replies.find(address(ONE, 32)) == second
    assert replies.find(address(OTHER, 5)) == foreign
    assert replies.find(address(ONE, 5)) is None


def test_only_the_newest_are_kept_within_the_bound() -> None:
    body = b"x" * 1000
    replies = sent(*((address(ONE, number), body) for number in range(3000)))
    kept = [number for number in range(3000) if replies.find(address(ONE, number)) is not None]
    assert kept == list(range(kept[0], 3000))
    assert limits.SENT_REPLIES - 2000 <= len(kept) * 1200 <= limits.SENT_REPLIES


def test_what_is_no_address_finds_nothing() -> None:
    replies = sent(many(ONE, 1, 2), (f"{ONE}.many", b"m7 is no list"))
    assert [replies.find(text) for text in ("", ".", ONE, "\ufffd", f"{ONE}.m7")] == [None] * 5
