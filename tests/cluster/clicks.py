"""Agents that count: the code that the pools of these tests run, and what the tests say to them."""

from __future__ import annotations

from dataclasses import dataclass

from starling import Agent, Context, Topic, event, rpc

CLICKED = Topic("clicked")


@dataclass
class Clicked:
    number: int


@dataclass
class HowManyClicks:
    pass


@dataclass
class Clicks:
    count: int = 0
    last: int = 0
    in_order: bool = True


class Clicker(Agent[Clicks]):
    @event
    async def clicked(self, message: Clicked, ctx: Context) -> None:
        self.state.count += 1
        self.state.in_order &= message.number == self.state.last + 1
        self.state.last = message.number

    @rpc
    async def how_many(self, message: HowManyClicks, ctx: Context) -> Clicks:
        return self.state
