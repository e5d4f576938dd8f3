"""What one copy of a stream holds. Messages of a subject go from its front, but for single ones taken out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from starling.adapters.memory.subjects import is_filter, matches
from starling.ports.store import Headers, Message

_FRAMING = 30
_HEADERS_START = 16
_PAGE_MESSAGES = 1024
_PAGE_BYTES = 4 << 20


class Contents:
    """The stored messages by subject, and how far the stream has come."""

    def __init__(self) -> None:
        self.by_subject: dict[str, deque[Message]] = {}
        self.last_sequence = 0
        self.messages = 0
        self.size_bytes = 0
        self.removals = 0
        """Counts removals, so that a reader knows when to look which of its messages are still there."""
        self._taken_out: set[int] = set()

    def add(self, message: Message) -> None:
        """Store the next message."""
        queue = self.by_subject.get(message.subject)
        if queue is None:
            queue = self.by_subject[message.subject] = deque()
        queue.append(message)
        self.last_sequence = message.sequence
        self.messages += 1
        self.size_bytes += stored_bytes(message)

    def remove(self, subject: str, below: int) -> None:
        """Remove the messages of a subject with a smaller sequence."""
        queue = self.by_subject.get(subject)
        if queue is None:
            return
        while queue and queue[0].sequence < below:
            self.size_bytes -= stored_bytes(queue.popleft())
            self.messages -= 1
            self.removals += 1
        if not queue:
            del self.by_subject[subject]

    def take_out(self, sequence: int) -> bool:
        """Remove one message; False when it is not there."""
        for subject, queue in self.by_subject.items():
            found = next((message for message in queue if message.sequence == sequence), None)
            if found is not None:
                queue.remove(found)
                self.size_bytes -= stored_bytes(found)
                self.messages -= 1
                self.removals += 1
                self._taken_out.add(sequence)
                if not queue:
                    del self.by_subject[subject]
                return True
        return False

    def holds(self, message: Message) -> bool:
        """Whether a message that was stored is still there."""
        queue = self.by_subject.get(message.subject)
        front = queue[0].sequence if queue else message.sequence + 1
        return front <= message.sequence and message.sequence not in self._taken_out

    def last(self, subject: str) -> Message | None:
        queue = self.by_subject.get(subject)
        return queue[-1] if queue else None

    def oldest(self) -> Message | None:
        """The message with the smallest sequence."""
        return min((queue[0] for queue in self.by_subject.values()), key=_sequence, default=None)

    def subjects(self, pattern: str) -> list[str]:
        """Subjects under a pattern that have messages."""
        if is_filter(pattern):
            return [subject for subject in self.by_subject if matches(pattern, subject)]
        return [pattern] if pattern in self.by_subject else []

    def after(self, pattern: str, sequence: int) -> Sequence[Message]:
        """Messages under a pattern with a larger sequence, in order."""
        subjects = self.subjects(pattern)
        found = [m for subject in subjects for m in _tail(self.by_subject[subject], sequence)]
        if len(subjects) > 1:
            found.sort(key=_sequence)
        return found

    def last_of_each(self, pattern: str) -> Sequence[Message]:
        """The last message of each subject under a pattern, in order of the stream."""
        return sorted((self.by_subject[subject][-1] for subject in self.subjects(pattern)), key=_sequence)

    def page(self, pattern: str, first: int) -> Sequence[Message]:
        """The next messages from a sequence on: at most 1,024 and about 4 MiB, but one at least."""
        page: list[Message] = []
        size_bytes = 0
        for message in islice(self.after(pattern, first - 1), _PAGE_MESSAGES):
            size_bytes += len(message.data)
            if page and size_bytes > _PAGE_BYTES:
                break
            page.append(message)
        return page


def stored_bytes(message: Message) -> int:
    """What a message counts towards a stream's limit, as the server's file store counts."""
    size_bytes = _FRAMING + len(message.subject) + len(message.data)
    return size_bytes if message.headers is None else size_bytes + 4 + header_bytes(message.headers)


def header_bytes(headers: Headers) -> int:
    """What headers take on the wire, at most."""
    size_bytes = _HEADERS_START
    for name, value in headers.items():
        size_bytes += len(name) + 4 + (len(value) if value.isascii() else 4 * len(value))
    return size_bytes


def _sequence(message: Message) -> int:
    return message.sequence


def _tail(queue: deque[Message], sequence: int) -> Iterator[Message]:
    if queue[0].sequence > sequence:
        yield from queue
        return
    tail = []
    for message in reversed(queue):
        if message.sequence <= sequence:
            break
        tail.append(message)
    yield from reversed(tail)
