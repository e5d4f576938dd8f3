"""The group-by and the comparison: they find what is lost, doubled or disordered."""

from __future__ import annotations

import copy
from pathlib import Path

from examples.flights.expected import Expected, compare, expected
from examples.flights.replay import read_rows


def _twins(ten_rows: Path) -> tuple[Expected, Expected]:
    wanted = expected(read_rows(ten_rows))
    return wanted, copy.deepcopy(wanted)


def test_the_group_by_of_ten_rows_is_what_one_finds_by_hand(ten_rows: Path) -> None:
    found = expected(read_rows(ten_rows))
    assert found.aircraft["N1"] == {
        "flights": 4,
        "cancelled": 1,
        "miles": 700 + 2400 + 20,
        "minutes_late": 5 + 20 + 9,
        "last_airport": "JFK",
        "last_number": 4,
        "out_of_order": 0,
    }
    assert found.aircraft["N2"]["minutes_late"] == -8
    assert found.aircraft["unknown"]["cancelled"] == found.aircraft["unknown"]["flights"] == 2
    assert found.aircraft["unknown"]["last_airport"] == ""
    assert sorted(found.aircraft) == ["N1", "N2", "N3", "unknown"]
    assert found.airports["JFK"] == {
        "departures": 3,
        "arrivals": 1,
        "cancelled": 1,
        "total_delay": -3 + 4 + 9,
        "carriers": {"9E": 1, "AA": 2, "UA": 1},
    }
    assert sum(airport["departures"] for airport in found.airports.values()) == 10
    assert sum(airport["arrivals"] for airport in found.airports.values()) == 10


def test_the_same_states_compare_as_the_same(ten_rows: Path) -> None:
    found = compare(*_twins(ten_rows))
    assert found.is_same
    assert found.turns == 30
    assert str(found) == "lost 0, doubled 0, out of order 0"


def test_a_lost_flight_is_found_and_named(ten_rows: Path) -> None:
    wanted, seen = _twins(ten_rows)
    seen.aircraft["N1"]["flights"] -= 1
    found = compare(wanted, seen)
    assert (found.lost, found.doubled, found.out_of_order, found.is_same) == (1, 0, 0, False)
    assert found.differences == ("aircraft N1: flights is 3, should be 4",)


def test_a_doubled_movement_is_found_and_does_not_make_up_for_a_lost_one(ten_rows: Path) -> None:
    wanted, seen = _twins(ten_rows)
    seen.airports["JFK"]["departures"] += 1
    seen.airports["ORD"]["arrivals"] -= 1
    found = compare(wanted, seen)
    assert (found.lost, found.doubled, found.is_same) == (1, 1, False)


def test_a_disordered_event_is_found_though_all_numbers_agree(ten_rows: Path) -> None:
    wanted, seen = _twins(ten_rows)
    seen.aircraft["N3"]["out_of_order"] = 2
    found = compare(wanted, seen)
    assert (found.lost, found.doubled, found.out_of_order, found.is_same) == (0, 0, 2, False)


def test_any_other_field_that_differs_fails_too(ten_rows: Path) -> None:
    wanted, seen = _twins(ten_rows)
    seen.airports["JFK"]["carriers"]["AA"] = 1
    found = compare(wanted, seen)
    assert (found.lost, found.doubled, found.out_of_order, found.is_same) == (0, 0, 0, False)
    assert "airport JFK: carriers is" in found.differences[0]


def test_an_agent_that_was_not_read_has_lost_everything_and_a_stranger_is_all_doubled(ten_rows: Path) -> None:
    wanted, seen = _twins(ten_rows)
    assert isinstance(seen.aircraft, dict)
    seen.aircraft["N9"] = seen.aircraft.pop("N1")
    found = compare(wanted, seen)
    assert (found.lost, found.doubled) == (4, 4)
