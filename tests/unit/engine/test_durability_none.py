"""Agents that record nothing: answers at once, state in memory only, messages still delivered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from starling import Agent, AgentId, Context, event, message, query, rpc, testing
from starling.core.retry import RetryPolicy
from starling.errors import HandlerFailed

from tests.unit.engine.meshes import commits, in_memory, shards


@message("durability_none.Add")
@dataclass
class Add:
    n: int = 1


@message("durability_none.Ask")
@dataclass
class Ask:
    pass


@message("durability_none.Pass")
@dataclass
class Pass:
    n: int = 1


@dataclass
class Count:
    n: int = 0


class Fast(Agent[Count], durability="none"):
    @event
    async def add(self, message: Add) -> None:
        self.state.n += message.n
        if message.n == 13:
            raise ValueError("no")

    @rpc
    async def bump(self, message: Ask) -> int:
        self.state.n += 1
        return self.state.n

    @rpc
    async def pass_on(self, message: Pass, ctx: Context) -> int:
        self.state.n += 1
        ctx.send(AgentId("slow", "1"), Add(message.n))
        return self.state.n

    @query
    async def total(self, message: Ask) -> int:
        return self.state.n


class Slow(Agent[Count]):
    @event
    async def add(self, message: Add) -> None:
        self.state.n += message.n


FAST = AgentId("fast", "1")


@pytest.mark.row("RT-84", part="durability none")
async def test_the_answer_does_not_wait_for_a_commit_and_wakes_none() -> None:
    async with testing.mesh(Fast, shards=1) as mesh:
        (shard,) = shards(mesh)
        await mesh.idle()
        before = commits(mesh)
        async with shard._committer.no_record():  # no record is stored meanwhile
            assert [await mesh.agent(Fast, "1").bump(Ask(), timeout=5.0) for _ in range(20)] == list(range(1, 21))
            assert await mesh.agent(Fast, "1").total(Ask()) == 20
            assert commits(mesh) == before
        for _ in range(20):
            await mesh.agent(Fast, "1").bump(Ask())
        await mesh.idle()
        assert commits(mesh) < before + 10  # what was handled is noted once a second, and one turn came after the other
        assert not shard._overlay.entries


async def test_what_it_sends_goes_through_the_outbox() -> None:
    async with testing.mesh(Fast, Slow) as mesh:
        for n in range(5):
            await mesh.agent(Fast, "1").pass_on(Pass(n))
        await mesh.idle()
        assert (await mesh.state(Slow, "1")).n == 10
        await mesh.crash()
        await mesh.idle()
        assert (await mesh.state(Slow, "1")).n == 10


async def test_state_is_lost_with_the_instance_and_handled_messages_are_not_handled_again() -> None:
    async with testing.mesh(Fast) as mesh:
        await mesh.send(FAST, Add(5))
        await mesh.idle()
        assert await mesh.query(FAST, Ask()) == 5
        await mesh.crash()
        await mesh.idle()
        assert await mesh.query(FAST, Ask()) == 0
        await mesh.send(FAST, Add(2))
        await mesh.idle()
        assert await mesh.query(FAST, Ask()) == 2


async def test_a_failed_turn_rolls_back_and_ends_as_a_dead_letter() -> None:
    async with testing.mesh(Fast, retry=RetryPolicy(attempts=2, initial=0.01)) as mesh:
        await mesh.send(FAST, Add(5))
        await mesh.send(FAST, Add(13))
        await mesh.send(FAST, Add(1))
        await mesh.idle()
        assert await mesh.query(FAST, Ask()) == 6
        assert [letter.attempts for letter in await mesh.dead_letters()] == [2]
        with pytest.raises(HandlerFailed, match="ValueError"):
            await mesh.call(FAST, Add(13))


async def test_many_messages_do_not_fill_the_window_while_nothing_asks_for_a_commit() -> None:
    async with testing.mesh(Fast, shards=1) as mesh:
        await asyncio.gather(*(mesh.send(FAST, Add(1)) for _ in range(6000)))
        await mesh.idle()
        assert await mesh.query(FAST, Ask()) == 6000
        assert in_memory(mesh)["fast/1"].pending == 0
