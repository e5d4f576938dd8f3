"""What one record answers to one client comes in one message, each answer to its own caller."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
import starling.testing
from starling import Agent, AgentId, rpc
from starling.ports.store import Signal

from .meshes import shards


@dataclass(frozen=True, slots=True)
class TogetherAsk:
    number: int


@dataclass
class TogetherSum:
    total: int = 0


class TogetherTeller(Agent[TogetherSum], type="together_teller"):
    @rpc
    async def ask(self, message: TogetherAsk) -> int:
        if message.number == 3:
            raise ValueError("three")
        self.state.total += message.number
        return self.state.total


async def test_the_answers_of_one_record_come_in_one_message_each_to_its_own_caller() -> None:
    async with starling.testing.mesh(TogetherTeller, shards=1) as mesh:
        (shard,) = shards(mesh)
        heard: list[Signal] = []
        listening = await mesh._store.listen("st.*.r.>", heard.append)
        async with asyncio.timeout(30):
            async with shard._committer.no_record():
                calls = [
                    asyncio.ensure_future(mesh.call(AgentId("together_teller", f"k{n}"), TogetherAsk(n)))
                    for n in range(20)
                ]
                while len(shard._turns.outcomes) < 20:
                    await asyncio.sleep(0)
            answers = await asyncio.gather(*calls, return_exceptions=True)
        await listening.close()
    assert [answer for answer in answers if isinstance(answer, int)] == [n for n in range(20) if n != 3]
    assert "three" in str(answers[3])
    assert len(heard) == 1


async def test_bytes_that_are_no_replies_are_a_warning_and_the_next_reply_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with starling.testing.mesh(TogetherTeller, shards=1) as mesh, asyncio.timeout(30):
        heard: list[Signal] = []
        listening = await mesh._store.listen("st.*.r.>", heard.append)
        assert await mesh.call(AgentId("together_teller", "k1"), TogetherAsk(1)) == 1
        client = heard[0].subject.rpartition(".")[0]
        await mesh._store.signal(f"{client}.many", b"\xc1")
        assert await mesh.call(AgentId("together_teller", "k1"), TogetherAsk(2)) == 3
        assert "cannot be read" in caplog.text
        await listening.close()
