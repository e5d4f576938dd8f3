"""What Starling needs of the message store: streams, last values, readers, core messages.

It is JetStream as we use it, no more. `adapters/nats` provides it over a real server, `adapters/memory`
in process with the same semantics; one contract suite holds for both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from starling.core.names import bucket_stream, bucket_subject

Headers = Mapping[str, str]

Compression = Literal["none", "s2"]
"""What the store does to messages that it writes to its files; readers see nothing of it."""
Storage = Literal["file", "memory"]
"""Where the store keeps messages, for the life of a stream."""


class Expect(NamedTuple):
    """Store only if the last message has this sequence; 0 means there is none.

    subject: "" looks at the last message of the subject published to (for a one-subject stream: of the
    stream); otherwise at the last message of that other subject of the same stream.
    """

    sequence: int
    subject: str = ""


class Stored(NamedTuple):
    """It is in the stream, at this sequence. duplicate: it was there already, by its message id."""

    sequence: int
    duplicate: bool = False


class Refused(NamedTuple):
    """It is not in the stream, and will not be by this request.

    "conflict": the condition did not hold; "full": a limit of the stream (messages a subject or bytes);
    "too-large": a message over the stream's size limit; "no-stream": no stream listens (stay sure by asking
    again: a server that starts says so too).
    """

    why: Literal["conflict", "full", "too-large", "no-stream"]
    text: str = ""


class Unknown(NamedTuple):
    """Nobody can say whether it was stored: no answer, a cut connection, a server that was in the middle."""

    text: str = ""


Answer = Stored | Refused | Unknown


class Message(NamedTuple):
    """A stored message, or one delivered by a reader. time: when it was stored, seconds since 1970."""

    subject: str
    sequence: int
    data: bytes
    headers: Headers | None
    time: float


class LastValues(NamedTuple):
    """Last messages by subject (those that exist), as one replica saw them.

    up_to: stream sequence that the replica had reached; None when it answered that none of them exists.
    """

    found: Mapping[str, Message]
    up_to: int | None


class Signal(NamedTuple):
    """A core message: heard by those who listen now, kept by nobody."""

    subject: str
    data: bytes
    reply: str


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream as we want it. Limits of None mean no limit; max_age and the others in seconds and bytes."""

    name: str
    subjects: tuple[str, ...]
    max_messages_per_subject: int | None = None
    max_bytes: int | None = None
    max_messages: int | None = None
    max_message_bytes: int | None = None
    max_age: float | None = None
    discard_new: bool = False
    discard_new_per_subject: bool = False
    duplicate_window: float | None = None
    marker_ttl: float | None = None
    """How long the marker stays that takes the place of an expired last value; None: no markers."""
    replicas: int = 1
    compression: Compression = "none"
    storage: Storage = "file"
    direct: bool = True
    metadata: tuple[tuple[str, str], ...] = ()
    first_sequence: int = 1
    """Of a stream that is made anew; nothing to one that is there."""


@dataclass(frozen=True, slots=True)
class BucketSpec:
    """A stream for last values, one message a key (a KV bucket), as we want it.

    ttl: keys expire so many seconds after their last write, and readers of the stream then get a message with the
    marker header, which stays for `marker_ttl` seconds. None: they do not.
    """

    bucket: str
    ttl: float | None = None
    marker_ttl: float | None = None
    replicas: int = 1
    compression: Compression = "none"
    storage: Storage = "file"

    def stream(self) -> StreamSpec:
        """Return the stream behind it."""
        return StreamSpec(
            name=bucket_stream(self.bucket),
            subjects=(bucket_subject(self.bucket, ">"),),
            max_messages_per_subject=1,
            max_age=self.ttl,
            discard_new=True,
            marker_ttl=self.marker_ttl,
            replicas=self.replicas,
            compression=self.compression,
            storage=self.storage,
        )


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a stream holds, and its limits (None: no limit). subjects: messages by subject; metadata as written."""

    name: str
    messages: int
    size_bytes: int
    first_sequence: int
    last_sequence: int
    subjects: Mapping[str, int]
    metadata: Mapping[str, str]
    max_messages_per_subject: int | None
    max_messages: int | None = None
    max_bytes: int | None = None
    discard_new: bool = False
    duplicate_window: float = 0.0
    """Seconds in which a repeated message id counts once."""
    replicas: int = 1
    compression: Compression = "none"
    storage: Storage = "file"
    time: float = 0.0
    """The store's clock when it answered, seconds since 1970."""


class Reader(Protocol):
    """Reads the messages of one subject filter in order, without acknowledgements.

    It is made anew from its position by itself after a gap or a reconnect; every message comes once
    and in the order of the stream.
    """

    async def read(self, messages: int, size_bytes: int) -> Sequence[Message]:
        """Wait for at least one message and return what has come, at most about `messages` and `size_bytes`.

        The numbers are the caller's free room: what the store may have under way never exceeds it.
        Not to be called by two tasks at once. Cancelling loses nothing. Empty only after `hand_over`, when the room is
        used up by what was handed over meanwhile.
        """
        ...

    def hand_over(self, accept: Callable[[Message], bool]) -> None:
        """Offer each message to `accept` first, where it arrives, while `read` waits for it.

        True: it is taken, and does not come by `read`. `accept` must neither wait nor raise.
        """
        ...

    @property
    def pending(self) -> int:
        """Messages in the stream that this reader has not delivered yet, as last heard."""
        ...

    @property
    def caught_up(self) -> bool:
        """Whether everything that was in the stream at the opening has been delivered."""
        ...

    async def close(self) -> None:
        """Stop; idempotent."""
        ...


class Subscription(Protocol):
    """Hears core messages until closed."""

    async def close(self) -> None: ...


class Store(Protocol):
    """One connection to the message store. Errors: Unreachable when it is away, within its own time limits."""

    # Streams
    async def publish(
        self, subject: str, data: bytes, headers: Headers | None = None, expect: Expect | None = None
    ) -> Awaitable[Answer]:
        """Hand a message over; the awaitable that comes back answers whether it was stored.

        Messages handed over one after the other arrive in that order on a connection that holds. The
        awaitable always ends: with Unknown after the store's time limit. While the connection is away
        nothing is sent and Unreachable is raised at once.
        """
        ...

    async def last(self, stream: str, subject: str) -> Message | None:
        """Return the last message of a subject, None when there is none.

        It may come from a replica that lags. Raises Unreachable; UnknownPool when there is no such stream.
        """
        ...

    async def last_values(self, stream: str, subjects: Sequence[str]) -> LastValues:
        """Return the last messages of up to 1,024 subjects in one view of one replica."""
        ...

    async def page(self, stream: str, subject: str, first: int) -> Sequence[Message]:
        """Return the next messages of a subject from sequence `first` on, in order; empty at the end."""
        ...

    async def purge(self, stream: str, subject: str, below: int) -> None:
        """Remove the messages of a subject with a sequence smaller than `below`."""
        ...

    async def remove(self, stream: str, sequence: int) -> bool:
        """Remove one message; False when it is not there. Raises Unreachable; UnknownPool when there is no stream."""
        ...

    async def reader(self, stream: str, subject: str, after: int | None) -> Reader:
        """Open a reader for the messages after a sequence; None: the last value of each subject, then all new."""
        ...

    async def ensure_stream(self, spec: StreamSpec) -> bool:
        """Create the stream; True when it is new. An existing one gets the limits of `spec`, its data stays."""
        ...

    async def delete_stream(self, name: str) -> None:
        """Delete a stream with its data; nothing happens when there is none."""
        ...

    async def stream_info(self, name: str) -> StreamInfo | None:
        """Return what the stream holds, None when there is none."""
        ...

    async def ensure_bucket(self, spec: BucketSpec) -> None:
        """Make the bucket; an existing one gets the limits of `spec`, its data stays."""
        ...

    # Core messages
    async def signal(self, subject: str, data: bytes = b"", reply: str = "") -> None:
        """Send a core message, at most once; raises Unreachable while the connection is away."""
        ...

    def answer(self, subject: str, data: bytes) -> bool:
        """Send a core message to somebody who asked; False when it has to wait: then nothing was sent, `signal` waits.

        Answers to one asker may travel together. Raises Unreachable while the connection is away.
        """
        ...

    async def listen(self, subject: str, heard: Callable[[Signal], None]) -> Subscription:
        """Call `heard` for each core message; it must not block."""
        ...

    async def ask(self, subject: str, data: bytes, timeout: float) -> bytes | None:
        """Return the first answer to a core message; None at once when nobody listens.

        Raises Unreachable after `timeout` seconds without an answer.
        """
        ...

    @property
    def connected_since(self) -> float | None:
        """The loop's time at which the present connection was made; None while it is away."""
        ...

    async def close(self) -> None:
        """Close the connection; idempotent."""
        ...


def is_removal(message: Message) -> bool:
    """Whether a bucket's message says that its key was deleted or has expired."""
    headers = message.headers
    return headers is not None and ("KV-Operation" in headers or "Nats-Marker-Reason" in headers)
