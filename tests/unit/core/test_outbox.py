"""The outbox: in order per target, pipelined, and confirmed only by positions that grow within one attempt."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from starling.core.ids import PoolName, ShardId
from starling.core.names import Lane
from starling.core.outbox import Chain, Outbox
from starling.core.positions import accepts
from starling.core.record import DEAD, Frame, FrameRef, Source, Target

TARGET = Target(PoolName("p"), "inc", ShardId(1), "n")
OTHER = Target(PoolName("p"), "inc", ShardId(2), "n")
LETTERS = Target(PoolName("p"), "inc", ShardId(0), DEAD)


def outbox(count: int, target: Target = TARGET) -> tuple[Outbox, Chain]:
    made = Outbox()
    for number in range(1, count + 1):
        chain = made.add(Frame(target, number, number - 1, b"x" * number), FrameRef(10 + number, 0))
    return made, chain


def send_all(chain: Chain) -> list[int]:
    sent = []
    while (sending := chain.to_send()) is not None:
        sent.append(sending.frame.number)
        chain.sent()
    return sent


def test_all_frames_are_sent_in_order_without_waiting_for_answers() -> None:
    _, chain = outbox(3)
    assert send_all(chain) == [1, 2, 3]


def test_frames_are_confirmed_in_order_when_their_positions_grow() -> None:
    made, chain = outbox(3)
    send_all(chain)
    made.stored(chain, 0, 1, 100)
    assert (made.confirmed, made.frames, made.size_bytes) == ({TARGET: 1}, 2, 5)
    made.stored(chain, 0, 2, 105)
    made.stored(chain, 0, 3, 106)
    assert (made.confirmed, made.frames, made.size_bytes) == ({TARGET: 3}, 0, 0)
    assert made.oldest_record() is None


def test_answers_that_come_out_of_order_wait_for_the_ones_before() -> None:
    made, chain = outbox(3)
    send_all(chain)
    made.stored(chain, 0, 3, 102)
    made.stored(chain, 0, 2, 101)
    assert made.confirmed == {}
    made.stored(chain, 0, 1, 100)
    assert made.confirmed == {TARGET: 3}


def test_a_frame_stored_before_the_one_that_it_follows_is_sent_again() -> None:
    """All were acknowledged, yet the target ignored the later one: it came first."""
    made, chain = outbox(2)
    send_all(chain)
    made.stored(chain, 0, 1, 101)
    made.stored(chain, 0, 2, 100)
    assert made.confirmed == {TARGET: 1}
    assert chain.attempt == 1
    assert send_all(chain) == [2]
    made.stored(chain, 1, 2, 102)
    assert made.confirmed == {TARGET: 2}


def test_after_a_failure_sending_starts_again_at_the_first_unconfirmed_frame() -> None:
    made, chain = outbox(4)
    send_all(chain)
    made.stored(chain, 0, 1, 100)
    assert chain.failed(0)
    assert send_all(chain) == [2, 3, 4]


def test_answers_of_an_attempt_that_is_over_are_ignored() -> None:
    made, chain = outbox(2)
    send_all(chain)
    assert chain.failed(0)
    made.stored(chain, 0, 2, 100)
    made.stored(chain, 0, 1, 99)
    assert made.confirmed == {}
    assert not chain.failed(0)
    assert chain.attempt == 1


def test_after_a_refusal_one_frame_at_a_time_until_one_is_stored() -> None:
    made, chain = outbox(3)
    send_all(chain)
    assert chain.failed(0, refused=True)
    assert send_all(chain) == [1]
    made.stored(chain, 1, 1, 100)
    assert send_all(chain) == [2, 3]


def test_targets_do_not_wait_for_each_other() -> None:
    made, chain = outbox(2)
    other = made.add(Frame(OTHER, 1, 0, b"y"), FrameRef(20, 0))
    send_all(chain)
    send_all(other)
    chain.failed(0)
    made.stored(other, 0, 1, 5)
    assert made.confirmed == {OTHER: 1}
    assert [ref.sequence for ref in made.refs()] == [11, 12]
    assert made.oldest_record() == 11


def test_a_dead_letter_that_the_stream_has_already_is_confirmed_by_its_old_position() -> None:
    made, chain = outbox(2, LETTERS)
    send_all(chain)
    made.stored(chain, 0, 1, 50)
    made.stored(chain, 0, 2, 7)
    assert made.confirmed == {LETTERS: 2}


def test_what_is_given_up_comes_back_and_counts_as_confirmed() -> None:
    made, chain = outbox(3)
    send_all(chain)
    made.stored(chain, 0, 1, 100)
    assert [frame.number for frame in made.drop(chain)] == [2, 3]
    assert (made.confirmed, made.frames, made.size_bytes) == ({TARGET: 3}, 0, 0)
    made.stored(chain, 0, 2, 101)
    assert chain.to_send() is None


SOURCE = Source("inc.0", Lane.NORMAL)


STEPS = st.tuples(st.sampled_from([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4, 5]), st.integers(0, 9))


@settings(max_examples=400)
@given(st.integers(1, 5), st.lists(STEPS, max_size=40))
def test_whatever_is_late_lost_or_overtaken_the_target_accepts_all_frames_in_order(
    count: int, steps: list[tuple[int, int]]
) -> None:
    """Go-back-N and acceptance together: confirmed implies accepted, and once all is confirmed all is accepted."""
    made, chain = outbox(count)
    log: list[int] = []
    under_way: list[tuple[int, int]] = []  # attempt, number: handed to the network, stored or not as it likes
    unheard: list[tuple[int, int, int]] = []  # attempt, number, position: stored, the answer has not arrived

    def accepted() -> list[int]:
        seen: dict[Source, int] = {}
        counting = []
        for number in log:
            if accepts(seen, SOURCE, number - 1):
                seen[SOURCE] = number
                counting.append(number)
        return counting

    def step(what: int, which: int) -> None:
        if what == 0 and (sending := chain.to_send()) is not None:
            under_way.append((chain.attempt, sending.frame.number))
            chain.sent()
        elif what == 1 and under_way:  # stored, in any order, also long after its attempt
            attempt, number = under_way.pop(which % len(under_way))
            log.append(number)
            unheard.append((attempt, number, len(log)))
        elif what == 2 and unheard:
            made.stored(chain, *unheard.pop(which % len(unheard)))
        elif what == 3:  # some answer says that it is unknown
            chain.failed(chain.attempt, refused=bool(which % 2))
        elif what == 4 and under_way:  # lost
            under_way.pop(which % len(under_way))
        elif what == 5:  # a whole attempt, of which the last are stored first
            while chain.to_send() is not None:
                step(0, 0)
            while under_way:
                step(1, len(under_way) - 1 if which % 2 else 0)
            while unheard:
                step(2, which)
        assert accepted()[: made.confirmed.get(TARGET, 0)] == list(range(1, made.confirmed.get(TARGET, 0) + 1))

    for what, which in steps:
        step(what, which)
    chain.failed(chain.attempt)
    while made.frames:
        step(0, 0)
        while under_way:
            step(1, 0)
        while unheard:
            step(2, 0)
    assert accepted() == list(range(1, count + 1))
