"""Instruments of agent authors."""

from __future__ import annotations

import asyncio
import math
import random
import threading

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starling.errors import SpecError
from starling.instruments import Instruments


@pytest.fixture
def made() -> Instruments:
    return Instruments()


def series(made: Instruments) -> dict[str, float]:
    text = generate_latest(made.registry).decode()
    return {
        "".join((sample.name, *(f" {name}={value}" for name, value in sorted(sample.labels.items())))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@pytest.mark.row("CP-25", part="counter")
def test_a_counter_only_grows(made: Instruments) -> None:
    sold = made.counter("seats_sold", "Seats sold.")
    sold.add()
    sold.add(2.5)
    with pytest.raises(SpecError, match="only grows"):
        sold.add(-1)
    assert sold.value() == 3.5
    assert series(made) == {"seats_sold_total": 3.5}


@pytest.mark.row("CP-25", part="gauge")
def test_a_gauge_shows_the_last_value(made: Instruments) -> None:
    open_orders = made.gauge("open_orders", "Orders that are open.")
    open_orders.set(7)
    open_orders.set(3)
    assert open_orders.value() == 3
    assert series(made) == {"open_orders": 3}


@pytest.mark.row("CP-17", part="two tag sets give two series")
def test_each_set_of_labels_is_a_series_of_its_own(made: Instruments) -> None:
    sold = made.counter("seats_sold", "Seats sold.", labels={"cabin": ("first", "economy")})
    sold.add(1, cabin="first")
    sold.add(5, cabin="economy")
    assert series(made) == {"seats_sold_total cabin=first": 1, "seats_sold_total cabin=economy": 5}


@pytest.mark.row("CP-17", part="labels of authors have a bound")
def test_a_value_that_was_not_named_counts_as_other(made: Instruments) -> None:
    sold = made.counter("seats_sold", "Seats sold.", labels={"cabin": ("first", "economy")})
    for passenger in range(1000):
        sold.add(cabin=f"passenger {passenger}")
    assert series(made) == {"seats_sold_total cabin=other": 1000}


@pytest.mark.row("CP-25", part="quantiles")
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_is_off_by_less_than_its_bucket(made: Instruments, share: float) -> None:
    bounds = [float(bound) for bound in range(10, 110, 10)]
    sizes = made.histogram("order_bytes", "Size of orders.", buckets=bounds)
    values = sorted(random.Random(1).uniform(0, 100) for _ in range(5000))
    for value in values:
        sizes.record(value)
    exact = values[min(int(share * len(values)), len(values) - 1)]
    assert abs(sizes.quantile(share) - exact) <= 10
    assert sizes.count() == 5000
    assert sizes.total() == pytest.approx(sum(values))


def test_a_quantile_above_the_last_bound_is_that_bound_and_of_nothing_is_nan(made: Instruments) -> None:
    sizes = made.histogram("order_bytes", "Size of orders.", buckets=(1.0, 2.0))
    assert math.isnan(sizes.quantile(0.5))
    sizes.record(1000)
    assert sizes.quantile(0.5) == 2.0


@pytest.mark.row("CP-25")
async def test_a_timer_measures_async_code_until_it_returns(made: Instruments) -> None:
    naps = made.timer("nap_seconds", "Naps.")

    @naps.timed
    async def nap() -> str:
        await asyncio.sleep(0.2)
        return "rested"

    assert await nap() == "rested"
    with naps.time():
        await asyncio.sleep(0.2)
    assert naps.count() == 2
    assert naps.total() == pytest.approx(0.4, abs=0.2)
    assert naps.total() >= 0.4 - 0.01


def test_a_timer_measures_plain_code_also_when_it_raises(made: Instruments) -> None:
    tries = made.timer("try_seconds", "Tries.")

    @tries.timed
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert tries.count() == 1


@pytest.mark.row("CP-25", part="two reads at once")
def test_two_reads_at_once_do_not_block_each_other(made: Instruments) -> None:
    sold = made.counter("seats_sold", "Seats sold.")
    both = threading.Barrier(2)
    read: list[int] = []

    def scrape() -> None:
        for _ in range(50):
            both.wait(10)
            read.append(len(generate_latest(made.registry)))
            sold.add()

    readers = [threading.Thread(target=scrape) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(20)
        assert not reader.is_alive()
    assert len(read) == 100
    assert sold.value() == 100


@pytest.mark.row("CP-26", part="meters are isolated")
def test_instruments_of_two_tests_do_not_know_each_other() -> None:
    first, second = Instruments(), Instruments()
    first.counter("seats_sold", "Seats sold.").add(5)
    assert second.counter("seats_sold", "Seats sold.").value() == 0


@pytest.mark.parametrize(
    ("name", "labels", "problem"),
    [
        ("Seats", {}, "small letters"),
        ("starling_seats", {}, "mesh's own"),
        ("seats", {"cabin": ()}, "all of its values"),
        ("seats", {"cabin": "first"}, "all of its values"),
        ("seats", {"a": tuple("abcdefghij" * 4), "b": [str(n) for n in range(999)]}, "series, at most"),
    ],
)
def test_a_wrong_instrument_is_refused_with_the_reason(
    made: Instruments, name: str, labels: dict[str, tuple[str, ...]], problem: str
) -> None:
    with pytest.raises(SpecError, match=problem):
        made.counter(name, "Text.", labels=labels)


def test_an_instrument_is_made_once(made: Instruments) -> None:
    made.counter("seats", "Seats.")
    with pytest.raises(SpecError, match="there already"):
        made.gauge("seats", "Seats.")


def test_missing_and_unknown_labels_are_named(made: Instruments) -> None:
    sold = made.counter("seats", "Seats.", labels={"cabin": ("first",)})
    with pytest.raises(SpecError, match=r"seats\.labels.*give cabin"):
        sold.add()
    with pytest.raises(SpecError, match="has row"):
        sold.add(row="1")


def test_a_timers_name_says_its_unit(made: Instruments) -> None:
    with pytest.raises(SpecError, match="nap_seconds"):
        made.timer("nap", "Naps.")
