"""Copies of a stream that lag: what a direct read may see when another replica answers it."""

from __future__ import annotations

from collections.abc import Callable

from starling.adapters.memory.contents import Contents
from starling.ports.store import Message

FOLLOWERS = 2

_Change = Callable[[Contents], object]


class Replicas:
    """Followers that apply the stream's changes in order, each as far as the weather lets it."""

    def __init__(self, leader: Contents) -> None:
        self.leader = leader
        self._changes: list[_Change] = []
        self._followers = [(Contents(), 0) for _ in range(FOLLOWERS)]

    def added(self, message: Message) -> None:
        self._changes.append(lambda contents: contents.add(message))

    def removed(self, subject: str, below: int) -> None:
        self._changes.append(lambda contents: contents.remove(subject, below))

    def taken_out(self, sequence: int) -> None:
        self._changes.append(lambda contents: contents.take_out(sequence))

    def view(self, follower: int, behind: int) -> Contents:
        """Return a follower after it has caught up to at most `behind` changes; it never goes back."""
        contents, applied = self._followers[follower]
        until = max(applied, len(self._changes) - behind)
        for change in self._changes[applied:until]:
            change(contents)
        self._followers[follower] = contents, until
        return contents
