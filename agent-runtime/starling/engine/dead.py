"""Dead letters: messages that were given up on, kept with their reason."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from starling.core.envelope import Envelope
from starling.core.record import Frame
from starling.core.severity import Severity, severity_of
from starling.errors import DecodeError
from starling.ports.store import StreamInfo

STACK_LIMIT: Final = 8192


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up on. time: seconds since 1970; reason: class name of the error.

    envelope: the message, with its id, headers and target; None when it could not be read, or was a whole frame
    that found no mailbox: `raw` holds the bytes then.
    """

    reason: str
    text: str
    stack: str
    attempts: int
    time: float
    envelope: Envelope | None
    raw: bytes = b""
    severity: Severity = Severity.HIGH

    def pack(self) -> bytes:
        value: dict[str, Any] = {
            "reason": self.reason,
            "text": self.text,
            "stack": self.stack,
            "attempts": self.attempts,
            "time": self.time,
            "envelope": self.envelope.pack() if self.envelope else b"",
            "raw": self.raw,
            "severity": self.severity.value,
        }
        return msgpack.packb(value)  # type: ignore[no-any-return]

    @classmethod
    def unpack(cls, data: bytes) -> DeadLetter:
        """Raises DecodeError."""
        try:
            value: Mapping[str, Any] = msgpack.unpackb(data)
            packed = value["envelope"]
            return cls(
                reason=value["reason"],
                text=value["text"],
                stack=value["stack"],
                attempts=value["attempts"],
                time=value["time"],
                envelope=Envelope.from_map(msgpack.unpackb(packed)) if packed else None,
                raw=value["raw"],
                severity=Severity(value.get("severity", Severity.HIGH)),
            )
        except Exception as error:
            raise DecodeError(f"dead letter: {error!r}") from error


def dead_letter(envelope: Envelope, error: BaseException, *, attempts: int, now: float) -> tuple[str, bytes]:
    """Return message id and body of the dead letter for an envelope."""
    stack = "".join(traceback.format_exception(error))[-STACK_LIMIT:]
    letter = DeadLetter(type(error).__name__, str(error), stack, attempts, now, envelope, severity=severity_of(error))
    # With the time: a message that was put back and failed again is another letter, not a repeat of the first.
    return f"{envelope.id}-{envelope.target}-{attempts}-{int(now * 1000)}", letter.pack()


def unreadable(raw: bytes, error: BaseException, *, where: str, now: float) -> tuple[str, bytes]:
    """Return message id and body of the dead letter for bytes that are no envelope. where: names their position."""
    letter = DeadLetter(type(error).__name__, str(error), "", 0, now, None, raw, Severity.MEDIUM)
    return f"unreadable-{where}", letter.pack()


def undeliverable(frame: Frame, *, source: str, now: float) -> tuple[str, bytes]:
    """Return message id and body of the dead letter for a frame whose target has no mailbox."""
    target = frame.target
    text = f"pool {target.pool} (incarnation {target.incarnation}) has had no mailbox {target.shard} for too long"
    letter = DeadLetter(NO_SUCH_POOL, text, "", 0, now, None, frame.body, Severity.HIGH)
    return f"undeliverable-{source}-{target.pool}-{target.incarnation}-{target.shard}-{frame.number}", letter.pack()


NO_SUCH_POOL: Final = "NoSuchPool"


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a dead-letter stream is. ratio: of the nearer limit, 0 to 1; at 1 the oldest letters go."""

    letters: int
    max_letters: int | None
    size_bytes: int
    max_bytes: int | None

    @property
    def ratio(self) -> float:
        by_count = self.letters / self.max_letters if self.max_letters else 0.0
        by_size = self.size_bytes / self.max_bytes if self.max_bytes else 0.0
        return max(by_count, by_size)


def fill_of(info: StreamInfo) -> Fill:
    """Return how full a dead-letter stream is."""
    return Fill(info.messages, info.max_messages, info.size_bytes, info.max_bytes)
