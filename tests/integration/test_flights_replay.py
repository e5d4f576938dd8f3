"""The flights example on `starling dev`: a twentieth of the year, and a worker that is killed on the way."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # at the end: nothing of ours may hide a library
    sys.path.append(str(ROOT))

from examples.flights.demo import Options, run_demo  # noqa: E402
from examples.flights.dev_stage import DevStage  # noqa: E402


@pytest.mark.timeout(400)
async def test_a_twentieth_of_the_flights_is_neither_lost_nor_doubled_nor_out_of_order(tmp_path: Path) -> None:
    said: list[str] = []
    options = Options(tmp_path / "result.json", every=20, moves=False, seconds=300.0)
    result = await run_demo(DevStage(tmp_path), options, said.append)
    assert result.ok, said
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["lost"], written["doubled"], written["out_of_order"]) == (0, 0, 0)
    assert written["flights"] == 16_839
    assert written["turns"] == 3 * written["flights"]
    assert written["kills"] == 1
    print(said[-1], f"{written['turns']} turns in {written['seconds']} s")
