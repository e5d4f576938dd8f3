"""Queries: what is committed, without the log."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from starling import Agent, AgentId, Cells, Context, cells, event, message, query, rpc, testing
from starling.errors import CallTimeout, CantHandle, HandlerFailed, ReadOnly, UnknownAgentType, Unreachable

from tests.unit.engine.meshes import commits, in_memory, shards


@message("queries.Add")
@dataclass
class Add:
    cents: int = 0


@message("queries.Ask")
@dataclass
class Ask:
    what: str = ""


@message("queries.Hold")
@dataclass
class Hold:
    pass


@dataclass
class Money:
    cents: int = 0
    lines: list[str] = field(default_factory=list)


GATES: dict[str, asyncio.Event] = {}


class Till(Agent[Money]):
    parts: Cells[Money] = cells(Money)

    @event
    async def add(self, message: Add) -> None:
        self.state.cents += message.cents

    @rpc
    async def hold(self, message: Hold) -> int:
        """Changes state, then waits in the middle of the turn."""
        self.state.cents += 1000
        GATES["in"].set()
        await GATES["out"].wait()
        return self.state.cents

    @query
    async def total(self, message: Ask, ctx: Context) -> int:
        match message.what:
            case "change":
                self.state.cents += 1
            case "change and fail":
                self.state.cents += 1
                raise ValueError("x")
            case "replace":
                self.state = Money(cents=5)
            case "cell":
                (await self.parts.get("a")).cents += 1
            case "send":
                ctx.send(self.id, Add(1))
            case "call":
                await ctx.call(self.id, Hold())
            case "sleep":
                await asyncio.sleep(30)
        return self.state.cents


class Plain(Agent[Money]):
    """Its query cannot wait, so that it runs on the agent itself."""

    @event
    async def add(self, message: Add) -> None:
        self.state.cents += message.cents

    @query
    async def total(self, message: Ask, ctx: Context) -> int:
        if message.what.startswith("change"):
            self.state.lines.append("changed")
        if message.what.endswith("fail"):
            raise ValueError("x")
        if message.what == "publish":
            ctx.send(self.id, Add(1))
        return self.state.cents


class Asker(Agent[Money]):
    @rpc
    async def relay(self, message: Ask, ctx: Context) -> int:
        return await ctx.agent(Plain, "1").total(message)


TILL = AgentId("till", "1")


@pytest.fixture(autouse=True)
def gates() -> None:
    GATES.update({"in": asyncio.Event(), "out": asyncio.Event()})


@pytest.mark.parametrize("cls", [Till, Plain])
async def test_a_query_sees_what_is_committed_and_costs_no_commit(cls: type[Till]) -> None:
    async with testing.mesh(cls) as mesh:
        for cents in (1, 2):
            await mesh.send(AgentId(cls.type, "1"), Add(cents))
        await mesh.idle()
        before = commits(mesh)
        assert await mesh.agent(cls, "1").total(Ask()) == 3
        assert await mesh.query(AgentId(cls.type, "1"), Ask(), timeout=1.0) == 3
        assert commits(mesh) == before
        assert sum(shard.stats.queries["ok"] for shard in shards(mesh)) == 2


@pytest.mark.row("RT-84", part="committed only")
async def test_a_query_never_sees_the_state_of_a_turn_that_is_not_committed() -> None:
    async with testing.mesh(Till) as mesh:
        await mesh.send(TILL, Add(7))
        await mesh.idle()
        holding = asyncio.create_task(mesh.call(TILL, Hold()))
        await asyncio.wait_for(GATES["in"].wait(), 5)
        assert await mesh.query(TILL, Ask(), timeout=1.0) == 7
        GATES["out"].set()
        assert await holding == 1007
        assert await mesh.query(TILL, Ask(), timeout=1.0) == 1007


@pytest.mark.row("RT-84", part="committed only")
async def test_a_turn_that_waits_for_its_commit_is_not_seen() -> None:
    async with testing.mesh(Plain) as mesh:
        await mesh.send(AgentId("plain", "1"), Add(7))
        await mesh.idle()
        (shard,) = [s for s in shards(mesh) if s._turns.activation(AgentId("plain", "1"))]
        async with shard._committer.no_record():  # no record is stored meanwhile
            await mesh.send(AgentId("plain", "1"), Add(1))
            async with asyncio.timeout(5):
                while in_memory(mesh)["plain/1"].pending == 0:
                    await asyncio.sleep(0)
            assert await mesh.query(AgentId("plain", "1"), Ask(), timeout=1.0) == 7
        await mesh.idle()
        assert await mesh.query(AgentId("plain", "1"), Ask(), timeout=1.0) == 8


@pytest.mark.row("RT-84", part="read-only")
@pytest.mark.parametrize("what", ["change", "replace", "cell", "send", "call"])
async def test_a_query_that_changes_or_sends_is_an_error_that_names_it(what: str) -> None:
    async with testing.mesh(Till) as mesh:
        await mesh.send(TILL, Add(7))
        await mesh.idle()
        before = commits(mesh)
        with pytest.raises(ReadOnly, match=r"Till\.total is a @query, and it (changed|tried to)"):
            await mesh.query(TILL, Ask(what))
        assert await mesh.query(TILL, Ask()) == 7
        await mesh.idle()
        assert commits(mesh) == before
        assert (await mesh.state(Till, "1")).cents == 7


@pytest.mark.row("RT-84", part="read-only")
@pytest.mark.parametrize(
    ("what", "error"), [("change", ReadOnly), ("change and fail", ReadOnly), ("fail", HandlerFailed)]
)
async def test_the_agent_in_memory_is_as_it_was_after_a_query_that_went_wrong(
    what: str, error: type[Exception]
) -> None:
    async with testing.mesh(Plain) as mesh:
        await mesh.send(AgentId("plain", "1"), Add(7))
        await mesh.idle()
        with pytest.raises(error, match=r"Plain\.total|x"):
            await mesh.query(AgentId("plain", "1"), Ask(what))
        await mesh.send(AgentId("plain", "1"), Add(1))
        await mesh.idle()
        assert await mesh.state(Plain, "1") == Money(cents=8)


async def test_an_agent_that_is_not_in_memory_is_read_and_stays_out_of_it() -> None:
    async with testing.mesh(Till, Plain) as mesh:
        await mesh.send(TILL, Add(7))
        await mesh.send(AgentId("plain", "1"), Add(8))
        await mesh.idle()
        await mesh.crash()
        assert await mesh.query(TILL, Ask()) == 7
        assert await mesh.query(AgentId("plain", "1"), Ask()) == 8
        assert await mesh.query(AgentId("plain", "never"), Ask()) == 0
        assert not in_memory(mesh)


async def test_a_turn_may_ask_another_agent() -> None:
    async with testing.mesh(Plain, Asker) as mesh:
        await mesh.send(AgentId("plain", "1"), Add(7))
        await mesh.idle()
        assert await mesh.call(AgentId("asker", "1"), Ask()) == 7
        with pytest.raises(HandlerFailed, match="ValueError: x"):
            await mesh.query(AgentId("plain", "1"), Ask("fail"))


async def test_errors_of_a_query_are_typed() -> None:
    async with testing.mesh(Till, Asker) as mesh:
        with pytest.raises(CantHandle, match="as a query"):
            await mesh.query(TILL, Add(1))
        with pytest.raises(UnknownAgentType):
            await mesh.query(AgentId("nobody", "1"), Ask())
        with pytest.raises(CallTimeout):
            await mesh.query(TILL, Ask("sleep"), timeout=0.1)


async def test_a_shard_without_an_owner_is_asked_again_and_then_reported() -> None:
    async with testing.mesh(Plain, shards=1) as mesh:
        await mesh.send(AgentId("plain", "1"), Add(7))
        await mesh.idle()
        await mesh._pools[0]._cancel()
        with pytest.raises(Unreachable, match=r"shard 0 of plain has no owner to answer for plain/1 in 0\.2 s"):
            await mesh.query(AgentId("plain", "1"), Ask(), timeout=0.2)
        asked = asyncio.create_task(mesh.query(AgentId("plain", "1"), Ask(), timeout=10.0))
        mesh._pools[0].start()
        assert await asked == 7


async def test_an_owner_that_has_not_heard_of_its_journal_lately_does_not_answer() -> None:
    async with testing.mesh(Plain, shards=1) as mesh:
        (shard,) = shards(mesh)
        shard._journal.confirmed -= 11.0
        with pytest.raises(Unreachable, match="no current owner"):
            await mesh.query(AgentId("plain", "1"), Ask(), timeout=0.2)
        assert await shard.is_current()
        assert await mesh.query(AgentId("plain", "1"), Ask(), timeout=0.5) == 0


async def test_the_answer_of_an_older_owner_than_was_heard_is_dropped() -> None:
    async with testing.mesh(Plain, shards=1) as mesh:
        assert await mesh.query(AgentId("plain", "1"), Ask()) == 0
        client = mesh._calls.queries
        (asked,) = client._shards.values()
        asked.epoch += 5
        with pytest.raises(Unreachable, match="an old one answered"):
            await mesh.query(AgentId("plain", "1"), Ask(), timeout=0.2)
