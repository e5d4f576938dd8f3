"""What kind of error it is and how much it matters: by its class and its status code, never by its text."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Final, NamedTuple

from pydantic import ValidationError

from starling.errors import (
    AgentConstructionError,
    CallTimeout,
    DoNotRetry,
    Fenced,
    HandlerFailed,
    JournalLost,
    MemoryFailed,
    MessageError,
    ModelFailed,
    OutsideFailed,
    RetryLater,
    RouteError,
    SpecError,
    StateUnreadable,
    SystemFailed,
)


class Severity(StrEnum):
    """How much an error matters, worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)

    @property
    def level(self) -> int:
        """The level to log it at."""
        return _LEVELS[self]


_LEVELS: Final = {
    Severity.LOW: logging.INFO,
    Severity.MEDIUM: logging.WARNING,
    Severity.HIGH: logging.ERROR,
    Severity.CRITICAL: logging.CRITICAL,
}


class Category(StrEnum):
    """Where an error comes from."""

    VALIDATION = "validation"
    ROUTING = "routing"
    PROCESSING = "processing"
    TIMEOUT = "timeout"
    NETWORK = "network"
    MODEL = "model"
    MEMORY = "memory"
    SYSTEM = "system"


class Verdict(NamedTuple):
    """What an error is."""

    category: Category
    severity: Severity


_BY_CLASS: Final[tuple[tuple[tuple[type[BaseException], ...], Verdict], ...]] = (
    (
        (JournalLost, SystemFailed, MemoryError, SystemError, RecursionError),
        Verdict(Category.SYSTEM, Severity.CRITICAL),
    ),
    ((Fenced,), Verdict(Category.SYSTEM, Severity.MEDIUM)),
    ((ModelFailed,), Verdict(Category.MODEL, Severity.HIGH)),
    ((MemoryFailed,), Verdict(Category.MEMORY, Severity.HIGH)),
    ((CallTimeout, TimeoutError), Verdict(Category.TIMEOUT, Severity.MEDIUM)),
    ((DoNotRetry,), Verdict(Category.PROCESSING, Severity.LOW)),
    ((HandlerFailed, AgentConstructionError), Verdict(Category.PROCESSING, Severity.HIGH)),
    ((MessageError, SpecError, ValidationError), Verdict(Category.VALIDATION, Severity.LOW)),
    ((RouteError,), Verdict(Category.ROUTING, Severity.MEDIUM)),
    ((RetryLater, OutsideFailed, ConnectionError), Verdict(Category.NETWORK, Severity.MEDIUM)),
    ((OSError, StateUnreadable), Verdict(Category.SYSTEM, Severity.HIGH)),
)
"""The first row with a class of the error's decides; an error of no row is `_UNFORESEEN`."""

_UNFORESEEN: Final = Verdict(Category.PROCESSING, Severity.HIGH)

_WELL_KNOWN: Final = {
    401: Verdict(Category.SYSTEM, Severity.CRITICAL),
    403: Verdict(Category.SYSTEM, Severity.CRITICAL),
    404: Verdict(Category.ROUTING, Severity.MEDIUM),
    408: Verdict(Category.TIMEOUT, Severity.MEDIUM),
    429: Verdict(Category.NETWORK, Severity.MEDIUM),
    502: Verdict(Category.NETWORK, Severity.MEDIUM),
    503: Verdict(Category.NETWORK, Severity.MEDIUM),
    504: Verdict(Category.TIMEOUT, Severity.MEDIUM),
}


def verdict(error: BaseException) -> Verdict:
    """Return category and severity of an error.

    A status code (`status`, `status_code`, or that of its `response`) decides where the class says nothing more exact;
    of a model's or a memory's error it decides the severity only. A HandlerFailed is as severe as the original.
    """
    if isinstance(error, HandlerFailed) and error.record is not None:
        return Verdict(Category(error.record.category), Severity(error.record.severity))
    by_class = next((found for classes, found in _BY_CLASS if isinstance(error, classes)), None)
    by_status = _of_status(status_of(error))
    if by_status is None:
        return by_class or _UNFORESEEN
    if by_class is not None and not isinstance(error, (OutsideFailed, OSError)):
        return by_class
    if isinstance(error, (ModelFailed, MemoryFailed, SystemFailed)) and by_class is not None:
        return Verdict(
            by_class.category, by_status.severity if by_status.severity is not Severity.LOW else Severity.HIGH
        )
    return by_status


def severity_of(error: BaseException) -> Severity:
    """How much the error matters."""
    return verdict(error).severity


def status_of(error: BaseException) -> int | None:
    """Return the status code that an error carries, as clients of HTTP services have it; None without one."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code"):
            code = getattr(holder, name, None)
            if isinstance(code, int) and not isinstance(code, bool) and 100 <= code <= 599:
                return code
    return None


def _of_status(status: int | None) -> Verdict | None:
    if status is None or status < 400:
        return None
    if status in _WELL_KNOWN:
        return _WELL_KNOWN[status]
    return Verdict(Category.VALIDATION, Severity.LOW) if status < 500 else Verdict(Category.NETWORK, Severity.HIGH)
