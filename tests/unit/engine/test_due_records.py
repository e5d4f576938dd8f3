"""Work for later: retries, delayed messages, timers, parked messages, large fan-outs; over crashes too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar

import pytest
import starling.testing
from starling import Agent, AgentId, Context, event, message, rpc
from starling.core import limits
from starling.core.due import Due
from starling.core.ids import PoolName, ShardId
from starling.core.names import MeshNames
from starling.core.record import Kind, Record
from starling.core.retry import RetryPolicy
from starling.engine.activation import Activation, State
from starling.engine.agenda import SWEEP
from starling.engine.schedule import SWEEP_LEAVING
from starling.errors import SpecError, StateUnreadable

from tests.unit.engine.meshes import in_memory, shards


@message
@dataclass(frozen=True)
class DueAsk:
    """Asks for what was done."""


@message
@dataclass(frozen=True)
class DueDo:
    what: str
    text: str = ""
    seconds: float = 0.0


@message
@dataclass(frozen=True)
class DueNote:
    text: str


@dataclass
class DueState:
    notes: list[str] = field(default_factory=list)
    message_id: str = ""


class Planner(Agent[DueState], type="due_planner"):
    """Notes what it hears; does what it is told."""

    failures: ClassVar[dict[str, int]] = {}
    attempts: ClassVar[list[tuple[str, int]]] = []
    gate: ClassVar[asyncio.Event]

    @event
    async def do(self, order: DueDo, ctx: Context) -> None:
        what = order.what
        Planner.attempts.append((order.text, ctx.attempt))
        if what == "delay":
            self.state.message_id = ctx.send(self.id, DueNote(order.text), delay=order.seconds)
        elif what == "cancel":
            ctx.cancel(self.id, self.state.message_id)
        elif what == "timer":
            await Planner.gate.wait()
            ctx.set_timer("t", DueNote(order.text), delay=order.seconds)
        elif what == "every":
            ctx.set_timer("t", DueNote(order.text), every=order.seconds)
        elif what == "cron":
            ctx.set_timer("t", DueNote(order.text), cron="0 * * * *")
        elif what == "stop":
            await Planner.gate.wait()
            ctx.cancel_timer("t")
        elif what == "destroy":
            await Planner.gate.wait()
            ctx.destroy()
        elif what == "end":
            ctx.set_timer("t", DueNote(order.text), delay=order.seconds)
            ctx.destroy()
        elif what == "many":
            for number in range(int(order.seconds)):
                ctx.set_timer(f"{order.text} {number}", DueDo("nothing", f"{order.text} {number}"), delay=50.0)
        elif what == "nothing":
            pass
        elif what == "fan":
            for number in range(int(order.seconds)):
                ctx.send(AgentId("due_planner", f"{order.text}{number % 50}"), DueNote(f"{number}"))
        elif what == "wide":
            for number in range(int(order.seconds)):
                ctx.send(AgentId("due_planner", f"{order.text}{number}"), DueNote(f"{number}"))
        elif what == "fail" and Planner.failures.get(order.text, 0) > 0:
            Planner.failures[order.text] -= 1
            raise ValueError(order.text)
        else:
            self.state.notes.append(order.text)

    @event
    async def note(self, note: DueNote) -> None:
        self.state.notes.append(note.text)

    @rpc
    async def ask(self, ask: DueAsk) -> list[str]:
        return self.state.notes


class Loose(Planner, type="due_loose", ordered=False):
    """Lets later messages pass one that waits for its next attempt."""


POLICY = RetryPolicy(attempts=4, initial=10.0, jitter=False)
A = AgentId("due_planner", "a")


def planners(*more: type[Agent], shards: int = 2) -> AbstractAsyncContextManager[starling.testing.TestMesh]:
    Planner.failures.clear()
    Planner.attempts.clear()
    Planner.gate = asyncio.Event()
    Planner.gate.set()
    return starling.testing.mesh(Planner, Loose, *more, shards=shards, retry=POLICY)


async def notes(mesh: starling.testing.TestMesh, agent: AgentId = A) -> list[str]:
    found: list[str] = await mesh.call(agent, DueAsk())
    return found


@pytest.mark.row("RT-28", part="the attempt count goes on over a crash, and ends in the dead letters with that count")
async def test_attempts_are_counted_over_crashes_and_end_in_a_dead_letter() -> None:
    async with planners() as mesh:
        Planner.failures["x"] = 99
        await mesh.send(A, DueDo("fail", "x"))
        for _ in range(3):
            await mesh.committed()
            await mesh.crash()
            await mesh.advance(60)
        await mesh.idle()
        (letter,) = await mesh.dead_letters()
        assert letter.attempts == 4
        assert [attempt for _, attempt in Planner.attempts] == [1, 2, 3, 4]


async def test_later_messages_of_an_ordered_agent_wait_for_a_retry_also_after_a_crash() -> None:
    async with planners() as mesh:
        Planner.failures["x"] = 1
        await mesh.send(A, DueDo("fail", "x"))
        await mesh.send(A, DueNote("y"))
        await mesh.committed()
        await mesh.crash()
        await mesh.send(A, DueNote("z"))
        await mesh.advance(60)
        await mesh.idle()
        assert await notes(mesh) == ["x", "y", "z"]


async def test_an_agent_that_is_not_ordered_goes_on_while_a_message_waits_for_its_retry() -> None:
    async with planners() as mesh:
        loose = AgentId("due_loose", "a")
        Planner.failures["x"] = 1
        await mesh.send(loose, DueDo("fail", "x"))
        await mesh.send(loose, DueNote("y"))
        assert await notes(mesh, loose) == ["y"]
        await mesh.crash()
        await mesh.advance(60)
        await mesh.idle()
        assert await notes(mesh, loose) == ["y", "x"]


@pytest.mark.row("RT-41", part="once, over a restart; two at one instant; after cancel none")
async def test_a_delayed_message_comes_once_at_its_time_over_a_crash() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueDo("delay", "one", 20.0))
        await mesh.send(A, DueDo("delay", "two", 20.0))
        await mesh.idle()
        await mesh.advance(15)
        await mesh.crash()
        assert await notes(mesh) == []
        await mesh.advance(6)
        await mesh.idle()
        assert sorted(await notes(mesh)) == ["one", "two"]
        await mesh.crash()
        await mesh.advance(60)
        assert sorted(await notes(mesh)) == ["one", "two"]


@pytest.mark.row("RT-41", part="after cancel, none")
async def test_a_delayed_message_that_was_taken_back_never_comes() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueDo("delay", "one", 20.0))
        await mesh.send(A, DueDo("cancel"))
        await mesh.idle()
        await mesh.crash()
        await mesh.advance(60)
        await mesh.idle()
        assert await notes(mesh) == []


@pytest.mark.row("RT-42", part="12 turns in a minute, over a crash; unsubscribing ends it")
async def test_a_recurring_timer_wakes_its_agent_at_each_interval_once_over_a_crash() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueDo("every", "tick", 5.0))
        await mesh.idle()
        for step in range(60):
            await mesh.advance(1)
            await mesh.committed()
            if step == 31:
                await mesh.crash()
        assert await notes(mesh) == ["tick"] * 12
        await mesh.send(A, DueDo("stop"))
        await mesh.idle()
        await mesh.advance(30)
        assert len(await notes(mesh)) <= 13


async def test_a_timer_of_the_same_name_takes_the_place_of_the_one_before() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueDo("timer", "old", 10.0))
        await mesh.send(A, DueDo("timer", "new", 20.0))
        await mesh.idle()
        await mesh.crash()
        await mesh.advance(60)
        await mesh.idle()
        assert await notes(mesh) == ["new"]


@pytest.mark.row("RT-42", part="by a cron rule")
async def test_a_timer_by_rule_comes_at_the_full_hour() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueDo("cron", "hour"))
        await mesh.idle()
        await mesh.advance(3600)
        await mesh.idle()
        assert await notes(mesh) == ["hour"]
        await mesh.advance(3600)
        await mesh.idle()
        assert await notes(mesh) == ["hour", "hour"]


async def test_destroying_an_agent_ends_its_state_its_timers_and_its_delayed_messages() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueNote("before"))
        await mesh.send(A, DueDo("timer", "timer", 10.0))
        await mesh.send(A, DueDo("delay", "delayed", 10.0))
        await mesh.idle()
        await mesh.send(A, DueDo("destroy"))
        await mesh.idle()
        assert await notes(mesh) == []
        await mesh.crash()
        await mesh.advance(60)
        await mesh.idle()
        assert await notes(mesh) == []


@pytest.mark.parametrize(("then", "left"), [("timer", ["new"]), ("stop", []), ("destroy", [])])
async def test_a_timer_that_waits_behind_the_turn_that_takes_it_back_does_not_fire(then: str, left: list[str]) -> None:
    async with planners() as mesh:
        await mesh.send(A, DueDo("every", "old", 5.0))
        await mesh.idle()
        Planner.gate.clear()
        await mesh.send(A, DueDo(then, "new", 100.0))
        activation = await _running(mesh)
        await mesh.advance(6)
        (turns,) = (shard._turns for shard in shards(mesh) if A in shard._turns.residents.agents)
        async with asyncio.timeout(10):
            while len(activation.normal) < 2:
                await asyncio.sleep(0)
            commit, turns.on_ended = turns.on_ended, lambda: None  # the next turn is before the commit of this one
            Planner.gate.set()
            while activation.normal:
                await asyncio.sleep(0)
        turns.on_ended = commit
        commit()
        await mesh.idle()
        await mesh.advance(120)
        await mesh.idle()
        assert await notes(mesh) == left


@pytest.mark.parametrize(
    ("turns", "left"),
    [
        (["every old", "destroy"], []),
        (["later old", "destroy"], []),
        (["end old"], []),
        (["every old", "stop"], []),
        (["every old", "timer newer", "every newest", "stop"], []),
        (["timer old", "every newer", "timer newest"], ["newest"]),
        (["stop", "timer newest"], ["newest"]),
        (["every old", "destroy", "timer newest"], ["newest"]),
    ],
    ids=" then ".join,
)
@pytest.mark.parametrize("crashes", [False, True], ids=["same owner", "next owner"])
async def test_turns_that_no_commit_separates_leave_what_the_last_of_them_says(
    turns: list[str], left: list[str], crashes: bool
) -> None:
    async with planners() as mesh:
        await mesh.send(A, DueNote("loads it"))
        await mesh.idle()
        (owned,) = (shard for shard in shards(mesh) if shard._turns.residents.agents)
        async with owned._committer.no_record():
            for turn in turns:
                what, _, text = turn.partition(" ")
                if what == "later":
                    await mesh.send(A, DueNote(text), delay=5.0)
                else:
                    await mesh.send(A, DueDo(what, text, 5.0))
            async with asyncio.timeout(10):
                while len(owned._turns.outcomes) < len(turns):
                    await asyncio.sleep(0)
        await mesh.idle()
        if crashes:
            await mesh.crash()
        await mesh.advance(7)
        await mesh.idle()
        assert [note for note in await notes(mesh) if note != "loads it"] == left


async def test_a_timer_taken_back_before_its_record_does_not_fire_after_it_either() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueNote("loads it"))
        await mesh.idle()
        (owned,) = (shard for shard in shards(mesh) if shard._turns.residents.agents)
        async with owned._committer.no_record():
            await mesh.send(A, DueDo("timer", "old", 1.0))
            await mesh.send(A, DueDo("stop"))
            async with asyncio.timeout(10):
                while len(owned._turns.outcomes) < 2:
                    await asyncio.sleep(0)
            stop = owned._turns.outcomes.pop()  # as if the first record were full: this one's comes later
        async with asyncio.timeout(10):
            while not owned._agenda._heap:
                await asyncio.sleep(0)
            await mesh.advance(2)
            while owned._agenda._heap or in_memory(mesh)[str(A)].state is not State.IDLE:
                await asyncio.sleep(0)
        owned._turns.outcomes.append(stop)
        owned._committer.begin()
        await mesh.idle()
        assert await notes(mesh) == ["loads it"]


async def test_a_timer_that_was_taken_back_is_no_dead_letter_of_the_agent_that_is_parked_next() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueDo("every", "old", 5.0))
        await mesh.idle()
        Planner.gate.clear()
        await mesh.send(A, DueDo("stop"))
        activation = await _running(mesh)
        await mesh.advance(6)
        (owned,) = (shard for shard in shards(mesh) if A in shard._turns.residents.agents)
        async with asyncio.timeout(10):
            while len(activation.normal) < 2:
                await asyncio.sleep(0)
            async with owned._committer.no_record():
                owned._turns.hold()
                Planner.gate.set()
                while len(activation.normal) > 1:
                    await asyncio.sleep(0)
                owned._turns._park(activation, StateUnreadable("does not load"))
                owned._turns.go_on()
        await mesh.idle()
        assert not await mesh.dead_letters()
        assert not owned._due.live


async def test_a_timer_and_a_delayed_message_of_one_name_do_not_touch_each_other() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueNote("delayed"), id="t", delay=5.0)
        await mesh.send(A, DueDo("timer", "replaced", 5.0))
        await mesh.send(A, DueDo("timer", "timer", 5.0))
        await mesh.idle()
        await mesh.crash()
        await mesh.advance(6)
        await mesh.idle()
        assert sorted(await notes(mesh)) == ["delayed", "timer"]


@pytest.mark.parametrize("crashes", [False, True], ids=["same owner", "next owner"])
async def test_all_delayed_messages_of_one_id_are_taken_back_together(crashes: bool) -> None:
    async with planners(shards=1) as mesh:
        await mesh.send(A, DueDo("delay", "chosen", 50.0))
        await mesh.idle()
        (owned,) = (shard for shard in shards(mesh) if shard._turns.residents.agents)
        (own,) = owned._due.live.values()
        await mesh.send(A, DueNote("the same id by chance"), id=own.name, delay=50.0)
        await mesh.idle()
        assert [due.name for due in owned._due.live.values()] == [own.name] * 2
        await mesh.send(A, DueDo("cancel"))
        await mesh.idle()
        assert not owned._due.live
        if crashes:
            await mesh.crash()
        await mesh.advance(60)
        await mesh.idle()
        assert await notes(mesh) == []


LONG_KEY = AgentId("due_planner", "\N{SNOWMAN}" * 80)
"""Each letter of its key is nine in a table key."""


async def test_timers_that_fire_while_no_record_is_stored_go_into_as_many_records_as_they_need() -> None:
    async with planners(shards=1) as mesh:
        for part in range(12):
            await mesh.send(LONG_KEY, DueDo("many", f"{part}", 100))
        await mesh.idle()
        (owned,) = (shard for shard in shards(mesh) if shard._turns.residents.agents)
        assert len(owned._due.live) == 1200
        async with owned._committer.no_record():
            await mesh.advance(60)
            async with asyncio.timeout(20):
                while len(owned._turns.outcomes) < 1200:
                    await asyncio.sleep(0.001)
        await mesh.idle()
        fired = [text for text, _ in Planner.attempts if " " in text]
        assert sorted(fired) == sorted(f"{part} {number}" for part in range(12) for number in range(100))
        assert owned in list(shards(mesh))  # it was not dropped for a record that no server takes


async def test_a_turn_that_leaves_more_than_a_record_holds_fails_and_its_shard_goes_on() -> None:
    async with planners(shards=1) as mesh:
        for part in range(8):
            await mesh.send(LONG_KEY, DueDo("many", f"{part}", 100))
        await mesh.idle()
        (owned,) = (shard for shard in shards(mesh) if shard._turns.residents.agents)
        await mesh.send(A, DueDo("many", "x", 5000))
        await mesh.send(LONG_KEY, DueDo("destroy"))
        await mesh.idle()
        letters = await mesh.dead_letters()
        assert [letter.reason for letter in letters] == ["TooLarge"] * 2
        assert all("do less in a turn" in letter.text for letter in letters)
        await mesh.send(A, DueNote("goes on"))
        await mesh.idle()
        assert await notes(mesh) == ["goes on"]
        assert len(owned._due.live) == 800
        assert owned in list(shards(mesh))


async def _running(mesh: starling.testing.TestMesh) -> Activation:
    async with asyncio.timeout(10):
        while str(A) not in (agents := in_memory(mesh)) or agents[str(A)].state is not State.RUNNING:
            await asyncio.sleep(0)
    return agents[str(A)]


class _NotToLookThrough(dict[str, Due]):
    def __iter__(self) -> Iterator[str]:
        raise AssertionError("a turn looked through all records of its shard")

    items = keys = values = __iter__  # type: ignore[assignment]


async def test_no_turn_looks_through_all_timers_of_its_shard() -> None:
    async with planners(shards=1) as mesh:
        await mesh.send(A, DueDo("timer", "first", 10.0))
        await mesh.send(A, DueDo("delay", "second", 10.0))
        await mesh.idle()
        (shard,) = (shard for shard in shards(mesh) if in_memory(mesh) and shard._turns.residents.agents)
        shard._due.live = _NotToLookThrough(shard._due.live)
        for what in ("timer", "stop", "timer", "cancel", "delay"):
            await mesh.send(A, DueDo(what, "again", 10.0))
        await mesh.idle()
        await mesh.send(A, DueDo("destroy"))
        await mesh.idle()
        assert not len(shard._due.live)
        assert await notes(mesh) == []
        shard._due.live = dict(dict.items(shard._due.live))  # the release may look


async def test_a_timer_that_is_set_again_and_again_takes_room_once_and_fires_once() -> None:
    async with planners(shards=1) as mesh:
        for number in range(3 * SWEEP):
            await mesh.send(A, DueDo("timer", f"{number}", 10.0))
        await mesh.idle()
        (owned,) = (shard for shard in shards(mesh) if shard._turns.residents.agents)
        assert len(owned._due.live) == 1
        assert len(owned._agenda._heap) <= SWEEP
        assert len(owned._turns._leaving) <= SWEEP_LEAVING
        await mesh.advance(60)
        await mesh.idle()
        assert await notes(mesh) == [f"{3 * SWEEP - 1}"]


@pytest.mark.row("RT-59", part="all receive, once")
async def test_a_large_fan_out_goes_out_in_pieces_in_order_and_once_over_crashes() -> None:
    async with planners() as mesh:
        await mesh.send(A, DueDo("fan", "fan", 5000))
        await mesh.send(A, DueNote("after"))
        for _ in range(5):
            await mesh.committed()
            await mesh.crash()
        await mesh.idle()
        for number in range(50):
            heard = await notes(mesh, AgentId("due_planner", f"fan{number}"))
            assert heard == [str(n) for n in range(number, 5000, 50)]
        assert await notes(mesh) == ["after"]


@pytest.mark.row("RT-59", part="10,000 receivers, records below the limit, crashes in the middle", completes=True)
async def test_ten_thousand_receivers_each_hear_once_by_records_below_the_limit_over_crashes() -> None:
    receivers = 10_000
    async with planners() as mesh:
        await mesh.send(A, DueDo("wide", "w", receivers))
        largest = crashes = 0
        names = MeshNames("test").pool(PoolName("due-planner"))
        async with asyncio.timeout(90):
            while not mesh._is_idle() or not crashes:
                await mesh.committed()
                for shard in map(ShardId, range(2)):
                    for one in await mesh._admin.page(names.journal(shard), names.journal_subject(shard), 1):
                        largest = max(largest, len(one.data) if Record.decode(one.data).kind is Kind.COMMIT else 0)
                if crashes < 3:
                    await mesh.crash()
                    crashes += 1
        assert 0 < largest <= limits.MAX_COMMIT
        for first in range(0, receivers, 500):
            keys = [AgentId("due_planner", f"w{number}") for number in range(first, first + 500)]
            heard = await asyncio.gather(*(mesh.call(key, DueAsk()) for key in keys))
            assert heard == [[key.key.removeprefix("w")] for key in keys]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"delay": -1.0}, "delay"),
        ({"delay": 1.0, "at": datetime(2030, 1, 1, tzinfo=UTC)}, "delay"),
        ({"at": datetime(2030, 1, 1)}, "at"),  # noqa: DTZ001 - that it has no zone is the point
        ({"every": 0.5}, "every"),
        ({"every": 5.0, "cron": "* * * * *"}, "timer"),
        ({"cron": "never"}, "cron"),
    ],
    ids=["negative", "both", "no-zone", "too-often", "every-and-cron", "no-rule"],
)
async def test_a_wrong_timer_is_refused_by_its_field(arguments: dict[str, object], field: str) -> None:
    from tests.unit.authoring.outbox import Outbox

    context = Context(
        Outbox(),
        id=A,
        sender=None,
        topic=None,
        message_id="m",
        attempt=1,
        deadline=None,
        created=0.0,
        headers={},
        is_call=False,
    )
    with pytest.raises(SpecError, match=f"^{field}: "):
        context.set_timer("t", DueNote("x"), **arguments)  # type: ignore[arg-type]
