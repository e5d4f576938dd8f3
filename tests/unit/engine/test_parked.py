"""An agent whose state does not load is parked, never started fresh, and comes back when it is repaired."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from starling import Agent, AgentId, Cells, cells, event, message, migrate, query, rpc, testing
from starling.core.envelope import Envelope
from starling.core.membership import Member
from starling.core.names import bucket_stream, bucket_subject, member_key
from starling.core.record import Cell
from starling.engine.repairs import CELLS, REPAIR
from starling.engine.work import Outcome
from starling.errors import HandlerFailed, StateUnreadable

from tests.unit.engine.meshes import parked, shards


@message("parked.Add")
@dataclass
class Add:
    n: int = 1


@message("parked.Ask")
@dataclass
class Ask:
    pass


@message("parked.AddPart")
@dataclass
class AddPart:
    n: int = 1


@dataclass
class Old:
    cents: int = 0


@dataclass
class New:
    euros: float = 0.0


class Till(Agent[Old]):
    parts: Cells[Old] = cells(Old)

    @event
    async def add(self, message: Add) -> None:
        self.state.cents += message.n

    @rpc
    async def part(self, message: AddPart) -> int:
        part = await self.parts.get("a")
        part.cents += message.n
        return part.cents

    @query
    async def ask(self, message: Ask) -> int:
        return self.state.cents


class Newer(Agent[New], type="till", version=2):
    @migrate(1)
    @staticmethod
    def in_euros(old: dict[str, Any]) -> dict[str, Any]:
        return {"euros": old["cents"] / 100}

    @event
    async def add(self, message: Add) -> None:
        self.state.euros += message.n / 100


class Careless(Agent[New], type="till", version=2):
    """Its author forgot the migrator."""

    @event
    async def add(self, message: Add) -> None:
        self.state.euros += message.n / 100


TILL = AgentId("till", "1")


async def spoil(mesh: testing.TestMesh, data: bytes, *, cell: str = "state", version: int = 1) -> None:
    """Commit bytes that do not load, as a bug or a broken disk would."""
    shard = mesh._shard("till", "1")
    outcome = Outcome()
    outcome.cell(shard._turns.key_of(TILL).replace(".state", f".{cell}"), Cell(version, data))
    await shard._turns.commit(outcome)


async def repair(mesh: testing.TestMesh, **wanted: Any) -> None:
    await mesh.query_raw(TILL, REPAIR, msgpack.packb(wanted))


@pytest.mark.row("RT-38", part="migrators")
async def test_state_of_version_one_loads_in_code_of_version_two() -> None:
    async with testing.mesh(Till) as mesh:
        await mesh.send(TILL, Add(150))
        await mesh.idle()
        await mesh.crash(Newer)
        await mesh.send(TILL, Add(50))
        await mesh.idle()
        assert (await mesh.state(Newer, "1")).euros == 2.0
        assert parked(mesh) == 0


@pytest.mark.row("RT-38", part="missing migrator: parked, not reset", completes=True)
async def test_a_missing_migrator_parks_the_agent_until_code_comes_that_has_it() -> None:
    async with testing.mesh(Till) as mesh:
        await mesh.send(TILL, Add(150))
        await mesh.idle()
        await mesh.crash(Careless)
        await mesh.send(TILL, Add(50))
        await mesh.idle()
        assert parked(mesh) == 1
        (letter,) = await mesh.dead_letters()
        assert (letter.reason, letter.text) == (
            "StateUnreadable",
            "state of till: stored by version 1, and no @migrate(1) leads on to version 2",
        )
        await mesh.crash(Newer)
        await mesh.send(TILL, Add(50))
        await mesh.idle()
        assert (await mesh.state(Newer, "1")).euros == 2.0


@pytest.mark.row("RT-39", part="parked and repaired")
async def test_a_corrupt_state_parks_its_agent_only_and_a_repair_brings_it_back() -> None:
    async with testing.mesh(Till, shards=1) as mesh:
        await mesh.send(TILL, Add(7))
        await mesh.idle()
        await spoil(mesh, b'{"cents": "many"}')
        await mesh.crash()

        for n in range(3):
            await mesh.send(TILL, Add(n))
        await mesh.send(AgentId("till", "2"), Add(5))
        await mesh.idle()
        with pytest.raises(StateUnreadable, match=r"state of till\.cents"):
            await mesh.call(TILL, Add())
        with pytest.raises(StateUnreadable):
            await mesh.query(TILL, Ask())

        letters = await mesh.dead_letters()
        assert [letter.reason for letter in letters] == ["StateUnreadable"] * 3
        assert all(isinstance(letter.envelope, Envelope) and letter.envelope.target == TILL for letter in letters)
        assert parked(mesh) == 1
        assert (await mesh.state(Till, "2")).cents == 5
        assert mesh._pools[0].workers[0].not_ready == ""
        kept = msgpack.unpackb((await mesh.query_raw(TILL, CELLS, b""))[1])
        assert kept["state"] == [1, b'{"cents": "many"}']  # untouched

        with pytest.raises(StateUnreadable):
            await repair(mesh, data=b'{"cents": "few"}')
        assert parked(mesh) == 1
        await repair(mesh, data=json.dumps({"cents": 7}).encode())
        assert parked(mesh) == 0
        await mesh.send(TILL, Add(1))
        await mesh.idle()
        assert (await mesh.state(Till, "1")).cents == 8
        await mesh.crash()
        assert await mesh.query(TILL, Ask()) == 8


@pytest.mark.row("RT-39", part="parked and repaired")
async def test_a_repair_may_destroy_the_agent_which_then_starts_fresh() -> None:
    async with testing.mesh(Till) as mesh:
        await mesh.call(TILL, Add(3))
        assert await mesh.agent(Till, "1").part(AddPart(3)) == 3
        await spoil(mesh, b"{", version=1)
        await mesh.crash()
        await mesh.send(TILL, Add())
        await mesh.idle()
        await repair(mesh, destroy=True)
        await mesh.send(TILL, Add(1))
        await mesh.idle()
        assert (await mesh.state(Till, "1")).cents == 1
        assert await mesh.agent(Till, "1").part(AddPart(0)) == 0


async def test_a_named_cell_that_does_not_load_parks_its_agent_and_can_be_repaired_alone() -> None:
    async with testing.mesh(Till) as mesh:
        assert await mesh.agent(Till, "1").part(AddPart(3)) == 3
        await spoil(mesh, b'{"cents": "many"}', cell="parts=2Fa")
        await mesh.crash()
        await mesh.call(TILL, Add(4))
        with pytest.raises(StateUnreadable, match=r"parts of Till\.cents"):
            await mesh.agent(Till, "1").part(AddPart(3))
        assert parked(mesh) == 1
        with pytest.raises(StateUnreadable):
            await repair(mesh, cell="parts/a", data=b"[]")
        await repair(mesh, cell="parts/a", data=b'{"cents": 3}')
        assert await mesh.agent(Till, "1").part(AddPart(1)) == 4
        assert (await mesh.state(Till, "1")).cents == 4


async def test_a_repair_of_what_needs_none_or_makes_no_sense_is_refused() -> None:
    async with testing.mesh(Till) as mesh:
        await mesh.send(TILL, Add(3))
        await mesh.idle()
        with pytest.raises(HandlerFailed, match="till/1 is not parked"):
            await repair(mesh, data=b"{}")
        await spoil(mesh, b"{")
        await mesh.crash()
        await mesh.send(TILL, Add(3))
        await mesh.idle()
        for wrong in ({}, {"data": "text"}, {"cell": "lids/a", "data": b"{}"}):
            with pytest.raises(HandlerFailed, match="repair"):
                await repair(mesh, **wrong)
        assert parked(mesh) == 1
        assert sum(1 for _ in shards(mesh)) == 4


async def test_all_cells_of_an_agent_are_read_as_they_are_committed() -> None:
    async with testing.mesh(Till) as mesh:
        await mesh.call(TILL, Add(3))
        await mesh.agent(Till, "1").part(AddPart(2))
        _, body = await mesh.query_raw(TILL, CELLS, b"")
        assert msgpack.unpackb(body) == {
            "state": [1, b'{"cents":3}'],
            "parts/a": [1, b'{"cents":2}'],
            "_cells": [1, b'["parts/a"]'],
        }
        assert msgpack.unpackb((await mesh.query_raw(AgentId("till", "never"), CELLS, b""))[1]) == {}


@pytest.mark.row("RT-39", part="pod tells of its parked agents", completes=True)
async def test_a_pod_tells_in_its_entry_how_many_agents_are_parked_until_they_are_repaired() -> None:
    async with testing.mesh(Till) as mesh:
        await mesh.send(TILL, Add(1))
        await mesh.idle()
        await spoil(mesh, b"\xff")
        await mesh.crash()
        await mesh.send(TILL, Add(1))
        await mesh.idle()
        assert await told_of(mesh, 1) == "till/1"
        await repair(mesh, destroy=True)
        assert await told_of(mesh, 0) == ""


async def told_of(mesh: testing.TestMesh, count: int) -> str:
    """Wait until the members' entries count so many, and return the agent that they name."""
    (pool,) = mesh._pools
    subject = bucket_subject("st_test_members", member_key(pool.name, pool.workers[0].members.own.pod))
    async with asyncio.timeout(30):
        while True:
            found = await mesh._admin.last(bucket_stream("st_test_members"), subject)
            if found is not None and (member := Member.decode(found.data)).parked == count:
                return member.parked_agent
            await mesh.advance(1)
