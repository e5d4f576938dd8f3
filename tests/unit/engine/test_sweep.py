"""The sweep of large objects: what is held stays however old it is, what nothing refers to goes."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator

import pytest
from starling.adapters.memory import MemoryServer
from starling.core.due import Due, DueIndex, DueKind
from starling.core.envelope import Envelope, frame_body
from starling.core.ids import AgentId, Epoch, PoolName, ShardId
from starling.core.names import INLETS, cell_key, object_chunks, object_stream
from starling.core.outbox import Outbox
from starling.core.overlay import Overlay
from starling.core.record import Cell, Frame, FrameRef, Target
from starling.core.reference import BODY, CELL, REPLY, Reference, refer
from starling.engine.dead import dead_letter
from starling.engine.journal import Journal
from starling.engine.objects import Objects
from starling.engine.shard_info import PoolSettings
from starling.engine.sweep import DAY, HOUR, Sweep
from starling.engine.table import Table
from starling.provision import PoolStreams, provision_mesh, provision_pool

POOL = PoolName("p")
SHARD = ShardId(0)
AGENT = AgentId("camera", "one")


class Rig:
    """One shard's sweep over a memory store with a clock of its own."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.store = MemoryServer(wall=lambda: self.now).connect("test")
        self.chance = random.Random(1)
        self.settings = PoolSettings(
            mesh="m",
            pool=POOL,
            shards=1,
            incarnation="i",
            agents={},
            wall=lambda: self.now,
            timer=time.monotonic,
            chance=self.chance,
        )
        self.objects = Objects(self.store, "m")
        self.outbox = Outbox()
        self.overlay = Overlay()
        due = DueIndex()
        names = self.settings.names
        self.table = Table(self.store, names, SHARD, Epoch(1), self.overlay, due, Journal(self.store, names, SHARD, 1))
        self.sweep = Sweep(
            self.store,
            self.settings,
            SHARD,
            self.objects,
            outbox=self.outbox,
            due=due,
            table=self.table,
            overlay=self.overlay,
            floors=dict,
        )
        self.due = due

    async def put(self, kind: str, key: str = "") -> Reference:
        reference = refer(POOL, SHARD, kind, self.chance.getrandbits(96), b"data")
        await self.objects.put(reference, b"data", key=key)
        return reference

    async def names(self) -> set[str]:
        return set(await self.objects.names(POOL))

    async def days(self, days: int) -> None:
        """Let so many days pass, with a look in each."""
        for _ in range(days):
            self.now += DAY + 1
            await self.sweep.look(self.now)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    await provision_mesh(made.store, "m")
    await provision_pool(made.store, "m", PoolStreams(POOL, shards=1), known=None, chance=made.chance)
    await made.table.mark()
    yield made
    await made.store.close()


def message(large: Reference) -> Envelope:
    return Envelope(id="1", type="t", body=b"", target=AGENT, large=large)


async def test_a_body_that_nothing_refers_to_goes_after_a_week_and_not_before(rig: Rig) -> None:
    orphan = await rig.put(BODY)
    await rig.days(6)
    assert await rig.names() == {orphan.name}
    await rig.days(2)
    assert await rig.names() == set()


@pytest.mark.parametrize("where", ["mailbox", "dead letter", "outbox", "due record"])
async def test_a_body_stays_as_long_as_something_holds_its_message(rig: Rig, where: str) -> None:
    held, orphan = await rig.put(BODY), await rig.put(BODY)
    envelope, names = message(held), rig.settings.names
    if where == "mailbox":
        subject = names.inlet_subject(SHARD, INLETS[0])
        await (await rig.store.publish(subject, frame_body([envelope.pack()])))
    elif where == "dead letter":
        _, body = dead_letter(envelope, ValueError("no"), attempts=1, now=0.0)
        await (await rig.store.publish(names.dead_subject, body))
    elif where == "outbox":
        target = Target(POOL, "i", SHARD, "n")
        rig.outbox.add(Frame(target, 1, 0, frame_body([envelope.pack()])), FrameRef(1, 0))
    else:
        key = "0.d.camera.one.1-0"
        rig.due.live[key] = Due(key, 0, DueKind.RETRY, "")
        rig.overlay.commit(key, 1, Cell(0, envelope.pack()), 0.0)
    await rig.days(20)
    assert await rig.names() == {held.name}
    assert await rig.objects.get(held) == b"data"
    assert orphan.name not in await rig.names()


async def test_an_answer_goes_after_two_hours(rig: Rig) -> None:
    await rig.put(REPLY)
    rig.now += 1.5 * HOUR
    assert await rig.sweep.look(rig.now) == 0
    rig.now += HOUR
    assert await rig.sweep.look(rig.now) == 1
    assert await rig.names() == set()


async def test_a_cell_keeps_the_object_of_its_present_version_only(rig: Rig) -> None:
    key = cell_key(SHARD, AGENT, "state")
    old, present = await rig.put(CELL, key), await rig.put(CELL, key)
    rig.overlay.commit(key, 1, Cell(1, present.in_cell()), 0.0)
    rig.now += 2 * HOUR
    assert await rig.sweep.look(rig.now) == 0  # the table does not have it yet
    assert await rig.table.write_round(10.0, quiet=0.0, patience=0.0) == 1
    assert await rig.sweep.look(rig.now) == 1
    assert await rig.names() == {present.name}
    assert old.name not in await rig.names()


async def test_chunks_of_an_object_that_was_never_finished_go(rig: Rig) -> None:
    bucket = rig.settings.names.objects
    await (await rig.store.publish(object_chunks(bucket, "0-b-abc-0"), b"half"))
    whole = await rig.put(BODY)
    rig.now += 2 * HOUR
    await rig.sweep.look(rig.now)
    info = await rig.store.stream_info(object_stream(bucket))
    assert info is not None
    assert info.messages == 2
    assert await rig.objects.get(whole) == b"data"
