"""The example's agents, a turn at a time, with nothing but an outbox."""

from __future__ import annotations

import json
from typing import Any

from starling import Agent, AgentId, Context, TopicId
from starling.agent import definition
from starling.messages import encode

from examples.flights.flights import Aircraft, AircraftState, Airport, AirportState, Departed, Movement
from tests.unit.authoring.outbox import Outbox


class Published(Outbox):
    """Keeps what a turn publishes, in order."""

    @property
    def published(self) -> list[tuple[TopicId, str, Any]]:
        return [(topic, name, json.loads(body)) for what, topic, name, body, _ in self.said if what == "publish"]


async def _turns(agent: Agent[Any], *messages: object) -> Published:
    outbox = Published()
    made = definition(type(agent))
    for message in messages:
        context = Context(
            outbox,
            id=agent.id,
            sender=None,
            topic=None,
            message_id="m",
            attempt=1,
            deadline=None,
            created=0.0,
            headers={},
            is_call=False,
        )
        handler, decoded = made.find(*encode(message), False)
        await handler.start(agent, decoded, context)
    return outbox


def _aircraft() -> Agent[Any]:
    return definition(Aircraft).new_agent(AgentId("aircraft", "N1"), AircraftState())


def _flight(number: int, *, cancelled: bool = False, arr_delay: int | None = 20) -> Departed:
    dep_delay = None if cancelled else 10
    return Departed(number, "N1", "UA", "EWR", "LAX", 2400, dep_delay, arr_delay, cancelled)


async def test_an_aircraft_adds_up_its_flights() -> None:
    aircraft = _aircraft()
    await _turns(aircraft, _flight(1), _flight(2, arr_delay=-5), _flight(3, arr_delay=None))
    assert aircraft.state == AircraftState(
        flights=3, miles=7200, minutes_late=15, last_airport="LAX", last_number=3, out_of_order=0
    )


async def test_a_cancelled_flight_is_counted_and_flies_no_miles() -> None:
    aircraft = _aircraft()
    await _turns(aircraft, _flight(1, cancelled=True, arr_delay=None))
    assert aircraft.state == AircraftState(flights=1, cancelled=1, last_number=1)


async def test_an_aircraft_notices_each_event_that_does_not_follow_the_one_before() -> None:
    for numbers, disordered in (((1, 2, 3), 0), ((2, 1, 3), 3), ((1, 1, 2), 1), ((1, 3), 1)):
        aircraft = _aircraft()
        await _turns(aircraft, *map(_flight, numbers))
        assert aircraft.state.out_of_order == disordered, numbers


async def test_both_airports_of_a_flight_hear_of_it_in_the_same_turn() -> None:
    outbox = await _turns(_aircraft(), _flight(1))
    assert outbox.published == [
        (
            TopicId("airport.movement", "EWR"),
            "Movement",
            {"carrier": "UA", "leaving": True, "late": 10, "cancelled": False},
        ),
        (
            TopicId("airport.movement", "LAX"),
            "Movement",
            {"carrier": "UA", "leaving": False, "late": 20, "cancelled": False},
        ),
    ]


async def test_an_airport_adds_up_its_movements() -> None:
    airport = definition(Airport).new_agent(AgentId("airport", "EWR"), AirportState())
    await _turns(
        airport,
        Movement("UA", leaving=True, late=10, cancelled=False),
        Movement("UA", leaving=False, late=-4, cancelled=False),
        Movement("AA", leaving=True, late=0, cancelled=True),
    )
    assert airport.state == AirportState(
        departures=2, arrivals=1, cancelled=1, total_delay=6, carriers={"UA": 2, "AA": 1}
    )


def test_the_handlers_never_wait_so_that_they_run_without_a_task() -> None:
    for cls in (Aircraft, Airport):
        assert [handler.suspends for handler in definition(cls).handlers.values()] == [False, False]
