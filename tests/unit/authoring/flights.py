"""The agents of the design, as a user writes them: type-checked with everything else, and used by the tests here."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel
from starling import Agent, Context, Topic, event, message, rpc

MILESTONES = Topic("airport.milestone")


@dataclass(frozen=True, slots=True)
class Movement:
    flight: str
    minutes_late: int = 0


@message("airport-milestone")
@dataclass(frozen=True, slots=True)
class Milestone:
    movements: int


class ReportRequest(BaseModel):
    pass


class Report(BaseModel):
    text: str


class Now(BaseModel):
    pass


@dataclass(frozen=True, slots=True)
class Observation:
    celsius: float


class Reading(BaseModel):
    celsius: float | None = None


@dataclass
class AirportState:
    movements: int = 0
    by_carrier: dict[str, int] = field(default_factory=dict)


class WeatherState(BaseModel):
    celsius: float | None = None


class Weather(Agent[WeatherState]):
    @event
    async def observed(self, message: Observation) -> None:
        self.state.celsius = message.celsius

    @rpc
    async def now(self, message: Now, ctx: Context) -> Reading:
        return Reading(celsius=self.state.celsius)


class Airport(Agent[AirportState]):
    @event
    async def moved(self, message: Movement, ctx: Context) -> None:
        self.state.movements += 1
        self.state.by_carrier[message.flight[:2]] = self.state.by_carrier.get(message.flight[:2], 0) + 1
        if self.state.movements % 1000 == 0:
            ctx.publish(MILESTONES(self.id.key), Milestone(self.state.movements))

    @rpc
    async def report(self, message: ReportRequest, ctx: Context) -> Report:
        weather = await ctx.agent(Weather, self.id.key).now(Now(), timeout=2.0)
        ctx.agent(Weather, "hub").observed(Observation(0.0))
        celsius: float | None = weather.celsius
        return Report(text=f"{self.id.key}: {self.state.movements} movements, {celsius} C")
