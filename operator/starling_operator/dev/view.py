"""What `starling dev` shows: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from starling_operator.control import PoolReport


class PlainView:
    """A line per event, and a line per pool when it changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, str] = {}

    def started(self, url: str, seconds: float) -> None:
        self.say(f"ready in {seconds:.1f} s, NATS at {url}")

    def show(self, reports: dict[str, PoolReport]) -> None:
        for name, report in reports.items():
            line = f"{name}: {report.ready}/{report.desired} pods ready, {report.shards_owned}/{report.shards} shards"
            if self._shown.get(name) != line:
                self._shown[name] = line
                self.say(line)

    def say(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, markup=False, soft_wrap=True)


class LiveView:
    """Pools, pods, shards, rates and what happened last, redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._lines: deque[str] = deque(maxlen=8)
        self._title = "starling dev: starting"
        self._reports: dict[str, PoolReport] = {}

    def started(self, url: str, seconds: float) -> None:
        self._title = f"starling dev · {url} · ready in {seconds:.1f} s · Ctrl-C ends it"
        self.say(f"ready in {seconds:.1f} s")

    def show(self, reports: dict[str, PoolReport]) -> None:
        self._reports = dict(reports)
        self._live.update(self.draw())

    def say(self, text: str) -> None:
        self._lines.append(f"{time.strftime('%H:%M:%S')} {text}")
        self._live.update(self.draw())

    def draw(self) -> Group:
        """Return what is on the screen now."""
        return Group(
            Text(self._title, style="bold"),
            pools_table(self._reports),
            Panel("\n".join(self._lines) or "…", title="events", title_align="left"),
        )


def pools_table(reports: dict[str, PoolReport]) -> Table:
    """A row a pod, grouped by pool: its shards, its load, what waits."""
    table = Table(expand=True)
    for column in ("pool", "pod", "shards", "which", "busy"):
        table.add_column(column, justify="right" if column in ("shards", "busy") else "left")
    for name, report in reports.items():
        by_pod: dict[str, list[int]] = {}
        for shard, pod in report.owners.items():
            by_pod.setdefault(pod, []).append(shard)
        imbalance = f"{report.imbalance:.2f}" if report.imbalance is not None else "-"
        lag = f"{report.lag:.0f}" if report.lag is not None else "-"
        table.add_row(
            f"[bold]{name}[/bold]",
            f"{report.ready}/{report.desired} ready",
            f"{report.shards_owned}/{report.shards}",
            f"waiting {lag}, imbalance {imbalance}, moves {report.moves}",
            f"{sum(report.busy.values()):.2f}",
        )
        for owner, shards in sorted(by_pod.items()):
            busy = sum(report.busy.get(shard, 0.0) for shard in report.owners if report.owners[shard] == owner)
            table.add_row("", owner, str(len(shards)), " ".join(map(str, sorted(shards))), f"{busy:.2f}")
    return table


@contextmanager
def view(console: Console, *, plain: bool) -> Iterator[PlainView | LiveView]:
    """The view that fits: live on a terminal, unless plain is asked for."""
    if plain or not console.is_terminal:
        yield PlainView(console)
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield LiveView(live)
