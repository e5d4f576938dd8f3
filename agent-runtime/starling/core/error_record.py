"""An error as a record: what travels with a reply, a dead letter or a span, readable without the error's class."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, Final

import msgpack
from pydantic import BaseModel, ConfigDict, JsonValue

from starling.core.severity import Category, Severity, status_of, verdict
from starling.errors import DecodeError, HandlerFailed, SpecError

MAX_STACK: Final = 4096
MAX_TEXT: Final = 4096


class ErrorRecord(BaseModel):
    """One error. time: seconds since 1970; stack: its last 4 KiB; context: where it happened, names to values."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    category: Category
    severity: Severity
    message: str
    details: dict[str, JsonValue] = {}
    time: float
    stack: str = ""
    context: dict[str, str] = {}

    @classmethod
    def of(cls, error: BaseException, *, now: float, context: Mapping[str, str] | None = None) -> ErrorRecord:
        """Write an error down; one that came over the wire keeps what the other side wrote. now: seconds since 1970."""
        if isinstance(error, HandlerFailed) and error.record is not None:
            return error.record
        found = verdict(error)
        return cls(
            type=error.kind if isinstance(error, HandlerFailed) else type(error).__name__,
            category=found.category,
            severity=found.severity,
            message=(error.text if isinstance(error, HandlerFailed) else str(error))[:MAX_TEXT],
            details=_details(error),
            time=now,
            stack="".join(traceback.format_exception(error))[-MAX_STACK:],
            context=dict(context or {}),
        )

    def pack(self) -> bytes:
        """Return the msgpack map."""
        return msgpack.packb(self.model_dump(mode="json"))  # type: ignore[no-any-return]

    @classmethod
    def unpack(cls, data: bytes) -> ErrorRecord:
        """Raises DecodeError."""
        try:
            return cls.model_validate(msgpack.unpackb(data))
        except Exception as error:  # msgpack raises ValueErrors, its own errors and plain Exceptions
            raise DecodeError(f"error record: {error!r}") from error

    def attributes(self) -> dict[str, str | float]:
        """Return it flat, as a span's event takes it."""
        flat: dict[str, str | float] = {
            "exception.type": self.type,
            "exception.message": self.message,
            "exception.stacktrace": self.stack,
            "error.category": self.category.value,
            "error.severity": self.severity.value,
            "error.time": self.time,
        }
        flat.update({f"error.details.{name}": str(value) for name, value in self.details.items()})
        flat.update({f"error.context.{name}": value for name, value in self.context.items()})
        return flat


def _details(error: BaseException) -> dict[str, JsonValue]:
    details: dict[str, JsonValue] = {}
    status = status_of(error)
    if status is not None:
        details["status"] = status
    if isinstance(error, SpecError):
        details["field"] = error.field
    cause: Any = error.__cause__
    if cause is not None:
        details["cause"] = f"{type(cause).__name__}: {cause}"[:MAX_TEXT]
    return details
