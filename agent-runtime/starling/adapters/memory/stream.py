"""One stream: what it takes and refuses, what expires, and who reads it. The rules are JetStream's."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Final

from starling.adapters.memory.contents import Contents, header_bytes, stored_bytes
from starling.adapters.memory.replica import Removed, Replicas, TakenOut
from starling.adapters.memory.subjects import matches
from starling.core.names import MESSAGE_ID, TTL
from starling.ports.store import Answer, Expect, Headers, Message, Refused, Stored, StreamInfo, StreamSpec

if TYPE_CHECKING:
    from starling.adapters.memory.reader import MemoryReader

MARKER_REASON: Final = "Nats-Marker-Reason"
_DEFAULT_DUPLICATE_WINDOW: Final = 120.0


class MemoryStream:
    """A stream and its readers. wall: seconds since 1970, for messages; ages run by the loop's clock."""

    def __init__(self, spec: StreamSpec, *, wall: Callable[[], float], context: Context, lagging: bool) -> None:
        self._wall = wall
        self._context = context
        self._loop = asyncio.get_running_loop()
        self.contents = Contents()
        self.contents.last_sequence = max(0, spec.first_sequence - 1)
        self.replicas = Replicas() if lagging else None
        self.readers: list[MemoryReader] = []
        self.deleted = False
        self._metadata = dict(spec.metadata)
        self._ids: dict[str, tuple[int, float]] = {}
        self._ages: deque[tuple[float, Message]] = deque()
        self._markers: deque[tuple[float, Message]] = deque()
        self._ttls: list[tuple[float, int, Message]] = []
        """Messages with a time to live of their own: when they end, sequence, message."""
        self._alarm: asyncio.TimerHandle | None = None
        self._set(spec)

    def _set(self, spec: StreamSpec) -> None:
        self.spec = spec
        window = spec.duplicate_window
        if window is None:
            window = min(_DEFAULT_DUPLICATE_WINDOW, spec.max_age or _DEFAULT_DUPLICATE_WINDOW)
        self._window = window

    def update(self, spec: StreamSpec) -> None:
        """Give it other limits; data and the metadata that it has stay."""
        self._metadata = dict(spec.metadata) | self._metadata
        self._set(spec)
        most = spec.max_messages_per_subject
        if most is not None:
            for subject, queue in list(self.contents.by_subject.items()):
                if len(queue) > most:
                    self._remove(subject, queue[len(queue) - most].sequence)
        if not spec.discard_new:
            self._make_room()

    # -- writing

    def store(self, subject: str, data: bytes, headers: Headers | None, expect: Expect | None) -> Answer:
        """Store a message, or say why not. A repeat is seen before a condition is looked at, as the server does."""
        message_id = headers.get(MESSAGE_ID) if headers else None
        if message_id is not None and (known := self._known(message_id)):
            return Stored(known, duplicate=True)
        if expect is not None and (conflict := self._conflict(subject, expect)):
            return conflict
        message = Message(subject, self.contents.last_sequence + 1, data, headers, self._wall())
        if refused := self._over_limit(message):
            return refused
        self._keep(message)
        if message_id is not None:
            self._ids[message_id] = message.sequence, self._loop.time() + self._window
        return Stored(message.sequence)

    def _known(self, message_id: str) -> int:
        now = self._loop.time()
        while self._ids:
            first = next(iter(self._ids))
            if self._ids[first][1] > now:
                break
            del self._ids[first]
        return self._ids.get(message_id, (0, 0.0))[0]

    def _conflict(self, subject: str, expect: Expect) -> Refused | None:
        last = self.contents.last(expect.subject or subject)
        sequence = 0 if last is None else last.sequence
        return None if sequence == expect.sequence else Refused("conflict", f"wrong last sequence: {sequence}")

    def _over_limit(self, message: Message) -> Refused | None:
        spec, contents = self.spec, self.contents
        most = spec.max_message_bytes
        if most is not None:
            size_bytes = len(message.data) + (0 if message.headers is None else header_bytes(message.headers))
            if size_bytes > most:
                return Refused("too-large", "message size exceeds maximum allowed")
        queue = contents.by_subject.get(message.subject)
        subject_full = spec.max_messages_per_subject is not None and len(queue or ()) >= spec.max_messages_per_subject
        if spec.discard_new_per_subject and subject_full:
            return Refused("full", "maximum messages per subject exceeded")
        # A message that takes the place of an older one of its subject adds nothing.
        if not (spec.discard_new or spec.discard_new_per_subject) or subject_full:
            return None
        if spec.max_messages is not None and contents.messages >= spec.max_messages:
            return Refused("full", "maximum messages exceeded")
        if spec.max_bytes is not None and contents.size_bytes + stored_bytes(message) > spec.max_bytes:
            return Refused("full", "maximum bytes exceeded")
        return None

    def _keep(self, message: Message) -> None:
        spec, contents = self.spec, self.contents
        contents.add(message)
        if self.replicas is not None:
            self.replicas.changes.append(message)
        most = spec.max_messages_per_subject
        if most is not None:
            queue = contents.by_subject[message.subject]
            if len(queue) > most:
                self._remove(message.subject, queue[1].sequence)
        if spec.max_messages is not None or spec.max_bytes is not None:
            self._make_room()
        if spec.max_age is not None and MARKER_REASON not in (message.headers or {}):
            self._ages.append((self._loop.time() + spec.max_age, message))
            self._set_alarm()
        elif spec.marker_ttl is not None and (ttl := _own_ttl(message)) is not None:
            ends = self._loop.time() + ttl
            heapq.heappush(self._ttls, (ends, message.sequence, message))
            self._set_alarm()
        for reader in self.readers:
            reader.offer(message)

    def _make_room(self) -> None:
        spec, contents = self.spec, self.contents
        while (spec.max_messages is not None and contents.messages > spec.max_messages) or (
            spec.max_bytes is not None and contents.size_bytes > spec.max_bytes
        ):
            oldest = contents.oldest()
            if oldest is None:
                return
            self._remove(oldest.subject, oldest.sequence + 1)

    def purge(self, pattern: str, below: int) -> None:
        """Remove the messages under a pattern with a smaller sequence."""
        for subject in self.contents.subjects(pattern):
            self._remove(subject, below)

    def take_out(self, sequence: int) -> bool:
        """Remove one message; False when it is not there."""
        if self.replicas is not None:
            self.replicas.changes.append(TakenOut(sequence))
        return self.contents.take_out(sequence)

    def _remove(self, subject: str, below: int) -> None:
        self.contents.remove(subject, below)
        if self.replicas is not None:
            self.replicas.changes.append(Removed(subject, below, self._wall()))

    # -- expiry

    def _set_alarm(self) -> None:
        if self._alarm is None or self._ttls:
            if self._alarm is not None:
                self._alarm.cancel()
            times = [entries[0][0] for entries in (self._ages, self._markers, self._ttls) if entries]
            if times:
                self._alarm = self._loop.call_at(min(times), self._expire, context=self._context)

    def _expire(self) -> None:
        self._alarm = None
        if self.deleted:
            return
        now = self._loop.time()
        while self._ages and self._ages[0][0] <= now:
            _, message = self._ages.popleft()
            self._expired(message, now)
        while self._ttls and self._ttls[0][0] <= now:
            self._expired(heapq.heappop(self._ttls)[2], now)
        while self._markers and self._markers[0][0] <= now:
            _, marker = self._markers.popleft()
            if self.contents.last(marker.subject) == marker:
                self._remove(marker.subject, marker.sequence + 1)
        self._set_alarm()

    def _expired(self, message: Message, now: float) -> None:
        """Remove it; where it was the last of its subject, a marker takes its place for a while."""
        if not self.contents.holds(message):
            return
        was_last = self.contents.last(message.subject) == message
        self._remove(message.subject, message.sequence + 1)
        if was_last and self.spec.marker_ttl is not None:
            headers = {MARKER_REASON: "MaxAge", "Nats-TTL": f"{self.spec.marker_ttl:g}s"}
            marker = Message(message.subject, self.contents.last_sequence + 1, b"", headers, self._wall())
            self._markers.append((now + self.spec.marker_ttl, marker))
            self._keep(marker)

    # -- the rest

    def takes(self, subject: str) -> bool:
        """Whether messages of a subject belong here."""
        return any(matches(pattern, subject) for pattern in self.spec.subjects)

    def delete(self) -> None:
        """End it: readers hear of it."""
        self.deleted = True
        if self._alarm is not None:
            self._alarm.cancel()
        for reader in self.readers:
            reader.wake()

    def info(self) -> StreamInfo:
        contents = self.contents
        oldest = contents.oldest()
        subjects: Mapping[str, int] = {subject: len(queue) for subject, queue in contents.by_subject.items()}
        first = contents.last_sequence + 1 if contents.last_sequence else 0
        return StreamInfo(
            name=self.spec.name,
            messages=contents.messages,
            size_bytes=contents.size_bytes,
            first_sequence=first if oldest is None else oldest.sequence,
            last_sequence=contents.last_sequence,
            subjects=subjects,
            metadata=dict(self._metadata),
            max_messages_per_subject=self.spec.max_messages_per_subject,
            max_messages=self.spec.max_messages,
            max_bytes=self.spec.max_bytes,
            discard_new=self.spec.discard_new or self.spec.discard_new_per_subject,
            duplicate_window=self._window,
            replicas=self.spec.replicas,
            compression=self.spec.compression,
            storage=self.spec.storage,
            time=self._wall(),
        )


def _own_ttl(message: Message) -> float | None:
    """The time to live that a message brings along, in seconds; a marker's is kept apart."""
    headers = message.headers
    if headers is None or TTL not in headers or MARKER_REASON in headers:
        return None
    return _seconds(headers[TTL])


def _seconds(text: str) -> float:
    """Read a time to live as the server takes it: a number of seconds, or with a unit."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    return float(text[:-1]) * unit if unit else float(text)
