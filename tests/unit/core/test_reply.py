"""Replies: which errors keep their class over the wire, and what becomes of all others."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core.reference import Reference
from starling.core.reply import Reply, error_reply
from starling.errors import (
    CallCycle,
    CallFailed,
    CallTimeout,
    CantHandle,
    DecodeError,
    HandlerFailed,
    MailboxFull,
    MeshError,
    UnknownAgentType,
    UnregisteredType,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
REFERENCES = st.builds(
    Reference,
    pool=TEXT,
    name=TEXT,
    size_bytes=st.integers(0, 2**53),
    digest=st.binary(max_size=8),
    share=st.integers(1, 2**53),
)


@given(
    st.builds(
        Reply,
        call=TEXT,
        by=TEXT,
        body=st.binary(max_size=8),
        type=TEXT,
        error=TEXT,
        text=TEXT,
        epoch=st.integers(0, 2**53),
        record=st.binary(max_size=8),
        large=st.none() | REFERENCES,
    )
)
def test_a_reply_reads_back_equal(reply: Reply) -> None:
    assert Reply.unpack(reply.pack()) == reply


def test_a_result_raises_nothing() -> None:
    Reply("c", "a/k", b"1", "int").raise_error()


@pytest.mark.parametrize(
    "kind", [CallCycle, CallTimeout, CantHandle, DecodeError, MailboxFull, UnknownAgentType, UnregisteredType]
)
def test_errors_of_the_mesh_keep_class_and_text(kind: type[MeshError]) -> None:
    reply = Reply.unpack(error_reply("c", "a/k", kind("why")).pack())
    assert (reply.call, reply.by) == ("c", "a/k")
    with pytest.raises(kind, match=r"^why$") as raised:
        reply.raise_error()
    assert type(raised.value) is kind


@pytest.mark.row("RT-21", part="names class and text")
def test_an_error_of_a_handler_arrives_with_its_class_name_and_text() -> None:
    with pytest.raises(HandlerFailed) as raised:
        error_reply("c", "a/k", ValueError("x")).raise_error()
    assert (raised.value.kind, raised.value.text, str(raised.value)) == ("ValueError", "x", "ValueError: x")


def test_an_error_that_a_callee_got_from_its_own_callee_keeps_the_first_name() -> None:
    with pytest.raises(HandlerFailed) as raised:
        error_reply("c", "b/k", HandlerFailed("ValueError", "x")).raise_error()
    assert (raised.value.kind, raised.value.text) == ("ValueError", "x")


def test_a_failed_call_of_a_class_unknown_here_is_still_a_failed_call() -> None:
    class Odd(CallFailed):
        pass

    assert error_reply("c", "a/k", Odd("why")).error == "CallFailed"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", msgpack.packb({"i": 1})], ids=repr)
def test_bytes_that_are_no_reply_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^reply: "):
        Reply.unpack(data)
