"""The store itself: streams, and who listens to core messages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextvars import copy_context

from starling.adapters.memory.store import MemoryStore
from starling.adapters.memory.stream import MemoryStream
from starling.adapters.memory.subjects import is_filter, matches, overlaps
from starling.adapters.memory.weather import Weather
from starling.errors import SpecError, UnknownPool
from starling.ports.store import Answer, Expect, Headers, Refused, Signal, StreamSpec

log = logging.getLogger(__name__)


class Listening:
    """One subscription of one connection."""

    def __init__(
        self, server: MemoryServer, client: MemoryStore, pattern: str, heard: Callable[[Signal], None]
    ) -> None:
        self._server = server
        self.client = client
        self.pattern = pattern
        self._heard = heard
        self._closed = False
        self.context = copy_context()

    def hear(self, signal: Signal) -> None:
        """Pass a message on; the listener's own mistakes are logged, as nobody else could answer for them."""
        if self._closed or self.client.connected_since is None:
            return
        try:
            self._heard(signal)
        except Exception:
            log.exception("listener failed", extra={"subject": signal.subject})

    async def close(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Hear nothing any more; idempotent."""
        if not self._closed:
            self._closed = True
            self._server.unlisten(self)


class MemoryServer:
    """A message store in this process, with JetStream's semantics; `connect` gives connections to it.

    wall: seconds since 1970, for the time of messages; ages run by the loop's clock. weather: faults, for
    simulations; a server without any is the fast one.
    """

    def __init__(self, *, wall: Callable[[], float] = time.time, weather: Weather | None = None) -> None:
        self.weather = weather
        self._wall = wall
        self.context = copy_context()
        """What happens here runs in it, not in that of a client."""
        self.streams: dict[str, MemoryStream] = {}
        self._stream_of: dict[str, MemoryStream] = {}
        self._exact: dict[str, list[Listening]] = {}
        self._under: dict[str, list[Listening]] = {}
        """Those of a pattern like "a.b.*", by what is before the star: every caller has one for its replies."""
        self._patterns: list[Listening] = []
        self._inboxes = 0

    def connect(self, name: str) -> MemoryStore:
        """Return a new connection; call it while a loop runs."""
        return MemoryStore(self, name, asyncio.get_running_loop())

    # -- streams

    def stream(self, name: str) -> MemoryStream:
        """Return a stream by name. Raises UnknownPool."""
        try:
            return self.streams[name]
        except KeyError:
            raise UnknownPool(f"there is no stream {name}") from None

    def ensure(self, spec: StreamSpec) -> bool:
        """Create or update a stream; True when it is new. Raises SpecError when its subjects are another stream's, or
        when it is there in another kind of storage."""
        self._check_subjects(spec)
        self._stream_of.clear()
        existing = self.streams.get(spec.name)
        if existing is not None:
            if existing.spec.storage != spec.storage:
                raise SpecError(f"stream {spec.name}", "its storage can not be changed")
            existing.update(spec)
            return False
        lagging = self.weather is not None
        self.streams[spec.name] = MemoryStream(spec, wall=self._wall, context=self.context, lagging=lagging)
        return True

    def _check_subjects(self, spec: StreamSpec) -> None:
        for name, stream in self.streams.items():
            if name == spec.name:
                continue
            for theirs in stream.spec.subjects:
                if any(overlaps(theirs, ours) for ours in spec.subjects):
                    raise SpecError(f"stream {spec.name}", f"its subjects overlap with {theirs} of stream {name}")

    def delete(self, name: str) -> None:
        """Delete a stream; nothing happens when there is none."""
        stream = self.streams.pop(name, None)
        if stream is not None:
            self._stream_of.clear()
            stream.delete()

    def store(self, subject: str, data: bytes, headers: Headers | None, expect: Expect | None) -> Answer:
        """Store a message in the stream of its subject."""
        stream = self._stream_of.get(subject)
        if stream is None:
            stream = next((stream for stream in self.streams.values() if stream.takes(subject)), None)
            if stream is None:
                return Refused("no-stream", f"no stream takes {subject}")
            self._stream_of[subject] = stream
        return stream.store(subject, data, headers, expect)

    # -- core messages

    def listen(self, client: MemoryStore, pattern: str, heard: Callable[[Signal], None]) -> Listening:
        """Add a listener."""
        listening = Listening(self, client, pattern, heard)
        self._row(pattern).append(listening)
        return listening

    def _row(self, pattern: str) -> list[Listening]:
        if not is_filter(pattern):
            return self._exact.setdefault(pattern, [])
        under = pattern.removesuffix(".*")
        return self._patterns if is_filter(under) else self._under.setdefault(under, [])

    def unlisten(self, listening: Listening) -> None:
        """Remove a listener that is there."""
        pattern = listening.pattern
        self._row(pattern).remove(listening)
        for rows, key in ((self._exact, pattern), (self._under, pattern.removesuffix(".*"))):
            if key in rows and not rows[key]:
                del rows[key]

    def listeners(self, subject: str) -> Iterable[Listening]:
        """Those who would hear a message now."""
        rows = (*self._exact.get(subject, ()), *self._under.get(subject.rpartition(".")[0], ()))
        found = [one for one in rows if one.client.connected_since is not None]
        return found + [
            one for one in self._patterns if one.client.connected_since is not None and matches(one.pattern, subject)
        ]

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses."""
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"
