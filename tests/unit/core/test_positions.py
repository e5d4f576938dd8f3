"""Floor, window and done: every message of a mailbox counts once, whoever owns the shard and wherever it stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core import limits
from starling.core.names import Lane
from starling.core.positions import Position, Positions, accepts
from starling.core.record import Done, Source

SOURCE = Source("inc.0", Lane.NORMAL)


def read(positions: Positions, *counts: int, first: int | None = None) -> list[Position]:
    """Let frames of so many messages arrive one after the other."""
    start = positions.last_read + 1 if first is None else first
    return [positions.arrive(start + n, count, None, 0)[0] for n, count in enumerate(counts)]


def test_the_floor_moves_over_finished_frames_only() -> None:
    positions = Positions(0, Done())
    one, two, three = read(positions, 1, 1, 1)
    two.finish(0)
    assert positions.advance() == 0
    assert positions.done() == Done(((2, 2),), {})
    one.finish(0)
    assert positions.advance() == 2
    assert positions.done() == Done()
    three.finish(0)
    assert (positions.advance(), positions.unfinished) == (3, 0)


def test_a_frame_is_finished_when_all_its_messages_are() -> None:
    positions = Positions(0, Done())
    (frame,) = read(positions, 3)
    frame.finish(2)
    frame.finish(0)
    assert positions.advance() == 0
    assert positions.done() == Done((), {1: (0, 2)})
    frame.finish(1)
    assert positions.advance() == 1


def test_a_frame_without_messages_is_finished_at_once() -> None:
    positions = Positions(4, Done())
    read(positions, 0)
    assert positions.advance() == 5


def test_finished_frames_side_by_side_are_one_range_although_other_inlets_lie_between() -> None:
    positions = Positions(0, Done())
    frames = [positions.arrive(sequence, 1, None, 0)[0] for sequence in (3, 5, 9, 12, 20)]
    for frame in (frames[1], frames[2], frames[4]):
        frame.finish(0)
    assert positions.done() == Done(((5, 9), (20, 20)), {})


def test_a_message_that_an_earlier_owner_finished_is_not_offered_again() -> None:
    positions = Positions(2, Done(((5, 9), (12, 12)), {4: (1,)}))
    already = {sequence: positions.arrive(sequence, 2, None, 0)[1] for sequence in range(3, 14)}
    assert {sequence for sequence, indices in already.items() if indices == {0, 1}} == {5, 6, 7, 8, 9, 12}
    assert already[4] == {1}
    assert {sequence for sequence, indices in already.items() if not indices} == {3, 10, 11, 13}


def test_what_an_earlier_owner_finished_is_carried_over_until_it_is_read_again() -> None:
    """The third owner would else handle it again."""
    left = Done(((5, 9),), {4: (1,), 11: (0,)})
    positions = Positions(2, left)
    assert positions.done() == left
    (three,) = read(positions, 1)
    three.finish(0)
    assert positions.advance() == 3
    assert positions.done() == left
    four, *_ = read(positions, 2, 2, 2)
    assert positions.advance() == 3
    assert positions.done() == Done(((5, 6), (7, 9)), {4: (1,), 11: (0,)})
    four.finish(0)
    assert positions.advance() == 6
    assert positions.done() == Done(((7, 9),), {11: (0,)})


def test_what_lies_at_or_below_the_floor_is_not_carried() -> None:
    assert Positions(9, Done(((5, 9), (3, 12)), {9: (0,), 10: (1,)})).done() == Done(((10, 12),), {10: (1,)})


def test_the_window_is_open_for_4096_positions_above_the_floor() -> None:
    positions = Positions(0, Done())
    frames = read(positions, *([1] * (limits.WINDOW - 1)))
    assert (positions.is_open, positions.room) == (True, 1)
    read(positions, 1)
    assert (positions.is_open, positions.room, positions.unfinished) == (False, 0, limits.WINDOW)
    frames[1].finish(0)
    positions.advance()
    assert (positions.is_open, positions.room) == (False, 0)
    frames[0].finish(0)
    positions.advance()
    assert (positions.is_open, positions.room) == (True, 2)


def test_a_position_above_the_floor_is_found_by_how_far_above_it_is() -> None:
    positions = Positions(4, Done())
    for sequence in (7, 9, 12):
        positions.arrive(sequence, 1, None, 0)
    assert [positions.position_at(depth) for depth in range(3)] == [7, 9, 12]


def test_acceptance_is_remembered_as_of_the_floor_not_of_what_was_read() -> None:
    positions = Positions(0, Done())
    first = positions.arrive(1, 1, SOURCE, 1)[0]
    second = positions.arrive(2, 1, SOURCE, 2)[0]
    second.finish(0)
    positions.advance()
    assert positions.passed == {}
    first.finish(0)
    positions.advance()
    assert positions.passed == {SOURCE: 2}


@pytest.mark.parametrize(
    ("seen", "previous", "counts"),
    [({}, 0, True), ({}, 1, False), ({SOURCE: 3}, 3, True), ({SOURCE: 3}, 2, False), ({SOURCE: 3}, 4, False)],
    ids=["first", "gap-at-start", "next", "repeat", "gap"],
)
def test_a_frame_counts_only_behind_the_last_one_accepted(seen: dict[Source, int], previous: int, counts: bool) -> None:
    assert accepts(seen, SOURCE, previous) is counts


def test_each_source_and_lane_has_a_chain_of_its_own() -> None:
    urgent, other = Source("inc.0", Lane.URGENT), Source("again.0", Lane.NORMAL)
    assert accepts({SOURCE: 57}, other, 0)
    assert accepts({SOURCE: 57}, urgent, 0)


# -- many owners, one after the other, over any log


class Stored(NamedTuple):
    """A frame in the log; a frame from outside has no source."""

    sequence: int
    source: Source | None
    number: int
    previous: int
    messages: int


@dataclass
class Committed:
    """What the last record says of the inlet, and what has taken effect."""

    floor: int = 0
    done: Done = field(default_factory=Done)
    seen: dict[Source, int] = field(default_factory=dict)
    handled: list[tuple[int, int]] = field(default_factory=list)


@st.composite
def logs(draw: st.DrawFn) -> list[Stored]:
    """Frames of two sources, with repeats, and frames that came before one that they follow; gaps in the sequences."""
    log: list[Stored] = []
    sequence = 0
    for _ in range(draw(st.integers(1, 12))):
        sequence += draw(st.integers(1, 3))
        source = draw(st.sampled_from([None, SOURCE, Source("inc.1", Lane.NORMAL)]))
        number = draw(st.integers(1, 4)) if source else 0
        # a number has one content for ever
        messages = (number * 7 + len(source.shard)) % 3 + 1 if source else draw(st.integers(0, 3))
        log.append(Stored(sequence, source, number, max(0, number - 1), messages))
    return log


def accepted(log: Sequence[Stored]) -> list[Stored]:
    """Which frames count, by the whole log alone."""
    seen: dict[Source, int] = {}
    counting: list[Stored] = []
    for frame in log:
        if frame.source is None:
            counting.append(frame)
        elif seen.get(frame.source, 0) == frame.previous:
            seen[frame.source] = frame.number
            counting.append(frame)
    return counting


def own(log: Sequence[Stored], committed: Committed, steps: Sequence[int], choose: st.DataObject | None) -> None:
    """One owner from its take to its death or, without choices, to the end of the log.

    steps: 0 reads the next frame, 1 finishes a message, 2 commits. What is finished after the last commit is lost.
    """
    positions = Positions(committed.floor, committed.done)
    seen = dict(committed.seen)
    waiting = [frame for frame in log if frame.sequence > committed.floor]
    open_turns: list[tuple[Position, int]] = []
    finished: list[tuple[Position, int]] = []

    def read_next() -> None:
        frame = waiting.pop(0)
        if frame.source is not None and not accepts(seen, frame.source, frame.previous):
            positions.arrive(frame.sequence, 0, None, 0)
            return
        if frame.source is not None:
            seen[frame.source] = frame.number
        position, already = positions.arrive(frame.sequence, frame.messages, frame.source, frame.number)
        open_turns.extend((position, index) for index in range(frame.messages) if index not in already)

    def commit() -> None:
        for position, index in finished:
            position.finish(index)
            committed.handled.append((position.sequence, index))
        finished.clear()
        committed.floor = positions.advance()
        committed.done = positions.done()
        committed.seen.update(positions.passed)

    for step in steps:
        if step == 0 and waiting:
            read_next()
        elif step == 1 and open_turns:
            at = choose.draw(st.integers(0, len(open_turns) - 1)) if choose else 0
            finished.append(open_turns.pop(at))
        elif step == 2:
            commit()
    if choose is None:
        while waiting:
            read_next()
        finished.extend(open_turns)
        commit()


@given(logs(), st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=4), st.data())
def test_over_any_log_and_any_owners_each_accepted_message_takes_effect_once(
    log: list[Stored], owners: list[list[int]], data: st.DataObject
) -> None:
    committed = Committed()
    for steps in owners:
        own(log, committed, steps, data)
    own(log, committed, (), None)
    counting = accepted(log)
    assert sorted(committed.handled) == [
        (frame.sequence, index) for frame in counting for index in range(frame.messages)
    ]
    assert committed.floor == log[-1].sequence
    assert committed.done == Done()
    assert committed.seen == {frame.source: frame.number for frame in counting if frame.source is not None}


def test_three_owners_do_not_handle_again_what_the_first_had_finished() -> None:
    """The shortest history that needs the carry-over: the second owner commits before it has read that far."""
    log = [Stored(1, None, 0, 0, 1), Stored(2, None, 0, 0, 2)]
    committed = Committed(0, Done((), {2: (1,)}), {}, [(2, 1)])
    second = Positions(committed.floor, committed.done)
    committed.floor, committed.done = second.advance(), second.done()
    own(log, committed, (), None)
    assert sorted(committed.handled) == [(1, 0), (2, 0), (2, 1)]
