"""Committed frames on their way: per target in order, pipelined, go-back-N.

A frame is confirmed when it was stored at a position greater than that of the frame before it in the same
attempt. The order in which answers arrive proves nothing. After a failure the attempt is over: whatever
still answers for it is ignored, and sending starts again at the first unconfirmed frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from starling.core.record import DEAD, Frame, FrameRef, Target


class Sending:
    """One frame in the outbox, with where it stands in the journal."""

    __slots__ = ("frame", "ref")

    def __init__(self, frame: Frame, ref: FrameRef) -> None:
        self.frame = frame
        self.ref = ref


class Chain:
    """The unconfirmed frames to one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.frames: deque[Sending] = deque()
        # a dead letter that the stream has already is answered with its old position, and order means nothing there
        self._ordered = target.lane != DEAD
        self.attempt = 0
        self.cautious = False
        """After a refusal: one frame at a time until one is stored."""
        self._sent = 0
        self._answers: dict[int, int] = {}
        self._last_position = 0

    def to_send(self) -> Sending | None:
        """Return the next frame of this attempt; None when all are sent, or one is enough for now."""
        if self._sent >= len(self.frames) or (self.cautious and self._sent):
            return None
        return self.frames[self._sent]

    def sent(self) -> None:
        """Note that `to_send` was handed over."""
        self._sent += 1

    def stored(self, attempt: int, number: int, position: int) -> list[Sending]:
        """Note an answer; return the frames that it confirms, in order. May end the attempt."""
        if attempt != self.attempt:
            return []
        self._answers[number] = position
        confirmed: list[Sending] = []
        while self.frames and (found := self._answers.pop(self.frames[0].frame.number, None)) is not None:
            if found <= self._last_position and self._ordered:
                self.failed(attempt)
                break
            self._last_position = found
            confirmed.append(self.frames.popleft())
            self._sent -= 1
            self.cautious = False
        return confirmed

    def failed(self, attempt: int, *, refused: bool = False) -> bool:
        """Note that a frame of this attempt was not stored, or nobody knows; True when that ended the attempt."""
        if attempt != self.attempt:
            return False
        self.attempt += 1
        self._sent = 0
        self._answers.clear()
        self._last_position = 0
        self.cautious = self.cautious or refused
        return True


class Outbox:
    """All unconfirmed frames of a shard, and what was confirmed since the last commit."""

    def __init__(self) -> None:
        self.chains: dict[Target, Chain] = {}
        self.size_bytes = 0
        self.frames = 0
        self.confirmed: dict[Target, int] = {}

    def add(self, frame: Frame, ref: FrameRef) -> Chain:
        """Queue a committed frame behind those to the same target."""
        chain = self.chains.get(frame.target)
        if chain is None:
            chain = self.chains[frame.target] = Chain(frame.target)
        chain.frames.append(Sending(frame, ref))
        self.size_bytes += len(frame.body)
        self.frames += 1
        return chain

    def stored(self, chain: Chain, attempt: int, number: int, position: int) -> None:
        """Note that a frame is in its target's mailbox."""
        for sending in chain.stored(attempt, number, position):
            self._gone(sending)

    def drop(self, chain: Chain) -> list[Frame]:
        """Give up on a target: its frames count as confirmed and come back, to become dead letters."""
        frames = [sending.frame for sending in chain.frames]
        for sending in chain.frames:
            self._gone(sending)
        chain.frames.clear()
        chain.failed(chain.attempt)
        return frames

    def _gone(self, sending: Sending) -> None:
        frame = sending.frame
        self.confirmed[frame.target] = frame.number
        self.size_bytes -= len(frame.body)
        self.frames -= 1

    def refs(self) -> Iterator[FrameRef]:
        """References to all unconfirmed frames, in order per target."""
        for chain in self.chains.values():
            for sending in chain.frames:
                yield sending.ref

    def oldest_record(self) -> int | None:
        """Sequence of the oldest record that still has an unconfirmed frame."""
        return min((chain.frames[0].ref.sequence for chain in self.chains.values() if chain.frames), default=None)
