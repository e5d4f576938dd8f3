"""Turns over the store in memory: one at a time per agent, others in parallel, failures that leave no trace."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
import starling.testing
from starling import Agent, AgentId, Context, Topic, event, rpc
from starling.core.ids import shard_of
from starling.core.names import bucket_subject, cell_key
from starling.core.overlay import TableValue
from starling.core.retry import Backoff, RetryPolicy
from starling.errors import CallCycle, CallTimeout, HandlerFailed, StateUnreadable, UnknownAgentType

QUICK = RetryPolicy(attempts=3, backoff=Backoff.FIXED, initial=5.0, jitter=False)
ECHOES = Topic("turns.echoes")


@dataclass(frozen=True, slots=True)
class TurnNap:
    """Wait for this many others, or not at all."""

    number: int
    together: int = 1


@dataclass(frozen=True, slots=True)
class TurnDo:
    """what: `ok` adds the number; the others add it and fail in their way, for so many attempts."""

    number: int
    what: str = "ok"
    times: int = 1_000_000


@dataclass(frozen=True, slots=True)
class TurnPath:
    path: list[str]


@dataclass(frozen=True, slots=True)
class TurnAsk:
    pass


@dataclass(frozen=True, slots=True)
class TurnEcho:
    number: int


@dataclass
class TurnState:
    numbers: list[int] = field(default_factory=list)


class Napper(Agent[TurnState], type="napper"):
    """Notes how many of its kind, and how many turns of one agent, run at once."""

    running: dict[str, int] = {}  # noqa: RUF012 - all instances share it
    most_of_one = 0
    all_here: asyncio.Event

    @classmethod
    def reset(cls) -> None:
        cls.running, cls.most_of_one, cls.all_here = {}, 0, asyncio.Event()

    @event
    async def nap(self, message: TurnNap) -> None:
        running = self.running
        key = self.id.key
        running[key] = running.get(key, 0) + 1
        Napper.most_of_one = max(Napper.most_of_one, running[key])
        if sum(running.values()) >= message.together:
            self.all_here.set()
        if message.together > 1:
            await self.all_here.wait()
        else:
            await asyncio.sleep(0)
        running[key] -= 1
        self.state.numbers.append(message.number)


class Doer(Agent[TurnState], type="doer"):
    """Does as it is told, notes it in its state, and says so to an echo."""

    attempts: list[int] = []  # noqa: RUF012
    seen: list[Context] = []  # noqa: RUF012

    @event
    async def do(self, message: TurnDo, ctx: Context) -> None:
        Doer.attempts.append(ctx.attempt)
        Doer.seen.append(ctx)
        self.state.numbers.append(message.number)
        ctx.publish(ECHOES(self.id.key), TurnEcho(message.number))
        if message.what == "ok" or ctx.attempt > message.times:
            return
        if message.what == "cancelled":
            waited = asyncio.ensure_future(asyncio.sleep(60))
            waited.cancel()
            await waited
        if message.what == "large":
            ctx.send(self.id, TurnPath(["x" * 200_000]))
            ctx.send(self.id, TurnPath(["x" * 200_000]))
        if message.what == "nobody":
            ctx.send(AgentId("nobody_here", "k"), TurnAsk())
        raise ValueError(f"{message.what} {message.number}")

    @rpc
    async def ask(self, message: TurnAsk) -> list[int]:
        return self.state.numbers


class Echo(Agent[TurnState], type="echo"):
    @event
    async def heard(self, message: TurnEcho) -> None:
        self.state.numbers.append(message.number)


class Linked(Agent, type="linked"):
    entered: asyncio.Event

    @rpc
    async def follow(self, message: TurnPath, ctx: Context) -> str:
        if not message.path:
            return str(self.id)
        first, *rest = message.path
        if first == "sleep":
            Linked.entered.set()
            await asyncio.sleep(3600)
        if first == "late":
            ctx.agent(Linked, "other")
            return str(ctx.deadline)
        answer: str = await ctx.call(AgentId.parse(first), TurnPath(rest))
        return f"{self.id} {answer}"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Doer.attempts, Doer.seen = [], []


def doers(**options: Any) -> Any:
    return starling.testing.mesh(Doer, Echo, subscriptions={ECHOES.type: Echo}, retry=QUICK, **options)


@pytest.mark.row("RT-4", part="100 concurrent sends to one agent")
async def test_of_a_hundred_messages_sent_at_once_to_one_agent_one_is_handled_at_a_time() -> None:
    Napper.reset()
    async with starling.testing.mesh(Napper) as mesh:
        await asyncio.gather(*(mesh.send(AgentId("napper", "k"), TurnNap(number)) for number in range(100)))
        await mesh.idle()
        state = await mesh.state(Napper, "k")
    assert Napper.most_of_one == 1
    assert sorted(state.numbers) == list(range(100))


@pytest.mark.row("RT-4", part="different agents run in parallel", completes=True)
@pytest.mark.parametrize("shards", [1, 4])
async def test_turns_of_ten_agents_are_under_way_together(shards: int) -> None:
    """Each waits until all ten have started: one after the other they would wait for ever."""
    Napper.reset()
    async with starling.testing.mesh(Napper, shards=shards) as mesh:
        for number in range(10):
            await mesh.send(AgentId("napper", f"k{number}"), TurnNap(number, together=10))
        await mesh.idle()
        assert [(await mesh.state(Napper, f"k{number}")).numbers for number in range(10)] == [[n] for n in range(10)]


@pytest.mark.row("RT-6", part="many first messages, one instance")
async def test_many_first_messages_make_one_instance() -> None:
    made: list[AgentId] = []

    class Single(Agent[TurnState], type="single"):
        def __init__(self) -> None:
            made.append(self.id)

        @event
        async def nap(self, message: TurnNap) -> None:
            await asyncio.sleep(0)
            self.state.numbers.append(message.number)

    async with starling.testing.mesh(Single) as mesh:
        await asyncio.gather(*(mesh.send(AgentId("single", "k"), TurnNap(number)) for number in range(100)))
        await mesh.idle()
        assert sorted((await mesh.state(Single, "k")).numbers) == list(range(100))
    assert made == [AgentId("single", "k")]


@pytest.mark.row("RT-10", part="three keys, three states")
async def test_each_key_has_a_state_of_its_own() -> None:
    async with doers() as mesh:
        for number, key in enumerate(("a", "b", "c")):
            await mesh.send(AgentId("doer", key), TurnDo(number))
        await mesh.idle()
        assert [(await mesh.state(Doer, key)).numbers for key in ("a", "b", "c", "d")] == [[0], [1], [2], []]


@pytest.mark.row("RT-23", part="publishing from a turn that fails delivers nothing")
@pytest.mark.parametrize("what", ["fails", "cancelled", "large", "nobody"])
async def test_a_turn_that_fails_changes_no_state_and_sends_nothing(what: str) -> None:
    async with doers() as mesh:
        await mesh.send(AgentId("doer", "k"), TurnDo(1))
        await mesh.send(AgentId("doer", "k"), TurnDo(2, what))
        await mesh.send(AgentId("doer", "k"), TurnDo(3))
        for _ in range(3):
            await mesh.advance(6)
        await mesh.idle()
        assert (await mesh.state(Doer, "k")).numbers == [1, 3]
        assert (await mesh.state(Echo, "k")).numbers == [1, 3]
        (letter,) = await mesh.dead_letters()
    assert letter.envelope.type == "TurnDo"
    final = {"nobody": ("UnknownAgentType", 1), "cancelled": ("RuntimeError", 3)}
    assert (letter.reason, letter.attempts) == final.get(what, ("ValueError", 3))


async def test_a_failed_turn_is_tried_again_after_its_pause_and_later_messages_of_its_agent_wait() -> None:
    async with doers(shards=1) as mesh:
        await mesh.send(AgentId("doer", "k"), TurnDo(1, "fails", times=2))
        await mesh.send(AgentId("doer", "k"), TurnDo(2))
        await mesh.send(AgentId("doer", "other"), TurnDo(7))
        async with asyncio.timeout(30):
            while (await mesh.state(Doer, "other")).numbers != [7]:
                await asyncio.sleep(0)
        await mesh.advance(4.5)
        assert (Doer.attempts.count(2), (await mesh.state(Doer, "k")).numbers) == (0, [])
        await mesh.advance(1)
        await mesh.advance(6)
        await mesh.idle()
        assert (await mesh.state(Doer, "k")).numbers == [1, 2]
    assert sorted(Doer.attempts) == [1, 1, 1, 2, 3]
    keys = {ctx.idempotency_key for ctx in Doer.seen if ctx.id.key == "k"}
    assert len(keys) == 2, "every attempt of a turn has the same key"


@pytest.mark.row("RT-4", part="a call cycle is refused at once with its path")
async def test_a_call_cycle_is_refused_with_its_path() -> None:
    async with starling.testing.mesh(Linked) as mesh:
        a, b, c = (AgentId("linked", key) for key in "abc")
        assert await mesh.call(a, TurnPath([str(b), str(c)])) == "linked/a linked/b linked/c"
        with pytest.raises(CallCycle, match=r"^linked/a -> linked/b -> linked/c -> linked/a$"):
            await mesh.call(a, TurnPath([str(b), str(c), str(a)]))
        with pytest.raises(CallCycle, match=r"^linked/a -> linked/a$"):
            await mesh.call(a, TurnPath([str(a)]))
        with pytest.raises(UnknownAgentType, match="'nobody_here'"):
            await mesh.call(a, TurnPath(["nobody_here/k"]))


async def test_a_call_past_its_deadline_is_not_started_and_one_under_way_ends() -> None:
    Linked.entered = asyncio.Event()
    async with starling.testing.mesh(Linked, shards=1) as mesh:
        first = asyncio.ensure_future(mesh.call(AgentId("linked", "k"), TurnPath(["sleep"]), timeout=20))
        async with asyncio.timeout(30):
            await Linked.entered.wait()
        second = asyncio.ensure_future(mesh.call(AgentId("linked", "k"), TurnPath(["late"]), timeout=10))
        await asyncio.sleep(0)
        await mesh.advance(11)
        with pytest.raises(CallTimeout):
            await second
        await mesh.advance(10)
        with pytest.raises(CallTimeout):
            await first
        await mesh.idle()  # the agent is free again
        assert await mesh.call(AgentId("linked", "k"), TurnPath([]), timeout=10) == "linked/k"


async def test_a_callers_deadline_bounds_the_calls_that_it_makes() -> None:
    async with starling.testing.mesh(Linked) as mesh:
        wall = mesh._wall()
        answer = await mesh.call(AgentId("linked", "a"), TurnPath(["linked/b", "late"]), timeout=7)
        deadline = float(answer.split()[1])
    assert wall < deadline <= wall + 8


@pytest.mark.row("RT-39", part="never a fresh start, its message is kept, others run")
async def test_an_agent_whose_state_cannot_be_loaded_is_never_started_fresh() -> None:
    async with doers(shards=1) as mesh:
        shard = shard_of("doer", "k", 1)
        subject = bucket_subject("st_test_doer_table", cell_key(shard, AgentId("doer", "k"), "state"))
        corrupt = TableValue(1, 1, b"{corrupt")
        await (await mesh._store.publish(subject, corrupt.encode()))
        await mesh.send(AgentId("doer", "k"), TurnDo(1))
        await mesh.send(AgentId("doer", "other"), TurnDo(2))
        with pytest.raises(StateUnreadable, match="state of doer"):
            await mesh.call(AgentId("doer", "k"), TurnAsk())
        await mesh.idle()
        assert (await mesh.state(Doer, "other")).numbers == [2]
        (letter,) = await mesh.dead_letters()
        assert (letter.reason, letter.envelope.target) == ("StateUnreadable", AgentId("doer", "k"))
        kept = await mesh._store.last("KV_st_test_doer_table", subject)
        assert TableValue.decode(kept.data) == corrupt


async def test_an_agent_that_cannot_be_made_again_after_a_failure_does_not_go_on_with_the_failed_turns_state() -> None:
    made = 0

    class Once(Agent[TurnState], type="once"):
        def __init__(self) -> None:
            nonlocal made
            made += 1
            if made == 2:
                raise OSError("no second one")

        @event
        async def do(self, message: TurnDo) -> None:
            self.state.numbers.append(message.number)
            if message.what != "ok":
                raise ValueError("after the change")

    async with starling.testing.mesh(Once, retry=QUICK) as mesh:
        await mesh.send(AgentId("once", "k"), TurnDo(1))
        await mesh.idle()
        await mesh.send(AgentId("once", "k"), TurnDo(2, "fails"))
        await mesh.idle()
        await mesh.send(AgentId("once", "k"), TurnDo(3))
        await mesh.idle()
        assert (await mesh.state(Once, "k")).numbers == [1, 3]
        (letter,) = await mesh.dead_letters()
    assert letter.text == "after the change"


async def test_all_is_as_committed_after_every_pod_ends_without_a_goodbye() -> None:
    async with doers(pods=2) as mesh:
        for number in range(30):
            await mesh.send(AgentId("doer", f"k{number % 3}"), TurnDo(number))
        await mesh.crash()
        for number in range(30, 60):
            await mesh.send(AgentId("doer", f"k{number % 3}"), TurnDo(number))
        await mesh.idle()
        for agent in (Doer, Echo):
            states = [(await mesh.state(agent, f"k{n}")).numbers for n in range(3)]
            assert states == [list(range(n, 60, 3)) for n in range(3)]


async def test_an_error_in_a_callee_reaches_the_caller_and_changes_nothing() -> None:
    class Refuser(Agent[TurnState], type="refuser"):
        @rpc
        async def ask(self, message: TurnAsk) -> int:
            self.state.numbers.append(1)
            raise KeyError("x")

    async with starling.testing.mesh(Refuser, retry=QUICK) as mesh:
        with pytest.raises(HandlerFailed) as raised:
            await mesh.call(AgentId("refuser", "k"), TurnAsk())
        assert (raised.value.kind, raised.value.text) == ("KeyError", "'x'")
        assert (await mesh.state(Refuser, "k")).numbers == []
        assert await mesh.dead_letters() == []
