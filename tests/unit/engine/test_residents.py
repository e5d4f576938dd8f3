"""Agents come into memory once, stay while they are used, and leave with nothing lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from starling import Agent, AgentId, Context, event, message, rpc, testing
from starling.agent import definition
from starling.core.retry import RetryPolicy
from starling.engine.activation import Activation
from starling.engine.passivation import Passivation

from tests.unit.engine.meshes import in_memory


@message("residents.Add")
@dataclass
class Add:
    n: int = 1


@message("residents.Fail")
@dataclass
class Fail:
    pass


@dataclass
class Count:
    n: int = 0


@message("residents.Ask")
@dataclass
class Ask:
    pass


class Counter(Agent[Count], idle=60.0):
    @event
    async def add(self, message: Add) -> None:
        self.state.n += message.n

    @rpc
    async def ask(self, message: Ask) -> int:
        return self.state.n


class Short(Counter, idle=5.0):
    pass


class Forever(Counter, idle=float("inf")):
    pass


HOOKS: list[str] = []
TROUBLE: dict[str, Exception] = {}
GO_ON: dict[str, asyncio.Event] = {}


class Hooked(Agent[Count], idle=60.0):
    async def on_activate(self) -> None:
        await asyncio.sleep(0.01)
        HOOKS.append(f"activate {self.id.key} {self.state.n}")
        if "activate" in TROUBLE:
            raise TROUBLE.pop("activate")

    async def on_passivate(self) -> None:
        HOOKS.append("passivate")
        if (go_on := GO_ON.get("passivate")) is not None:
            await go_on.wait()
        if "passivate" in TROUBLE:
            raise TROUBLE.pop("passivate")

    async def on_close(self) -> None:
        HOOKS.append("close")

    @event
    async def add(self, message: Add) -> None:
        self.state.n += message.n

    @event
    async def fail(self, message: Fail) -> None:
        self.state.n += 1000
        raise ValueError("no")


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    HOOKS.clear()
    TROUBLE.clear()
    GO_ON.clear()
    yield
    TROUBLE.clear()


async def until_gone(mesh: testing.TestMesh, count: int = 0) -> None:
    async with asyncio.timeout(5):
        while len(in_memory(mesh)) > count:
            await asyncio.sleep(0.001)


@pytest.mark.row("RT-6")
async def test_a_hundred_first_messages_make_one_agent_by_one_call_of_its_factory() -> None:
    async with testing.mesh(Hooked) as mesh:
        await asyncio.gather(*(mesh.send(AgentId("hooked", "1"), Add()) for _ in range(100)))
        await mesh.idle()
        assert HOOKS == ["activate 1 0"]
        assert (await mesh.state(Hooked, "1")).n == 100
        assert len(in_memory(mesh)) == 1


@pytest.mark.row("RT-7", part="return")
async def test_an_agent_that_was_idle_for_its_time_leaves_and_comes_back_with_its_state() -> None:
    async with testing.mesh(Counter, Forever) as mesh:
        for kind in ("counter", "forever"):
            await mesh.send(AgentId(kind, "1"), Add(5))
        await mesh.idle()
        first = in_memory(mesh)["counter/1"]
        await mesh.advance(30)
        await asyncio.sleep(0.05)
        assert set(in_memory(mesh)) == {"counter/1", "forever/1"}

        await mesh.advance(31)
        await until_gone(mesh, 1)
        assert set(in_memory(mesh)) == {"forever/1"}

        await mesh.send(AgentId("counter", "1"), Add(1))
        assert await mesh.call(AgentId("counter", "1"), Ask()) == 6
        assert in_memory(mesh)["counter/1"] is not first


async def test_a_message_keeps_an_agent_in_memory() -> None:
    async with testing.mesh(Counter) as mesh:
        await mesh.send(AgentId("counter", "1"), Add())
        await mesh.idle()
        first = in_memory(mesh)["counter/1"]
        for _ in range(3):
            await mesh.advance(40)
            await mesh.call(AgentId("counter", "1"), Ask())
        await asyncio.sleep(0.05)
        assert in_memory(mesh)["counter/1"] is first


async def test_each_type_has_its_own_idle_time() -> None:
    async with testing.mesh(Counter, Short) as mesh:
        for kind in ("counter", "short"):
            await mesh.send(AgentId(kind, "1"), Add())
        await mesh.idle()
        await mesh.advance(6)
        await until_gone(mesh, 1)
        assert set(in_memory(mesh)) == {"counter/1"}


@pytest.mark.row("RT-7", part="active limit")
async def test_over_the_active_limit_the_longest_unused_agent_of_any_shard_leaves() -> None:
    async with testing.mesh(Counter, max_active=3, shards=8) as mesh:
        for key in "abc":
            await mesh.call(AgentId("counter", key), Ask())
        await mesh.call(AgentId("counter", "a"), Ask())
        for newcomer, left in (("d", "b"), ("e", "c"), ("f", "a")):
            await mesh.call(AgentId("counter", newcomer), Ask())
            assert f"counter/{left}" not in in_memory(mesh)
            assert len(in_memory(mesh)) == 3


@pytest.mark.row("RT-7", part="flat memory")
async def test_memory_holds_only_the_active_ones_of_many_keys() -> None:
    async with testing.mesh(Counter, max_active=50) as mesh:
        for start in range(0, 2000, 100):
            await asyncio.gather(*(mesh.send(AgentId("counter", str(n)), Add(n)) for n in range(start, start + 100)))
            await mesh.idle()
            assert len(in_memory(mesh)) <= 50 + 100  # of those that are in use none can leave
        await mesh.call(AgentId("counter", "0"), Ask())
        assert [(await mesh.state(Counter, str(n))).n for n in (1, 999, 1999)] == [1, 999, 1999]


async def test_an_agent_in_use_does_not_leave() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    class Busy(Agent[Count], idle=5.0):
        @event
        async def add(self, message: Add, ctx: Context) -> None:
            started.set()
            await go_on.wait()
            self.state.n += 1

    async with testing.mesh(Busy) as mesh:
        await mesh.send(AgentId("busy", "1"), Add())
        await started.wait()
        first = in_memory(mesh)["busy/1"]
        await mesh.advance(100)
        await asyncio.sleep(0.05)
        assert in_memory(mesh)["busy/1"] is first
        go_on.set()
        await mesh.idle()
        assert (await mesh.state(Busy, "1")).n == 1


@pytest.mark.row("RT-7", part="memory pressure")
async def test_memory_pressure_lets_idle_agents_leave_until_it_is_over() -> None:
    readings = iter([0.5, 0.81, 0.79, 0.74, 0.74])
    async with testing.mesh(Counter) as mesh:
        (worker,) = mesh._pools[0].workers
        for n in range(1000):
            await mesh.send(AgentId("counter", str(n)), Add())
        await mesh.idle()
        passivation = worker.passivation
        passivation._memory = lambda: next(readings)
        await passivation.relieve()
        assert len(in_memory(mesh)) == 1000
        await passivation.relieve()
        assert len(in_memory(mesh)) == 1000 - 2 * 256
        assert passivation.active == len(in_memory(mesh))
        assert await mesh.call(AgentId("counter", "0"), Ask()) == 1


async def test_pressure_that_no_agent_can_relieve_ends_the_look() -> None:
    passivation = Passivation(memory=lambda: 0.99)
    async with asyncio.timeout(1):
        await passivation.relieve()


class Everybody:
    """A shard whose agents are all idle."""

    def __init__(self) -> None:
        self.agents: set[Activation] = set()

    def holds(self, activation: Activation) -> bool:
        return activation in self.agents

    def passivate(self, activation: Activation) -> bool:
        self.agents.remove(activation)
        return True


async def test_agents_leave_as_fast_as_a_busy_worker_can_get_new_ones() -> None:
    """A loop that goes round thirty times a second, and 20,000 first messages in it."""
    holder, passivation = Everybody(), Passivation()
    for number in range(20_000):
        activation = Activation(AgentId("counter", str(number)), definition(Counter), str(number))
        holder.agents.add(activation)
        passivation.added(activation, holder)
    expiring = asyncio.create_task(passivation.expire(asyncio.get_running_loop().time() + 3600))
    rounds = 0
    while holder.agents:
        await asyncio.sleep(0)
        rounds += 1
    await expiring
    assert rounds <= 30


async def test_hooks_run_around_the_life_of_an_instance() -> None:
    async with testing.mesh(Hooked) as mesh:
        await mesh.send(AgentId("hooked", "1"), Add())
        await mesh.idle()
        await mesh.advance(61)
        await until_gone(mesh)
        assert HOOKS == ["activate 1 0", "passivate", "close"]
        await mesh.send(AgentId("hooked", "1"), Add())
        await mesh.idle()
        assert HOOKS[3:] == ["activate 1 1"]
    assert HOOKS[4:] == ["close"]


async def test_a_message_that_comes_while_an_agent_leaves_brings_it_back() -> None:
    async with testing.mesh(Hooked) as mesh:
        await mesh.send(AgentId("hooked", "1"), Add())
        await mesh.idle()
        GO_ON["passivate"] = asyncio.Event()
        await mesh.advance(61)
        leaving = in_memory(mesh)["hooked/1"]
        async with asyncio.timeout(5):
            while "passivate" not in HOOKS:
                await asyncio.sleep(0)
            await mesh.send(AgentId("hooked", "1"), Add())
            while not leaving.normal:
                await asyncio.sleep(0)
        GO_ON.pop("passivate").set()
        await mesh.idle()
        assert (await mesh.state(Hooked, "1")).n == 2
        assert HOOKS == ["activate 1 0", "passivate", "close", "activate 1 1"]


async def test_an_activation_that_fails_is_tried_again_with_its_message() -> None:
    TROUBLE["activate"] = ConnectionError("not yet")
    async with testing.mesh(Hooked, retry=RetryPolicy(attempts=3, initial=0.01)) as mesh:
        await mesh.send(AgentId("hooked", "1"), Add())
        await mesh.idle()
        assert (await mesh.state(Hooked, "1")).n == 1
        assert HOOKS == ["activate 1 0", "activate 1 0"]
        assert not await mesh.dead_letters()


@pytest.mark.row("RT-65", part="restart")
async def test_after_a_failed_turn_the_next_message_finds_the_same_state_in_a_new_instance() -> None:
    async with testing.mesh(Hooked, retry=RetryPolicy(attempts=1)) as mesh:
        await mesh.send(AgentId("hooked", "1"), Add(3))
        await mesh.idle()
        await mesh.send(AgentId("hooked", "1"), Fail())
        await mesh.idle()
        await mesh.send(AgentId("hooked", "1"), Add(1))
        await mesh.idle()
        assert (await mesh.state(Hooked, "1")).n == 4
        assert HOOKS == ["activate 1 0", "close", "activate 1 3"]
        assert [letter.reason for letter in await mesh.dead_letters()] == ["ValueError"]


async def test_a_hook_that_fails_is_logged_and_the_agent_leaves(caplog: pytest.LogCaptureFixture) -> None:
    TROUBLE["passivate"] = ValueError("no")
    async with testing.mesh(Hooked) as mesh:
        await mesh.send(AgentId("hooked", "1"), Add())
        await mesh.idle()
        with caplog.at_level(logging.ERROR):
            await mesh.advance(61)
            await until_gone(mesh)
        assert "lifecycle hook failed" in caplog.text
        assert HOOKS == ["activate 1 0", "passivate", "close"]


@pytest.mark.row("RT-83", part="own share")
async def test_an_idle_agent_costs_less_than_three_kilobytes_beside_its_state() -> None:
    async with testing.mesh(Counter) as mesh:

        async def wake(keys: range) -> None:
            for n in keys:
                await mesh.send(AgentId("counter", str(n)), Add())
            await mesh.idle()

        await wake(range(200))
        for shard in (s for w in mesh._pools[0].workers for s in w.ownership.owned.values()):
            await shard.table.write_round(1e9, quiet=0, patience=0)
        gc.collect()
        tracemalloc.start()
        try:
            await wake(range(200, 1200))
            for shard in (s for w in mesh._pools[0].workers for s in w.ownership.owned.values()):
                await shard.table.write_round(1e9, quiet=0, patience=0)
                await shard.table.write_round(1e9, quiet=0, patience=0)
            gc.collect()
            snapshot = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(False, "*/adapters/memory/*"), tracemalloc.Filter(False, tracemalloc.__file__)]
            )
        finally:
            tracemalloc.stop()
        assert sum(stat.size for stat in snapshot.statistics("filename")) / 1000 < 3000
