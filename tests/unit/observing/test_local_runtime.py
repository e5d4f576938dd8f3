"""The mesh in one process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
import starling
from starling import Agent, AgentId, Context, Topic
from starling.core.retry import Backoff, RetryPolicy
from starling.entrypoints import load
from starling.errors import SpecError, Unreachable
from starling.node.states import RunState

ONCE = RetryPolicy(attempts=1)
AT_ONCE = RetryPolicy(attempts=3, backoff=Backoff.FIXED, initial=0.0, jitter=False)
SIGHTING = Topic("local.sighting")


@dataclass
class Sighting:
    where: str


@dataclass
class AskBird:
    text: str = ""


@dataclass
class Bird:
    seen: int = 0


class Starling(Agent[Bird], type="local_starling"):
    """Counts where it was seen."""

    note = "made by the class"

    @starling.event
    async def seen(self, message: Sighting) -> None:
        self.state.seen += 1

    @starling.rpc
    async def ask(self, message: AskBird) -> str:
        if message.text == "fail":
            self.state.seen = 99
            raise ValueError("the bird flew away")
        return f"{self.id.key} {self.state.seen} {self.note}"


class Hanging(Agent[Bird], type="local_hanging"):
    """Its first turn never ends by itself."""

    started: asyncio.Event

    @starling.event
    async def seen(self, message: Sighting, ctx: Context) -> None:
        tries.append(message.where)
        if len(tries) == 1:
            await asyncio.Event().wait()
        self.state.seen += 1

    @starling.rpc
    async def ask(self, message: AskBird) -> int:
        return self.state.seen


tries: list[str] = []
BIRD = AgentId("local_starling", "anna")


async def test_agents_are_reached_in_one_process_without_a_server() -> None:
    async with starling.local(Starling, subscriptions={"local.sighting": Starling}) as mesh:
        await mesh.publish(SIGHTING("anna"), Sighting("roof"))
        await mesh.send(BIRD, Sighting("tree"))
        assert await mesh.agent(Starling, "anna").ask(AskBird(), timeout=5.0) == "anna 2 made by the class"


@pytest.mark.row("RT-48")
def test_a_type_is_registered_once() -> None:
    runtime = starling.local(Starling)
    with pytest.raises(SpecError, match="'local_starling' is registered already"):
        runtime.register(Starling)


@pytest.mark.row("RT-48", part="the same id bound twice names the id and the first binding")
def test_an_id_is_bound_to_one_instance() -> None:
    runtime = starling.local()
    first = Starling()
    assert runtime.register_instance(first, "anna") == BIRD
    with pytest.raises(SpecError, match=f"local_starling/anna is bound already, to the Starling at {id(first):#x}"):
        runtime.register_instance(Starling(), "anna")
    runtime.register_instance(Starling(), "berta")
    with pytest.raises(SpecError, match="registered already"):
        runtime.register(Starling)


bird = Starling()


@pytest.mark.row("RT-48", part="an instance in the distributed runtime is refused with the reason")
def test_a_pool_refuses_an_instance_with_the_reason() -> None:
    with pytest.raises(SpecError, match=r"is an instance; every pod makes its own.*starling\.local"):
        load(f"{__name__}:bird")


@pytest.mark.row("RT-51", part="states seen from outside, start and stop twice")
async def test_start_and_stop_may_be_called_twice() -> None:
    runtime = starling.local(Starling)
    states = [runtime.state]
    starting = asyncio.create_task(runtime.start())
    await asyncio.sleep(0)
    states.append(runtime.state)
    await runtime.start()
    await starting
    states.append(runtime.state)
    stopping = asyncio.create_task(runtime.stop())
    await asyncio.sleep(0)
    states.append(runtime.state)
    await runtime.stop()
    await stopping
    states.append(runtime.state)
    assert states == [
        RunState.STOPPED,
        RunState.STARTING,
        RunState.RUNNING,
        RunState.DRAINING,
        RunState.STOPPED,
    ]


async def test_state_is_found_again_after_a_stop() -> None:
    runtime = starling.local(Starling)
    for count in (1, 2, 3):
        async with runtime as mesh:
            await mesh.send(BIRD, Sighting("roof"))
            assert (await mesh.call(BIRD, AskBird(), timeout=5)).startswith(f"anna {count}")


@pytest.mark.row("RT-51", part="a failing start leaves no task and no subscription")
async def test_a_failing_start_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    runtime = starling.local(Starling, subscriptions={"local.sighting": Hanging})
    with pytest.raises(SpecError, match="'local_hanging' hears a topic, but is not registered"):
        await runtime.start()
    assert runtime.state is RunState.STOPPED
    assert asyncio.all_tasks() == before
    runtime.register(Hanging)
    await runtime.start()
    await runtime.stop()
    assert asyncio.all_tasks() == before


@pytest.mark.row("RT-51", part="forced stop")
async def test_a_forced_stop_does_not_wait_for_a_handler_and_its_message_is_handled_later() -> None:
    tries.clear()
    runtime = starling.local(Hanging)
    target = AgentId("local_hanging", "anna")
    await runtime.start()
    await runtime.send(target, Sighting("roof"))
    async with asyncio.timeout(10):
        while not tries:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(5):  # far below the patience of an orderly stop
        await runtime.stop(force=True)
    async with runtime as mesh:
        assert await mesh.call(target, AskBird(), timeout=5) == 1
    assert tries == ["roof", "roof"]


@pytest.mark.row("RT-77")
async def test_a_call_before_the_start_waits_for_it() -> None:
    runtime = starling.local(Starling)
    early = asyncio.create_task(runtime.call(BIRD, AskBird(), timeout=20))
    await asyncio.sleep(0)
    assert not early.done()
    async with runtime:
        assert await early == "anna 0 made by the class"


@pytest.mark.row("RT-77")
async def test_a_call_that_waits_for_a_start_in_vain_ends_with_its_deadline() -> None:
    runtime = starling.local(Starling)
    async with asyncio.timeout(10):
        with pytest.raises(Unreachable, match="is stopped"):
            await runtime.call(BIRD, AskBird(), timeout=0.02)


@pytest.mark.row("RT-77")
async def test_a_call_before_the_start_fails_at_once_if_so_wished() -> None:
    runtime = starling.local(Starling, before_start="fail")
    async with asyncio.timeout(10):
        with pytest.raises(Unreachable, match="start it"):
            await runtime.agent(Starling, "anna").ask(AskBird(), timeout=3600)


async def test_nothing_is_registered_while_it_runs() -> None:
    async with starling.local(Starling) as runtime:
        with pytest.raises(SpecError, match="before it starts"):
            runtime.register(Hanging)


@pytest.mark.parametrize("wrong", ["", "maybe"])
def test_a_wrong_option_names_the_field(wrong: str) -> None:
    with pytest.raises(SpecError, match="before_start"):
        starling.local(before_start=wrong)  # type: ignore[arg-type]


class NeverCloses(Agent[Bird], type="local_never_closes"):
    """What it opened does not close."""

    @starling.event
    async def seen(self, message: Sighting) -> None:
        self.state.seen += 1

    @starling.rpc
    async def ask(self, message: AskBird) -> int:
        return self.state.seen

    async def on_close(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.row("RT-37", part="a close that hangs ends at its limit, and nothing is lost", completes=True)
async def test_a_close_that_hangs_keeps_no_runtime_from_stopping_and_loses_nothing() -> None:
    runtime = starling.local(NeverCloses)
    agent = AgentId("local_never_closes", "k")
    async with asyncio.timeout(30):
        await runtime.start()
        await runtime.send(agent, Sighting("roof"))
        assert await runtime.call(agent, AskBird("?")) == 1
        await runtime.stop()
        assert runtime.state == "stopped"
        await runtime.start()
        assert await runtime.call(agent, AskBird("?")) == 1
        await runtime.stop()
