"""What an error is: by its class and its status code only."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel
from starling.core.error_record import ErrorRecord
from starling.core.ids import AgentId
from starling.core.routes import Routes
from starling.core.severity import Category, Severity, severity_of, verdict
from starling.errors import (
    DoNotRetry,
    HandlerFailed,
    JournalLost,
    MailboxFull,
    MemoryFailed,
    ModelFailed,
    NetworkFailed,
    SpecError,
    SystemFailed,
)
from starling.messages import encode


class Temperature(BaseModel):
    degrees: float


def wrong_field() -> None:
    Temperature.model_validate_json('{"degrees": "warm"}')


def unregistered() -> None:
    encode(socket.socket)


def nobody_there() -> None:
    Routes().target(AgentId("ghost", "1"))


def plain_bug() -> None:
    empty: dict[str, int] = {}
    empty["no"] += 1


def too_slow() -> None:
    async def wait() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    asyncio.run(wait())


def closed_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def endless() -> None:
    def again(n: int) -> int:
        return again(n + 1) + 1

    again(0)


def missing_file() -> None:
    Path("/there/is/no/such/file").read_bytes()


def model(status: int | None) -> Callable[[], None]:
    def call() -> None:
        raise ModelFailed("the model did not answer", status=status)

    return call


def memory() -> None:
    raise MemoryFailed("the vector store refused")


def disk() -> None:
    raise SystemFailed("the disk is full")


RAISED = {
    "a field of the wrong type": (wrong_field, Category.VALIDATION, Severity.LOW),
    "a class that is no message": (unregistered, Category.VALIDATION, Severity.LOW),
    "an agent type that no pool runs": (nobody_there, Category.ROUTING, Severity.MEDIUM),
    "a bug in a handler": (plain_bug, Category.PROCESSING, Severity.HIGH),
    "a wait past its time": (too_slow, Category.TIMEOUT, Severity.MEDIUM),
    "a port where nobody listens": (closed_port, Category.NETWORK, Severity.MEDIUM),
    "a model that fails": (model(None), Category.MODEL, Severity.HIGH),
    "a model that is busy": (model(429), Category.MODEL, Severity.MEDIUM),
    "a model that does not know us": (model(401), Category.MODEL, Severity.CRITICAL),
    "a model that refuses the request": (model(400), Category.MODEL, Severity.HIGH),
    "an agent's memory that fails": (memory, Category.MEMORY, Severity.HIGH),
    "a recursion without end": (endless, Category.SYSTEM, Severity.CRITICAL),
    "a disk without room": (disk, Category.SYSTEM, Severity.CRITICAL),
    "a file that is not there": (missing_file, Category.SYSTEM, Severity.HIGH),
}


@pytest.mark.row("RT-63")
@pytest.mark.parametrize(("cause", "category", "severity"), RAISED.values(), ids=RAISED.keys())
def test_raising_what_causes_it_reaches_each_category(
    cause: Callable[[], None], category: Category, severity: Severity
) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the class differs from row to row
        cause()
    assert verdict(raised.value) == (category, severity)


@pytest.mark.row("RT-63")
@pytest.mark.parametrize(
    ("severity", "level"),
    [
        (Severity.LOW, logging.INFO),
        (Severity.MEDIUM, logging.WARNING),
        (Severity.HIGH, logging.ERROR),
        (Severity.CRITICAL, logging.CRITICAL),
    ],
)
def test_each_severity_has_its_log_level(severity: Severity, level: int) -> None:
    assert severity.level == level


@pytest.mark.row("RT-63")
@pytest.mark.parametrize(
    "text", ["rapid", "capital", "timeout", "rate limit 429", "network model memory", "网络超时，内存不足", "критично"]
)
def test_words_in_the_text_change_nothing(text: str) -> None:
    assert verdict(RuntimeError(text)) == verdict(RuntimeError(""))
    assert verdict(DoNotRetry(text)) == verdict(DoNotRetry(""))
    assert verdict(NetworkFailed(text)) == verdict(NetworkFailed(""))


class Answer:
    def __init__(self, status: object) -> None:
        self.status_code = status


class ServiceError(Exception):
    def __init__(self, status: object) -> None:
        super().__init__("the service said no")
        self.response = Answer(status)


@pytest.mark.parametrize(
    ("status", "category", "severity"),
    [
        (400, Category.VALIDATION, Severity.LOW),
        (401, Category.SYSTEM, Severity.CRITICAL),
        (404, Category.ROUTING, Severity.MEDIUM),
        (408, Category.TIMEOUT, Severity.MEDIUM),
        (429, Category.NETWORK, Severity.MEDIUM),
        (500, Category.NETWORK, Severity.HIGH),
        (504, Category.TIMEOUT, Severity.MEDIUM),
        (200, Category.PROCESSING, Severity.HIGH),
        (7, Category.PROCESSING, Severity.HIGH),
        (True, Category.PROCESSING, Severity.HIGH),
        ("503", Category.PROCESSING, Severity.HIGH),
    ],
)
def test_the_status_code_of_a_foreign_error_decides(status: object, category: Category, severity: Severity) -> None:
    assert verdict(ServiceError(status)) == (category, severity)


def test_errors_of_the_mesh_are_sorted_as_well() -> None:
    assert severity_of(MailboxFull("full")) is Severity.MEDIUM
    assert severity_of(JournalLost("gone")) is Severity.CRITICAL
    assert severity_of(HandlerFailed("ValueError", "boom")) is Severity.HIGH


def test_the_worst_severity_has_rank_0() -> None:
    assert sorted(Severity, key=lambda severity: severity.rank) == [
        Severity.CRITICAL,
        Severity.HIGH,
        Severity.MEDIUM,
        Severity.LOW,
    ]


def test_an_error_from_another_pod_is_as_severe_as_it_was_there() -> None:
    failed = HandlerFailed("Odd", "x")
    failed.record = ErrorRecord(type="Odd", category=Category.MODEL, severity=Severity.LOW, message="x", time=1.0)
    assert verdict(failed) == (Category.MODEL, Severity.LOW)


def test_a_status_says_nothing_about_an_error_whose_class_says_it_all() -> None:
    error = SpecError("spec.shards", "is 0")
    before = verdict(error)
    error.status = 503  # type: ignore[attr-defined]
    assert verdict(error) == before
