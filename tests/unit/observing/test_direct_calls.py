"""Calls in one process that have nothing to wait for: their turn runs on the spot, and every promise holds."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest
import starling
from starling import Agent, AgentId, Context, LocalRuntime
from starling.adapters.memory import MemoryServer
from starling.core.ids import ShardId
from starling.core.names import Inlet, Lane, Origin
from starling.errors import DecodeError, HandlerFailed
from starling.local_mesh import LocalMesh

BOUND = 10.0
mark: ContextVar[str] = ContextVar("tests.direct.mark", default="")


@dataclass
class Put:
    words: list[str]


@dataclass
class Replace:
    words: list[str]


@dataclass
class PutLater:
    words: list[str]


@dataclass
class Refuse:
    words: list[str]


@dataclass
class Ask:
    pass


@dataclass
class Swell:
    size_bytes: int


@dataclass
class Pass:
    to: str


@dataclass
class Wake:
    seconds: float


@dataclass
class End:
    pass


@dataclass
class Heard:
    words: list[str] = field(default_factory=list)


class Shelf(Agent[Heard], type="direct_shelf"):
    """Keeps the words that it gets. All its handlers but one end without waiting."""

    @starling.event
    async def later(self, message: PutLater) -> None:
        self.state.words += message.words

    @starling.rpc
    async def put(self, message: Put) -> list[str]:
        self.state.words += message.words
        return self.state.words

    @starling.rpc
    async def replace(self, message: Replace) -> list[str]:
        self.state.words = message.words
        return self.state.words

    @starling.rpc
    async def refuse(self, message: Refuse) -> None:
        self.state.words += message.words
        raise ValueError("no room")

    @starling.rpc
    async def swell(self, message: Swell) -> str:
        self.state.words = ["x" * message.size_bytes]
        return self.state.words[0]

    @starling.rpc
    async def hand_on(self, message: Pass, ctx: Context) -> str:
        for number in range(3):
            ctx.send(AgentId("direct_shelf", message.to), PutLater([f"{self.id.key} {number}"]))
        return ctx.headers.get("why", "")

    @starling.rpc
    async def wake(self, message: Wake, ctx: Context) -> float:
        mark.set("of the handler")
        ctx.set_timer("wake", PutLater(["awake"]), delay=message.seconds)
        return ctx.deadline or 0.0

    @starling.rpc
    async def spoil(self, message: str) -> None:
        self.state.words = [1]  # type: ignore[list-item]

    @starling.rpc
    async def wait(self, message: float) -> int:
        before = len(self.state.words)
        await asyncio.sleep(message)
        return len(self.state.words) - before

    @starling.rpc
    async def end(self, message: End, ctx: Context) -> None:
        ctx.destroy()

    @starling.query
    async def ask(self, message: Ask) -> list[str]:
        return self.state.words


ANNA = AgentId("direct_shelf", "anna")


@pytest.fixture(autouse=True)
def _loop_waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, a call does not wait for the loop to go round."""
    if "loop_goes_round" not in request.node.name:
        monkeypatch.setattr("starling.local_mesh.SLICE", math.inf)


def at_once(call: Coroutine[Any, Any, Any]) -> Any:
    """Return the answer of a call that gives it before the loop goes round."""
    try:
        call.send(None)
    except StopIteration as stop:
        return stop.value
    call.close()
    raise AssertionError("the call waited")


async def awake(mesh: LocalRuntime, *agents: AgentId) -> None:
    """Have agents in memory, with nothing to wait for."""
    for agent in agents:
        await mesh.call(agent, Put([]), timeout=BOUND)
        async with asyncio.timeout(BOUND):
            while not is_direct(mesh.call(agent, Put([]))):
                await asyncio.sleep(0.001)


def is_direct(call: Coroutine[Any, Any, Any]) -> bool:
    try:
        at_once(call)
    except AssertionError:
        return False
    return True


@pytest.mark.row("RT-82", part="a call with nothing to wait for is answered without a message being stored")
async def test_a_call_to_an_idle_agent_is_answered_before_the_loop_goes_round() -> None:
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA)
        assert at_once(mesh.call(ANNA, Put(["one"]))) == ["one"]
        assert at_once(mesh.agent(Shelf, "anna").put(Put(["two"]))) == ["one", "two"]


@pytest.mark.parametrize("rounds", range(8))
async def test_a_call_comes_after_the_messages_that_were_sent_before_it(rounds: int) -> None:
    """However far those have come: rounds of the loop."""
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA)
        sends = [asyncio.ensure_future(mesh.send(ANNA, PutLater([str(number)]))) for number in range(3)]
        await asyncio.sleep(0)
        for _ in range(rounds):
            await asyncio.sleep(0)
        assert await mesh.call(ANNA, Put(["called"]), timeout=BOUND) == ["0", "1", "2", "called"]
        await asyncio.gather(*sends)
        await mesh.send(ANNA, PutLater(["stored"]))
        assert (await mesh.call(ANNA, Put(["last"]), timeout=BOUND))[4:] == ["stored", "last"]


@pytest.mark.parametrize("rounds", range(8))
async def test_a_call_comes_after_a_batch_and_a_call_that_was_given_up(rounds: int) -> None:
    async with starling.local(Shelf) as runtime:
        await awake(runtime, ANNA)
        mesh = runtime._mesh
        assert mesh is not None
        batch = asyncio.ensure_future(mesh.publish_many([(ANNA, PutLater([str(number)])) for number in range(3)]))
        await asyncio.sleep(0)
        given_up = asyncio.ensure_future(runtime.call(ANNA, 0.0))
        for _ in range(rounds):
            await asyncio.sleep(0)
        given_up.cancel()
        assert await runtime.call(ANNA, Put(["called"]), timeout=BOUND) == ["0", "1", "2", "called"]
        await batch
        await asyncio.gather(given_up, return_exceptions=True)


@pytest.mark.parametrize("cancelled", [False, True], ids=["stored", "its sender was cancelled"])
async def test_a_call_comes_after_a_message_that_is_stored_and_not_read(
    monkeypatch: pytest.MonkeyPatch, *, cancelled: bool
) -> None:
    async with starling.local(Shelf, shards=1) as runtime:
        await awake(runtime, ANNA)
        assert runtime._worker is not None
        shard = runtime._worker.ownership.running(ShardId(0))
        assert shard is not None
        intake = shard._intakes[Inlet(Origin.OUTSIDE, Lane.NORMAL)]
        go_on = intake.resume
        monkeypatch.setattr(intake, "resume", lambda: None)
        intake.paused = True
        await runtime.send(ANNA, PutLater(["read before the pause"]))
        async with asyncio.timeout(BOUND):
            while await runtime.query(ANNA, Ask()) != ["read before the pause"]:
                await asyncio.sleep(0.001)
        sending = asyncio.ensure_future(runtime.send(ANNA, PutLater(["unread"])))
        await asyncio.sleep(0)
        if cancelled:
            sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        calling = asyncio.ensure_future(runtime.call(ANNA, Put(["called"]), timeout=BOUND))
        await asyncio.sleep(0)
        assert not calling.done()
        go_on()
        assert await calling == ["read before the pause", "unread", "called"]


async def test_what_was_sent_and_read_is_not_kept_in_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starling.local_producer.SWEEP", 8)
    async with starling.local(Shelf) as runtime:
        mesh = runtime._mesh
        assert isinstance(mesh, LocalMesh)
        for number in range(200):
            await runtime.send(AgentId("direct_shelf", str(number)), PutLater([]))
        assert len(mesh.unread) < 20
        await runtime.call(ANNA, Put([]), timeout=BOUND)
        await awake(runtime, ANNA)
        assert ANNA not in mesh.unread


async def test_calls_made_together_come_in_their_order() -> None:
    async with starling.local(Shelf) as mesh:
        answers = await asyncio.gather(*(mesh.call(ANNA, Put([str(n)]), timeout=BOUND) for n in range(50)))
        assert [len(answer) for answer in answers] == list(range(1, 51))
        assert answers[-1] == [str(n) for n in range(50)]


async def test_a_busy_agent_finishes_its_turn_first() -> None:
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA)
        waiting = asyncio.ensure_future(mesh.call(ANNA, 0.05, timeout=BOUND))
        while not is_busy():
            await asyncio.sleep(0)
        for _ in range(20):  # rounds of the loop, so that nothing of that call is under way but its turn
            await asyncio.sleep(0)
        assert await mesh.call(ANNA, Put(["after"]), timeout=BOUND) == ["after"]
        assert await waiting == 0


def is_busy() -> bool:
    """Whether a turn of Anna's runs in a task."""
    return any(task.get_name() == f"turn of {ANNA}" for task in asyncio.all_tasks())


async def test_neither_side_holds_an_object_of_the_other() -> None:
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA)
        words = ["mine"]
        answer = at_once(mesh.call(ANNA, Replace(words)))
        words.append("changed by the caller")
        answer.append("changed by the caller as well")
        assert at_once(mesh.call(ANNA, Put([]))) == ["mine"]


async def test_a_failed_turn_is_rolled_back_and_its_caller_gets_the_typed_error() -> None:
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA)
        at_once(mesh.call(ANNA, Put(["kept"])))
        with pytest.raises(HandlerFailed, match="no room") as failed:
            await mesh.call(ANNA, Refuse(["dropped"]), timeout=BOUND)
        assert failed.value.kind == "ValueError"
        assert failed.value.record is not None
        with pytest.raises(DecodeError, match=r"words\.0"):
            await mesh.call(ANNA, "spoil", timeout=BOUND)
        assert await mesh.call(ANNA, Put([]), timeout=BOUND) == ["kept"]


async def test_a_query_sees_what_a_caller_was_told() -> None:
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA)
        for count in range(1, 30):
            at_once(mesh.call(ANNA, Put([str(count)])))
            assert len(await mesh.query(ANNA, Ask(), timeout=BOUND)) == count


@pytest.mark.parametrize("force", [False, True], ids=["patient stop", "forced stop"])
async def test_what_callers_were_told_is_found_after_a_stop(monkeypatch: pytest.MonkeyPatch, *, force: bool) -> None:
    monkeypatch.setattr("starling.core.limits.MAX_COMMIT", 1)  # a commit of its own for every turn
    runtime = starling.local(Shelf, shards=1)
    agents = [AgentId("direct_shelf", f"k{number}") for number in range(50)]
    await runtime.start()
    await awake(runtime, *agents)
    for agent in agents:
        at_once(runtime.call(agent, Put(["kept"])))
    await runtime.stop(force=force)
    async with runtime as mesh:
        for agent in agents:
            assert await mesh.call(agent, Put([]), timeout=BOUND) == ["kept"]


async def test_an_agent_leaves_memory_only_when_all_that_its_callers_were_told_is_recorded() -> None:
    async with starling.local(Shelf) as mesh:
        worker = mesh._worker
        assert worker is not None
        leaving, much_later = worker.passivation, asyncio.get_running_loop().time() + 1_000_000
        for count in range(1, 5):
            await awake(mesh, ANNA)
            at_once(mesh.call(ANNA, Put(["word"])))
            await leaving.expire(much_later)
            assert leaving.passivated == count - 1
            async with asyncio.timeout(BOUND):
                while leaving.passivated < count:
                    await asyncio.sleep(0.001)
                    await leaving.expire(much_later)
            assert len(await mesh.call(ANNA, Put([]), timeout=BOUND)) == count


async def test_the_loop_goes_round_while_one_caller_calls_and_calls() -> None:
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA)
        rounds = 0

        async def count_rounds() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count_rounds())
        for _ in range(100_000):
            await mesh.call(ANNA, Put([]))
            if rounds >= 5:
                break
        assert rounds >= 5
        counting.cancel()


async def test_what_a_turn_sends_and_sets_takes_effect() -> None:
    berta = AgentId("direct_shelf", "berta")
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA, berta)
        assert at_once(mesh.call(ANNA, Pass("berta"), headers={"why": "to tell"})) == "to tell"
        before = time.time()
        assert before + 4 < at_once(mesh.call(ANNA, Wake(0.01), timeout=5.0)) < before + 6
        assert mark.get() == "", "what a handler sets in its context is not its caller's"
        async with asyncio.timeout(BOUND):
            while len(await mesh.query(berta, Ask())) < 3:
                await asyncio.sleep(0.001)
            while await mesh.query(ANNA, Ask()) != ["awake"]:
                await asyncio.sleep(0.001)
        assert await mesh.query(berta, Ask()) == ["anna 0", "anna 1", "anna 2"]


async def test_an_agent_that_ends_itself_starts_anew() -> None:
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA)
        at_once(mesh.call(ANNA, Put(["gone"])))
        at_once(mesh.call(ANNA, End()))
        assert await mesh.call(ANNA, Put([]), timeout=BOUND) == []


async def test_large_states_and_answers_arrive_whole_and_are_found_again() -> None:
    runtime = starling.local(Shelf)
    async with runtime as mesh:
        await awake(mesh, ANNA)
        assert len(await mesh.call(ANNA, Swell(1_000_000), timeout=BOUND)) == 1_000_000
    async with runtime as mesh:
        assert [len(word) for word in await mesh.call(ANNA, Put([]), timeout=BOUND)] == [1_000_000]


async def test_callers_that_are_far_ahead_of_the_records_wait_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starling.engine.direct_turns.MOST_UNRECORDED", 3)
    async with starling.local(Shelf) as mesh:
        await awake(mesh, ANNA)
        ahead = [is_direct(mesh.call(ANNA, Put([str(number)]))) for number in range(5)]
        assert ahead[0]
        assert not ahead[-1]
        await awake(mesh, ANNA)


async def test_over_a_store_that_outlives_the_process_every_call_waits_for_its_record() -> None:
    runtime = LocalRuntime(connect=MemoryServer(wall=time.time).connect)
    runtime.register(Shelf)
    async with runtime as mesh:
        await mesh.call(ANNA, Put([]), timeout=BOUND)
        assert [is_direct(mesh.call(ANNA, Put([]))) for _ in range(20)] == [False] * 20
