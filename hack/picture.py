"""The picture of the terminal view, taken from a real run of the flights example.

    python -m hack.picture             write docs/starling-dev.svg (a minute or two)

Runs `starling dev` in this process, replays a part of the flights through it, kills a worker, and draws the view once a
shard has moved because of load, a worker was added and all pods are ready again.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.terminal_theme import MONOKAI
from starling import connect
from starling_operator.dev.run import Dev, DevOptions
from starling_operator.dev.view import LiveView

from examples.flights.replay import feed, read_rows

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "starling-dev.svg"
WIDTH = 104
TITLE = "starling dev -f examples/flights/"
BOUND = 180.0


class Stage:
    """A running `starling dev` with its view, and what it says of itself."""

    def __init__(self, folder: Path) -> None:
        self._status = folder / "status.json"
        console = Console(file=io.StringIO(), force_terminal=True, width=WIDTH)
        self.view = LiveView(Live(console=console, auto_refresh=False))
        self.dev = Dev(DevOptions(ROOT / "examples" / "flights", folder / "data", status=self._status), self.view)

    def status(self) -> Mapping[str, Any]:
        """What `starling dev` wrote last; empty before the first time."""
        if not self._status.exists():
            return {}
        found: Mapping[str, Any] = json.loads(self._status.read_text())
        return found

    async def until(self, fact: Callable[[Mapping[str, Any]], object]) -> Mapping[str, Any]:
        """Wait for a fact about the status and return it."""
        while not fact(status := self.status()):
            await asyncio.sleep(0.2)
        return status


def is_whole(status: Mapping[str, Any]) -> bool:
    """Whether every pod is ready and every shard has an owner."""
    pools = status["pools"].values()
    return all(pool["ready"] == pool["replicas"] and len(pool["owners"]) == pool["shards"] for pool in pools)


def drawn(view: LiveView) -> str:
    """Return the view as SVG, with the fonts of whoever looks at it instead of fonts from elsewhere."""
    console = Console(file=io.StringIO(), record=True, force_terminal=True, width=WIDTH)
    console.print(view.draw())
    text = console.export_svg(title=TITLE, theme=MONOKAI, unique_id="starling-dev")
    text = re.sub(r"\s*@font-face \{.*?\}", "", text, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in text.replace("Fira Code, monospace", "monospace").splitlines()) + "\n"


async def picture(every: int) -> str:
    """Return the picture of one run. Raises TimeoutError when nothing moved in time."""
    with tempfile.TemporaryDirectory(prefix="starling-") as folder:
        stage = Stage(Path(folder))
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:
            tasks.create_task(stage.dev.run(), name="dev")
            status = await stage.until(lambda seen: seen.get("ready"))
            rows = await asyncio.to_thread(read_rows, every=every)
            async with connect(status["nats"], mesh=status["mesh"], name="picture") as mesh:
                replay = tasks.create_task(feed(mesh, rows), name="replay")
                await asyncio.sleep(5.0)
                workers = stage.status()["pools"]["aircraft"]["processes"]
                os.kill(workers["aircraft-0"], signal.SIGKILL)
                await stage.until(lambda seen: seen["moves"] and seen["scaleUps"] and is_whole(seen))
                text = drawn(stage.view)
                replay.cancel()
                await asyncio.gather(replay, return_exceptions=True)
            stage.dev.stop()
    return text


def main() -> int:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.picture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="take each so many-th flight only")
    PICTURE.write_text(asyncio.run(picture(parser.parse_args().every)), encoding="utf-8")
    print(f"written: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
