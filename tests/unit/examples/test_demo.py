"""The demo's result: written whatever happens, with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from starling.errors import SpecError

from examples.flights.demo import Options, run_demo, stage_of
from examples.flights.dev_stage import DevStage
from examples.flights.expected import Comparison
from examples.flights.result import Result
from examples.flights.stage import DemoFailed, Killed

FIELDS = {
    *("flights", "turns", "lost", "doubled", "out_of_order", "kills", "moves", "scale_ups"),
    *("recovery_seconds", "seconds", "turns_per_second", "checks"),
}


class BrokenStage:
    """A place where nothing starts."""

    name = "broken"
    nats_url = ""
    mesh = ""
    stopped = 0

    async def start(self) -> None:
        raise DemoFailed("no power")

    async def stop(self) -> None:
        self.stopped += 1

    async def pods(self) -> Mapping[str, int]:
        return {}

    async def moves(self) -> Sequence[str]:
        return []

    async def scale_ups(self) -> Sequence[str]:
        return []

    async def kill_worker(self, pool: str) -> Killed:
        raise DemoFailed("no worker")

    async def kill_operator(self) -> None:
        raise DemoFailed("no operator")

    async def start_operator(self) -> None:
        raise DemoFailed("no operator")

    async def checks(self) -> Mapping[str, tuple[bool, str]]:
        return {}


async def test_a_demo_that_crashes_writes_its_result_with_the_reason_and_stops_what_it_started(tmp_path: Path) -> None:
    stage, said = BrokenStage(), list[str]()
    result = await run_demo(stage, Options(tmp_path / "deep" / "result.json", every=20_000), said.append)
    written = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert not result.ok
    assert written["ok"] is False
    assert set(written) >= FIELDS
    assert written["checks"]["finished"] == {"ok": False, "reason": "DemoFailed: no power"}
    assert (written["flights"], written["lost"], written["turns"]) == (17, None, None)
    assert stage.stopped == 1
    assert said[-1] == "lost unknown, doubled unknown, out of order unknown"
    assert "FAILED finished: DemoFailed: no power" in said


def test_a_result_is_good_only_if_every_check_holds() -> None:
    result = Result("dev")
    fresh = result.ok
    result.compared(Comparison(turns=30, lost=0, doubled=0, out_of_order=0, differences=()))
    compared = result.ok
    assert result.last_line() == "lost 0, doubled 0, out of order 0"
    result.check("moved", False, "0 moves because of load")
    assert (fresh, compared, result.ok) == (False, True, False)


@pytest.mark.parametrize(
    ("comparison", "failed"),
    [
        (Comparison(1, lost=2, doubled=0, out_of_order=0, differences=("a", "b")), {"lost", "states"}),
        (Comparison(1, lost=0, doubled=3, out_of_order=0, differences=("a",)), {"doubled", "states"}),
        (Comparison(1, lost=0, doubled=0, out_of_order=1, differences=("a",)), {"order", "states"}),
        (Comparison(1, lost=0, doubled=0, out_of_order=0, differences=("a",)), {"states"}),
    ],
)
def test_each_kind_of_difference_fails_a_check_of_its_own(comparison: Comparison, failed: set[str]) -> None:
    result = Result("dev")
    result.compared(comparison)
    assert {name for name, check in result.checks.items() if not check.ok} == failed


def test_a_check_that_failed_once_stays_failed() -> None:
    result = Result("dev")
    result.check("killed", False, "first")
    result.check("killed", True, "second")
    assert result.checks["killed"].reason == "first"
    assert not result.ok


def test_a_stage_is_found_by_name_or_by_class(tmp_path: Path) -> None:
    assert isinstance(stage_of("dev", tmp_path), DevStage)
    assert isinstance(stage_of("examples.flights.dev_stage:DevStage", tmp_path), DevStage)
    with pytest.raises(SpecError, match=r"--stage: 'moon' is neither"):
        stage_of("moon", tmp_path)
