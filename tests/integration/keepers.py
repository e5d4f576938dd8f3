"""Agents that keep their state in every way there is."""

from __future__ import annotations

from dataclasses import dataclass

from starling import Agent, Cells, Context, cells, event, message, query, rpc


@message("keepers.Put")
@dataclass(frozen=True, slots=True)
class Put:
    cents: int


@message("keepers.Ask")
@dataclass(frozen=True, slots=True)
class Ask:
    what: str = ""


@message("keepers.Cell")
@dataclass(frozen=True, slots=True)
class Cell:
    name: str
    cents: int


@dataclass
class Purse:
    cents: int = 0


class Keeper(Agent[Purse], type="keeper", idle=1.0):
    parts: Cells[Purse] = cells(Purse)

    @event
    async def put(self, message: Put) -> None:
        self.state.cents += message.cents

    @rpc
    async def add(self, message: Cell) -> int:
        part = await self.parts.get(message.name)
        part.cents += message.cents
        return part.cents

    @query
    async def ask(self, message: Ask, ctx: Context) -> int:
        if message.what == "send":
            ctx.send(self.id, Put(1))
        return self.state.cents


class Quick(Agent[Purse], type="quick", durability="none"):
    @rpc
    async def put(self, message: Put) -> int:
        self.state.cents += message.cents
        return self.state.cents

    @query
    async def ask(self, message: Ask) -> int:
        return self.state.cents
