"""Queries of a run: what clients ask past the log, and what the answers must be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from starling.agent import definition
from starling.client import Mesh
from starling.core.ids import AgentId
from starling.core.names import cell_key
from starling.errors import CallFailed, Unreachable

from .agents import Look, Noted, One, Tags, WaitAndLook
from .checks import Records
from .large import Held, Kept, content
from .process import Where

PATIENCE = 2.0
"""Seconds for which a query waits for an owner."""


class Ask(NamedTuple):
    """One query. at: seconds."""

    at: float
    agent: AgentId
    waits: bool


class Said(NamedTuple):
    """One answer. journal: last sequence of the shard's journal when the answer was heard."""

    client: str
    agent: AgentId
    tags: tuple[str, ...]
    where: Where
    journal: int


def draw_asks(chance: random.Random, agents: list[AgentId], *, most: int, seconds: float) -> list[Ask]:
    """Return the queries of one client, in order; of few agents, so that some are asked again."""
    count = chance.choice((0, 0, most))
    few = chance.sample(agents, min(2, len(agents)))
    drawn = (Ask(chance.random() * seconds, chance.choice(few), chance.random() < 0.3) for _ in range(count))
    return sorted(drawn, key=lambda ask: ask.at)


async def ask_all(
    client: Mesh, name: str, asks: list[Ask], journal_of: Callable[[AgentId], tuple[Where, int]], said: list[Said]
) -> None:
    """Ask one after the other, and note what is answered; that there is no owner now is no answer."""
    loop = asyncio.get_running_loop()
    for ask in asks:
        await asyncio.sleep(max(0.0, ask.at - loop.time()))
        try:
            answer = await client.query(ask.agent, WaitAndLook() if ask.waits else Look(), timeout=PATIENCE)
        except (CallFailed, Unreachable):
            continue
        assert isinstance(answer, Tags)
        said.append(Said(name, ask.agent, answer.tags, *journal_of(ask.agent)))


def views(said: list[Said], records: Records, objects: Mapping[Held, Kept]) -> Iterator[str]:
    """A query sees only what is committed, and one who asks again never sees less than before."""
    before: dict[tuple[str, AgentId], tuple[str, ...]] = {}
    committed = _Committed(records, objects)
    for one in said:
        first = committed.first(one.where, one.agent).get(one.tags, None if one.tags else 0)
        if first is None or first > one.journal:
            yield f"query: {one.client} was told {one.tags} of {one.agent}, which was not committed then"
        seen = before.get((one.client, one.agent), ())
        if one.tags[: len(seen)] != seen:
            yield f"query: {one.client} was told {one.tags} of {one.agent}, after {seen}"
        before[one.client, one.agent] = one.tags


class _Committed:
    """Every state that was committed of an agent, with the sequence of the first record that has it."""

    def __init__(self, records: Records, objects: Mapping[Held, Kept]) -> None:
        self._records = records
        self._objects = objects
        self._found: dict[AgentId, Mapping[tuple[str, ...], int]] = {}

    def first(self, where: Where, agent: AgentId) -> Mapping[tuple[str, ...], int]:
        if agent not in self._found:
            self._found[agent] = self._states(where, cell_key(where[1], agent, "state"))
        return self._found[agent]

    def _states(self, where: Where, key: str) -> Mapping[tuple[str, ...], int]:
        found: dict[tuple[str, ...], int] = {}
        for sequence, record in self._records[where]:
            cell = record.cells.get(key)
            if cell is not None and cell.data is not None:
                found.setdefault(tags_of(content(self._objects, where[0], cell.data)), sequence)
        return found


def tags_of(data: bytes | None) -> tuple[str, ...]:
    """Return the tags of an agent's state; none without one."""
    return tuple(noted_in(data).tags)


def noted_in(data: bytes | None) -> Noted:
    """Return an agent's state from what is stored of it."""
    noted = Noted() if data is None else definition(One).load_state(data)
    assert isinstance(noted, Noted)
    return noted
