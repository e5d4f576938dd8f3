"""Dead letters: messages that were given up on, kept with their reason."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from starling.core.envelope import Envelope
from starling.core.record import Frame
from starling.errors import DecodeError


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up on. time: seconds since 1970; envelope: None when it could not be read."""

    reason: str
    text: str
    stack: str
    attempts: int
    time: float
    envelope: Envelope | None
    raw: bytes = b""

    def pack(self) -> bytes:
        value: dict[str, Any] = {
            "reason": self.reason,
            "text": self.text,
            "stack": self.stack,
            "attempts": self.attempts,
            "time": self.time,
            "envelope": self.envelope.pack() if self.envelope else b"",
            "raw": self.raw,
        }
        return msgpack.packb(value)  # type: ignore[no-any-return]

    @classmethod
    def unpack(cls, data: bytes) -> DeadLetter:
        """Raises DecodeError."""
        try:
            value: Mapping[str, Any] = msgpack.unpackb(data)
            packed = value["envelope"]
            envelope = Envelope.from_map(msgpack.unpackb(packed)) if packed else None
            return cls(
                value["reason"], value["text"], value["stack"], value["attempts"], value["time"], envelope, value["raw"]
            )
        except Exception as error:
            raise DecodeError(f"dead letter: {error!r}") from error


def dead_letter(envelope: Envelope, error: BaseException, *, attempts: int, now: float) -> tuple[str, bytes]:
    """Return message id and body of the dead letter for an envelope."""
    stack = "".join(traceback.format_exception(error))[-8192:]
    letter = DeadLetter(type(error).__name__, str(error), stack, attempts, now, envelope)
    return f"{envelope.id}-{envelope.target}-{attempts}", letter.pack()


def unreadable(raw: bytes, error: BaseException, *, where: str, now: float) -> tuple[str, bytes]:
    """Return message id and body of the dead letter for bytes that are no envelope. where: names their position."""
    letter = DeadLetter(type(error).__name__, str(error), "", 0, now, None, raw)
    return f"unreadable-{where}", letter.pack()


def undeliverable(frame: Frame, *, source: str, now: float) -> tuple[str, bytes]:
    """Return message id and body of the dead letter for a frame whose target has no mailbox."""
    target = frame.target
    text = f"pool {target.pool} (incarnation {target.incarnation}) has had no mailbox {target.shard} for too long"
    letter = DeadLetter("NoSuchPool", text, "", 0, now, None, frame.body)
    return f"undeliverable-{source}-{target.pool}-{target.incarnation}-{target.shard}-{frame.number}", letter.pack()
