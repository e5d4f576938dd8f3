"""Errors written down: readable on the other side, whatever classes it has."""

from __future__ import annotations

import subprocess
import sys

import pytest
from starling.core.error_record import MAX_STACK, ErrorRecord
from starling.core.reply import Reply, error_reply
from starling.core.severity import Category, Severity
from starling.errors import AgentConstructionError, CantHandle, DecodeError, HandlerFailed, ModelFailed, SpecError

NOW = 1_700_000_000.25


class Overdrawn(Exception):
    """A class that only this module knows."""


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_a_record_tells_type_severity_message_details_time_stack_and_context() -> None:
    record = ErrorRecord.of(raised(ModelFailed("busy", status=429)), now=NOW, context={"agent": "writer/1"})

    assert (record.type, record.category, record.severity) == ("ModelFailed", Category.MODEL, Severity.MEDIUM)
    assert record.message == "busy"
    assert record.details == {"status": 429}
    assert record.time == NOW
    assert "raise error" in record.stack
    assert record.context == {"agent": "writer/1"}


def test_details_name_the_field_and_the_cause() -> None:
    error = SpecError("spec.shards", "is 0")
    error.__cause__ = ValueError("not positive")
    assert ErrorRecord.of(error, now=NOW).details == {"field": "spec.shards", "cause": "ValueError: not positive"}


def test_a_long_stack_keeps_its_end() -> None:
    def deep(n: int) -> None:
        if n == 0:
            raise Overdrawn("at the bottom")
        deep(n - 1) if n % 2 else shallow(n - 1)

    def shallow(n: int) -> None:
        deep(n)

    with pytest.raises(Overdrawn) as caught:
        deep(200)
    record = ErrorRecord.of(caught.value, now=NOW)
    assert len(record.stack) <= MAX_STACK
    assert record.stack.endswith("Overdrawn: at the bottom\n")


@pytest.mark.row("RT-64", part="the wire")
def test_a_record_is_read_by_a_process_that_cannot_import_the_class() -> None:
    packed = error_reply(
        "m1", "bank/1", Overdrawn("42 short"), ErrorRecord.of(raised(Overdrawn("42 short")), now=NOW)
    ).pack()
    program = (
        "import sys\n"
        "from starling.core.reply import Reply\n"
        "from starling.errors import HandlerFailed\n"
        "try:\n"
        "    Reply.unpack(bytes.fromhex(sys.argv[1])).raise_error()\n"
        "except HandlerFailed as error:\n"
        "    record = error.record\n"
        "    print(error.kind, error.text, record.severity.value, record.time)\n"
        "    print('Overdrawn: 42 short' in record.stack)\n"
    )
    told = subprocess.run([sys.executable, "-c", program, packed.hex()], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["Overdrawn 42 short high 1700000000.25", "True"]


def test_a_record_that_came_over_the_wire_is_passed_on_as_it_is() -> None:
    first = ErrorRecord.of(raised(Overdrawn("42 short")), now=NOW, context={"agent": "bank/1"})
    with pytest.raises(HandlerFailed) as at_caller:
        Reply.unpack(error_reply("m1", "bank/1", Overdrawn("42 short"), first).pack()).raise_error()

    assert ErrorRecord.of(at_caller.value, now=NOW + 1) == first


def test_an_error_with_its_own_class_keeps_class_and_record() -> None:
    record = ErrorRecord.of(CantHandle("no handler"), now=NOW)
    with pytest.raises(CantHandle, match="no handler") as at_caller:
        Reply.unpack(error_reply("m1", "bank/1", CantHandle("no handler"), record).pack()).raise_error()
    assert at_caller.value.record == record


@pytest.mark.row("RT-49", part="the cause reaches the caller")
def test_a_factorys_error_arrives_with_its_cause() -> None:
    error = AgentConstructionError("bank/1: ValueError: no branch")
    error.__cause__ = ValueError("no branch")
    reply = error_reply("m1", "bank/1", error, ErrorRecord.of(error, now=NOW))
    with pytest.raises(AgentConstructionError) as at_caller:
        Reply.unpack(reply.pack()).raise_error()
    cause = at_caller.value.__cause__
    assert isinstance(cause, HandlerFailed)
    assert (cause.kind, cause.text) == ("ValueError", "no branch")


def test_a_reply_without_a_record_is_read_as_before() -> None:
    with pytest.raises(HandlerFailed) as at_caller:
        Reply.unpack(error_reply("m1", "bank/1", Overdrawn("x")).pack()).raise_error()
    assert at_caller.value.record is None


def test_bytes_that_are_no_record_are_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="error record"):
        ErrorRecord.unpack(b"\xc1")


def test_a_record_lies_flat_in_a_spans_event() -> None:
    record = ErrorRecord.of(ModelFailed("busy", status=429), now=NOW, context={"agent": "writer/1"})
    flat = record.attributes()
    assert flat["exception.type"] == "ModelFailed"
    assert flat["error.severity"] == "medium"
    assert flat["error.details.status"] == "429"
    assert flat["error.context.agent"] == "writer/1"
