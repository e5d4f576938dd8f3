"""What a handler declares to answer is what it may answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import starling.testing
from starling import Agent, AgentId, message, rpc
from starling.errors import HandlerFailed


@message("declared.Ask")
@dataclass
class Question:
    right: bool


@dataclass
class DeclaredAnswer:
    text: str = "yes"


@dataclass
class OtherAnswer:
    text: str = "yes"


class Oracle(Agent[None]):
    @rpc
    async def ask(self, message: Question) -> DeclaredAnswer:
        return DeclaredAnswer() if message.right else OtherAnswer()  # type: ignore[return-value]


@pytest.mark.row("RT-62")
async def test_an_answer_of_an_undeclared_type_is_a_named_error_at_callee_and_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with starling.testing.mesh(Oracle) as mesh:
        assert await mesh.call(AgentId("oracle", "a"), Question(right=True)) == DeclaredAnswer()
        with caplog.at_level(logging.WARNING), pytest.raises(HandlerFailed) as failed:
            await mesh.call(AgentId("oracle", "a"), Question(right=False))
    assert failed.value.kind == "WrongResult"
    assert failed.value.text == "Oracle.ask declares DeclaredAnswer and returned OtherAnswer"
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert any(isinstance(error, HandlerFailed) and "OtherAnswer" in str(error) for error in errors)
