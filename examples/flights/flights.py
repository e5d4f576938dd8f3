"""Every flight that left New York in 2013: an agent for each aircraft, and one for each airport."""

from __future__ import annotations

from dataclasses import dataclass, field

from starling import Agent, Context, Topic, event, rpc

DEPARTED = Topic("flight.departed")
MOVEMENT = Topic("airport.movement")


@dataclass(frozen=True, slots=True)
class Departed:
    """One flight. number: counts the flights of its tail number, from 1; miles; delays in minutes, None: unknown."""

    number: int
    tail: str
    carrier: str
    origin: str
    dest: str
    distance: int
    dep_delay: int | None
    arr_delay: int | None
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Movement:
    """A flight as one of its two airports sees it. late: minutes, 0 when unknown."""

    carrier: str
    leaving: bool
    late: int
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks an agent for its state."""


@dataclass
class AircraftState:
    """flights: the cancelled ones among them; miles: flown; minutes_late: at arrival, early ones count against it."""

    flights: int = 0
    cancelled: int = 0
    miles: int = 0
    minutes_late: int = 0
    last_airport: str = ""
    last_number: int = 0
    out_of_order: int = 0


class Aircraft(Agent[AircraftState]):
    @event
    async def departed(self, flight: Departed, ctx: Context) -> None:
        state = self.state
        state.flights += 1
        if flight.number != state.last_number + 1:
            state.out_of_order += 1
        state.last_number = flight.number
        if flight.cancelled:
            state.cancelled += 1
        else:
            state.miles += flight.distance
            state.minutes_late += flight.arr_delay or 0
            state.last_airport = flight.dest
        ctx.publish(MOVEMENT(flight.origin), Movement(flight.carrier, True, flight.dep_delay or 0, flight.cancelled))
        ctx.publish(MOVEMENT(flight.dest), Movement(flight.carrier, False, flight.arr_delay or 0, flight.cancelled))

    @rpc
    async def read(self, message: Ask) -> AircraftState:
        return self.state


@dataclass
class AirportState:
    """departures, arrivals: the cancelled ones among them; total_delay: minutes; carriers: to their movements."""

    departures: int = 0
    arrivals: int = 0
    cancelled: int = 0
    total_delay: int = 0
    carriers: dict[str, int] = field(default_factory=dict)


class Airport(Agent[AirportState]):
    @event
    async def moved(self, movement: Movement) -> None:
        state = self.state
        if movement.leaving:
            state.departures += 1
        else:
            state.arrivals += 1
        state.cancelled += movement.cancelled
        state.total_delay += movement.late
        state.carriers[movement.carrier] = state.carriers.get(movement.carrier, 0) + 1

    @rpc
    async def read(self, message: Ask) -> AirportState:
        return self.state
