"""The agents of the design, as a user writes them: type-checked with everything else, and used by the tests here."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel
from starling import Agent, AgentId, Context, Topic, TopicId, event, message, rpc
from starling.agent import definition
from starling.handlers import Kind

from tests.unit.authoring.outbox import Outbox

MILESTONES = Topic("airport.milestone")


@message("airport-movement")
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


def context(outbox: Outbox) -> Context:
    return Context(
        outbox,
        id=AgentId("airport", "EWR"),
        sender=None,
        topic=None,
        message_id="m1",
        attempt=1,
        deadline=None,
        created=0.0,
        headers={},
        is_call=False,
    )


def test_the_agents_of_the_design_are_understood() -> None:
    made = definition(Airport)
    assert (made.type, made.has_state, made.state_version) == ("airport", True, 1)
    assert {name: handler.kind for name, handler in made.handlers.items()} == {"moved": Kind.EVENT, "report": Kind.RPC}
    assert {name: handler.suspends for name, handler in made.handlers.items()} == {"moved": False, "report": True}


async def test_a_turn_of_the_design_runs_with_nothing_but_an_outbox() -> None:
    made = definition(Airport)
    airport = made.new_agent(AgentId("airport", "EWR"), AirportState(movements=999))
    outbox = Outbox(answer=("Reading", b'{"celsius":21.5}'))
    handler, moved = made.find("airport-movement", b'{"flight":"UA1545"}', False)
    await handler.start(airport, moved, context(outbox))
    handler, request = made.find("ReportRequest", b"{}", True)
    report = await handler.start(airport, request, context(outbox))

    assert handler.encode_result(report) == ("Report", b'{"text":"EWR: 1000 movements, 21.5 C"}')
    assert made.dump_state(airport.state) == b'{"movements":1000,"by_carrier":{"UA":1}}'
    assert outbox.said == [
        ("publish", TopicId("airport.milestone", "EWR"), "airport-milestone", b'{"movements":1000}', {}),
        ("call", AgentId("weather", "EWR"), "Now", b"{}", {}, 2.0),
        ("send", AgentId("weather", "hub"), "Observation", b'{"celsius":0.0}', {}),
    ]
