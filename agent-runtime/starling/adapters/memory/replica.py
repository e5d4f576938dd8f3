"""Copies of a stream that lag: what a direct read may see when another replica answers it."""

from __future__ import annotations

from typing import NamedTuple

from starling.adapters.memory.contents import Contents
from starling.ports.store import Message

FOLLOWERS = 2


class Removed(NamedTuple):
    """Messages of a subject with a smaller sequence went. time: when, as a message's."""

    subject: str
    below: int
    time: float


class TakenOut(NamedTuple):
    """One message went."""

    sequence: int


class Replicas:
    """Followers that apply the stream's changes in order, each as far as the weather lets it.

    changes: everything that ever happened to the stream, for those who check a run afterwards.
    """

    def __init__(self) -> None:
        self.changes: list[Message | Removed | TakenOut] = []
        self._followers = [(Contents(), 0) for _ in range(FOLLOWERS)]

    def view(self, follower: int, behind: int) -> Contents:
        """Return a follower after it has caught up to at most `behind` changes; it never goes back."""
        contents, applied = self._followers[follower]
        until = max(applied, len(self.changes) - behind)
        for change in self.changes[applied:until]:
            match change:
                case Message():
                    contents.add(change)
                case Removed(subject, below, _):
                    contents.remove(subject, below)
                case TakenOut(sequence):
                    contents.take_out(sequence)
        self._followers[follower] = contents, until
        return contents
