"""Parts of an agent's state that are loaded on demand and written when they changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import BaseModel, Field
from starling import Agent, AgentId, Cells, OneCell, cell, cells
from starling.agent import definition
from starling.core import limits
from starling.core.record import Cell
from starling.errors import DecodeError, SpecError, StateUnreadable, TooLarge
from starling.named_cells import KEEP_BYTES, CellSet, names_in


class Part(BaseModel):
    text: str = ""
    count: int = 0


class History(BaseModel):
    lines: list[str] = Field(default_factory=list)


class Yard(Agent):
    parts: Cells[Part] = cells(Part)
    history: OneCell[History] = cell(History)


class Store:
    """Cells of one agent as the journal and the table have them, and what was asked of them."""

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        self.reads: list[str] = []
        self.writes: list[str] = []

    async def read(self, names: Sequence[str]) -> Mapping[str, Cell | None]:
        await asyncio.sleep(0)
        self.reads += names
        return {name: self.cells.get(name) for name in names}

    def agent(self) -> tuple[Yard, CellSet]:
        made = definition(Yard)
        held = CellSet(made.cells, made.migrations, self.read)
        agent = made.new_agent(AgentId("yard", "north"), None, held)
        assert isinstance(agent, Yard)
        return agent, held

    async def commit(self, held: CellSet) -> None:
        """End a good turn, as the engine does."""
        changed = await held.changes()
        held.keep(changed)
        self.writes += changed
        self.cells.update(changed)
        self.cells = {name: one for name, one in self.cells.items() if one.data is not None}


@pytest.fixture
def store() -> Store:
    return Store()


async def test_a_cell_is_changed_in_place_and_found_by_the_next_instance(store: Store) -> None:
    agent, held = store.agent()
    (await agent.parts.get("17")).count = 3
    (await agent.history.get()).lines.append("seen")
    await store.commit(held)

    again, _ = store.agent()
    assert (await again.parts.get("17")).count == 3
    assert (await again.history.get()).lines == ["seen"]
    assert (await again.parts.get("18")).count == 0


@pytest.mark.row("RT-86", part="cells read and written")
async def test_a_turn_that_touches_one_of_a_hundred_cells_reads_and_writes_that_one(store: Store) -> None:
    agent, held = store.agent()
    for n in range(100):
        agent.parts.set(str(n), Part(text="x" * 1000))
        await store.commit(held)
    agent, held = store.agent()
    store.reads.clear()
    store.writes.clear()

    (await agent.parts.get("42")).count += 1
    await store.commit(held)

    assert store.reads == ["parts/42"]
    assert store.writes == ["parts/42"]
    store.reads.clear()
    (await agent.parts.get("42")).count += 1
    await store.commit(held)
    assert store.reads == []


async def test_a_cell_that_was_only_read_is_not_written(store: Store) -> None:
    agent, held = store.agent()
    await agent.parts.get("17")
    await agent.history.get()
    await store.commit(held)
    assert store.writes == []
    assert "_cells" not in store.reads


async def test_the_hidden_list_of_names_changes_only_with_the_names(store: Store) -> None:
    agent, held = store.agent()
    for _ in range(3):
        (await agent.parts.get("a")).count += 1
        await store.commit(held)
    assert store.writes == ["parts/a", "_cells", "parts/a", "parts/a"]

    agent.parts.drop("a")
    (await agent.history.get()).lines.append("dropped")
    await store.commit(held)
    assert list(names_in(store.cells["_cells"].data)) == ["history"]
    assert "parts/a" not in store.cells


async def test_a_dropped_cell_is_new_again(store: Store) -> None:
    agent, held = store.agent()
    agent.parts.set("a", Part(count=9))
    await store.commit(held)

    agent.parts.drop("a")
    assert (await agent.parts.get("a")).count == 0
    (await agent.parts.get("a")).text = "anew"
    await store.commit(held)

    fresh, _ = store.agent()
    assert await fresh.parts.get("a") == Part(text="anew")


async def test_names_know_what_this_turn_does(store: Store) -> None:
    agent, held = store.agent()
    agent.parts.set("a", Part())
    agent.parts.set("b", Part())
    assert await agent.parts.names() == ["a", "b"]
    await store.commit(held)
    agent.parts.drop("a")
    assert await agent.parts.names() == ["b"]


async def test_a_failed_turn_leaves_every_cell_as_it_was(store: Store) -> None:
    agent, held = store.agent()
    agent.parts.set("a", Part(count=1))
    agent.parts.set("b", Part(count=1))
    await store.commit(held)
    store.writes.clear()

    (await agent.parts.get("a")).count = 99
    agent.parts.drop("b")
    agent.parts.set("c", Part(count=99))
    await held.changes()
    held.roll_back()

    assert (await agent.parts.get("a")).count == 1
    assert (await agent.parts.get("b")).count == 1
    assert (await agent.parts.get("c")).count == 0
    await store.commit(held)
    assert store.writes == []


async def test_a_failed_turn_keeps_what_an_earlier_one_has_not_committed_yet(store: Store) -> None:
    agent, held = store.agent()
    agent.parts.set("a", Part(count=1))
    held.keep(await held.changes())  # good, and still on its way to the journal
    agent.parts.drop("a")
    (await agent.parts.get("a")).count = 2
    held.roll_back()
    assert (await agent.parts.get("a")).count == 1


async def test_two_parts_of_a_turn_get_the_same_cell(store: Store) -> None:
    store.cells["parts/a"] = Cell(1, b'{"count": 5}')
    agent, _ = store.agent()
    first, second = await asyncio.gather(agent.parts.get("a"), agent.parts.get("a"))
    assert first is second


async def test_only_so_much_stays_in_memory_and_the_newest_does(store: Store) -> None:
    agent, held = store.agent()
    for n in range(5):
        agent.parts.set(str(n), Part(text="x" * (KEEP_BYTES // 3)))
        await store.commit(held)
    held.trim()
    store.reads.clear()
    for n in (4, 3, 0):
        await agent.parts.get(str(n))
    assert store.reads == ["parts/0"]


async def test_a_cell_that_cannot_be_read_is_an_error_and_no_fresh_one(store: Store) -> None:
    store.cells = {"parts/a": Cell(1, b'{"count": "many"}'), "parts/b": Cell(2, b"{}"), "_cells": Cell(1, b"{")}
    agent, _ = store.agent()
    with pytest.raises(StateUnreadable, match=r"parts of Yard\.count"):
        await agent.parts.get("a")
    with pytest.raises(StateUnreadable, match="parts of yard: stored by version 2"):
        await agent.parts.get("b")
    with pytest.raises(StateUnreadable, match="names of cells"):
        await agent.parts.names()


async def test_what_does_not_fit_is_refused_by_name(store: Store) -> None:
    agent, held = store.agent()
    (await agent.parts.get("a")).count = "many"  # type: ignore[assignment]
    with pytest.raises(DecodeError, match=r"parts of Yard\.count"):
        await held.changes()
    held.roll_back()
    agent.parts.set("a", Part(text="x" * limits.MAX_LARGE))
    with pytest.raises(TooLarge, match="parts of Yard"):
        await held.changes()
    held.roll_back()
    for n in range(3):
        agent.parts.set(str(n), Part(text="x" * 200_000))
    with pytest.raises(TooLarge, match="one turn changed more than"):
        await held.changes()


@pytest.mark.parametrize("name", ["", "x" * 129, 17])
async def test_a_bad_name_of_a_cell_is_refused(store: Store, name: Any) -> None:
    agent, _ = store.agent()
    with pytest.raises(SpecError, match=r"parts: .* is no name of a cell"):
        await agent.parts.get(name)
    with pytest.raises(SpecError, match=r"parts: is given a History; its cells are Part"):
        agent.parts.set("a", History())  # type: ignore[arg-type]


async def test_cells_outside_of_a_mesh_say_so() -> None:
    agent = definition(Yard).new_agent(AgentId("yard", "north"), None)
    assert isinstance(agent, Yard)
    with pytest.raises(SpecError, match="only while the agent runs"):
        await agent.history.get()


def test_wrong_declarations_are_refused_when_the_class_is_made() -> None:
    class Bare(BaseModel):
        needed: int

    with pytest.raises(SpecError, match=r"Wrong\.parts: Bare needs a default for every field"):

        class Wrong(Agent):
            parts = cells(Bare)

    with pytest.raises(SpecError, match=r"Plain\.parts: .*must be a pydantic model or a dataclass"):

        class Plain(Agent):
            parts = cells(int)

    with pytest.raises(SpecError, match=r"Hidden\._parts: .*without a leading underscore"):

        class Hidden(Agent):
            _parts = cells(Part)

    with pytest.raises(SpecError, match="cells have to be recorded"):

        class Lost(Agent, durability="none"):
            parts = cells(Part)
