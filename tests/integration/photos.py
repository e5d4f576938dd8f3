"""An agent whose messages, answers and state are all larger than a message of the store may be."""

from __future__ import annotations

from dataclasses import dataclass

from starling import Agent, message, rpc


@message("photos.Photo")
@dataclass
class Photo:
    pixels: str


@message("photos.Show")
@dataclass
class Show:
    pass


@dataclass
class Frame:
    pixels: str = ""
    shown: int = 0


class Wall(Agent[Frame], type="wall"):
    @rpc
    async def hang(self, message: Photo) -> int:
        self.state.pixels = message.pixels
        return len(message.pixels)

    @rpc
    async def show(self, message: Show) -> str:
        self.state.shown += 1
        return self.state.pixels
