"""What a scrape of a worker tells: all families, real values, labels with a bound."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import starling
import starling.testing
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starling import Agent, AgentId, Context
from starling.core.retry import RetryPolicy
from starling.errors import HandlerFailed
from starling.instruments import Instruments
from starling.node.metrics import registry
from starling.node.traffic import Traffic
from starling.testing import TestMesh

ALLOWED = {"pool", "shard", "lane", "agent_type", "result", "reason"}


@dataclass
class Coin:
    value: int


@dataclass
class Loan:
    to: str


gate = asyncio.Event()


@dataclass
class Purse:
    total: int = 0


NAMED = {
    f"starling_{name}"
    for name in (
        "turns_total",
        "turn_seconds_total",
        "busy_seconds_total",
        "mailbox_lag",
        "oldest_message_age_seconds",
        "commits_total",
        "commit_seconds_total",
        "record_bytes_total",
        "outbox_frames",
        "due_records",
        "active_agents",
        "quarantined_agents",
        "takes_total",
        "fenced_total",
        "dead_letters_total",
        "calls_total",
        "table_dirty_cells",
        "shards_owned",
        "worker_state",
    )
}


class MetricPurse(Agent[Purse]):
    @starling.event
    async def lend(self, message: Loan, ctx: Context) -> None:
        await asyncio.wait_for(gate.wait(), 20)
        ctx.set_timer("reminder", Coin(1), delay=3600)
        await ctx.agent(MetricPurse, message.to).count("all", timeout=5.0)

    @starling.event
    async def put(self, message: Coin) -> None:
        if message.value < 0:
            raise ValueError("no debts")
        self.state.total += message.value

    @starling.rpc
    async def count(self, message: str) -> int:
        if message == "fail":
            raise ValueError("cannot count")
        return self.state.total


def scrape(mesh: TestMesh, of_authors: Instruments | None = None) -> dict[str, float]:
    """Sums over all series, by metric and result."""
    [pool] = mesh._pools
    [worker] = pool.workers
    return read(registry(worker.collector, of_authors))


def read(made: CollectorRegistry) -> dict[str, float]:
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(generate_latest(made).decode()):
        for sample in family.samples:
            for name in {sample.name, f"{sample.name} {sample.labels.get('result', '')}".strip()}:
                sums[name] = sums.get(name, 0) + sample.value
    return sums


def series(mesh: TestMesh) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    [pool] = mesh._pools
    text = generate_latest(registry(pool.workers[0].collector)).decode()
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.row("CP-16", part="a load changes each of the worker's figures, in one scrape")
async def test_a_load_changes_every_figure() -> None:
    authors = Instruments()
    authors.counter("coins", "Coins.").add(5)
    async with starling.testing.mesh(MetricPurse, retry=RetryPolicy(attempts=1)) as mesh:
        before = scrape(mesh)
        for n in range(20):
            await mesh.send(AgentId("metric_purse", f"owner-{n}"), Coin(2))
        await mesh.send(AgentId("metric_purse", "owner-0"), Coin(-1))
        assert await mesh.agent(MetricPurse, "owner-0").count("all", timeout=5.0) == 2
        with pytest.raises(HandlerFailed):
            await mesh.agent(MetricPurse, "owner-0").count("fail", timeout=5.0)
        await mesh.idle()
        after = scrape(mesh, authors)

    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    assert grown["starling_turns_total"] == 23
    assert grown["starling_turns_total ok"] == 21
    assert grown["starling_turns_total failed"] == 1
    assert grown["starling_turns_total dead"] == 1
    assert grown["starling_dead_letters_total"] == 1
    assert grown["starling_turn_seconds_total"] > 0
    assert grown["starling_busy_seconds_total"] > 0
    assert grown["starling_commits_total"] > 0
    assert grown["starling_commit_seconds_total"] > 0
    assert grown["starling_active_agents"] == 20
    assert after["starling_shards_owned"] == 4
    assert after["starling_takes_total"] == 4
    assert after["starling_mailbox_lag"] == 0
    assert after["process_resident_memory_bytes"] > 1_000_000
    assert grown["process_cpu_seconds_total"] >= 0
    assert after["coins_total"] == 5


@pytest.mark.row("RT-28", part="metrics of tries, retries and failures equal the faults", completes=True)
async def test_tries_retries_and_failures_are_counted_as_they_were_injected() -> None:
    async with starling.testing.mesh(MetricPurse, retry=RetryPolicy(attempts=4, initial=0.01)) as mesh:
        before = scrape(mesh)
        for n in range(3):
            await mesh.send(AgentId("metric_purse", f"owner-{n}"), Coin(-1))
            await mesh.send(AgentId("metric_purse", f"other-{n}"), Coin(1))
        await mesh.idle()
        after = scrape(mesh)
        assert [letter.attempts for letter in await mesh.dead_letters()] == [4, 4, 4]
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    assert grown["starling_turns_total"] == 3 * 4 + 3
    assert grown["starling_turns_total ok"] == 3
    assert grown["starling_turns_total retry"] == 3 * 3
    assert grown["starling_turns_total dead"] == grown["starling_dead_letters_total"] == 3


@pytest.mark.row("CP-16", part="lag, oldest age, due records and calls change as expected")
async def test_what_waits_is_seen_while_it_waits() -> None:
    gate.clear()
    async with starling.testing.mesh(MetricPurse, shards=1) as mesh:
        idle = scrape(mesh)
        await mesh.send(AgentId("metric_purse", "anna"), Loan("berta"))
        async with asyncio.timeout(20):
            while not scrape(mesh)["starling_mailbox_lag"]:
                await asyncio.sleep(0.001)
        await mesh.advance(7)
        busy = scrape(mesh)
        gate.set()
        await mesh.idle()
        done = scrape(mesh)
    assert done.keys() >= NAMED - {"starling_dead_letters_total"}  # has no series before the first one
    assert idle["starling_oldest_message_age_seconds"] == 0
    assert busy["starling_mailbox_lag"] == 1
    assert 7 <= busy["starling_oldest_message_age_seconds"] < 60
    assert done["starling_oldest_message_age_seconds"] == 0
    assert done["starling_mailbox_lag"] == 0
    assert idle["starling_due_records"] == 0
    assert done["starling_due_records"] >= 1
    assert done["starling_calls_total ok"] == 1
    assert done["starling_record_bytes_total"] > idle["starling_record_bytes_total"]
    assert done["starling_worker_state"] == 1


@pytest.mark.row("CP-17", part="the label allow-list")
async def test_labels_are_those_of_the_allow_list() -> None:
    async with starling.testing.mesh(MetricPurse) as mesh:
        await mesh.send(AgentId("metric_purse", "anna"), Coin(1))
        await mesh.idle()
        found = series(mesh)
    assert {label for _, labels in found for label, _ in labels} <= ALLOWED | {"quantile", "le"}
    assert not [labels for _, labels in found if any("anna" in value for _, value in labels)]


@pytest.mark.row("CP-17", part="as many series with few agents as with many")
async def test_more_agents_make_no_more_series() -> None:
    async with starling.testing.mesh(MetricPurse) as mesh:
        counts = []
        for agents in (50, 1000):
            for n in range(agents):
                await mesh.send(AgentId("metric_purse", f"{n}"), Coin(1))
            await mesh.idle()
            counts.append(len(series(mesh)))
            [pool] = mesh._pools
            intakes = [i for shard in pool.workers[0].ownership.owned.values() for i in shard._intakes.values()]
            assert not any(intake._stored for intake in intakes)  # what tells the oldest does not pile up
    assert counts[0] == counts[1]


def test_disk_and_network_are_read_as_linux_counts_them(tmp_path: Path) -> None:
    own = tmp_path / "self"
    (own / "net").mkdir(parents=True)
    (own / "io").write_text("rchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\n")
    (own / "net" / "dev").write_text(
        "Inter-|   Receive |  Transmit\n face |bytes packets|bytes\n"
        "    lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0\n"
        "  eth0: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n"
        "  eth1:   5 1 0 0 0 0 0 0   7 1 0 0 0 0 0 0\n"
    )
    made = CollectorRegistry()
    made.register(Traffic(tmp_path))
    told = read(made)
    assert told["starling_disk_read_bytes_total"] == 4096
    assert told["starling_disk_written_bytes_total"] == 8192
    assert told["starling_network_received_bytes_total"] == 105
    assert told["starling_network_sent_bytes_total"] == 207


def test_where_nothing_is_counted_nothing_is_told(tmp_path: Path) -> None:
    made = CollectorRegistry()
    made.register(Traffic(tmp_path))
    assert read(made) == {}


@pytest.mark.row("CP-26", part="the scrape format parses: promtool")
async def test_promtool_finds_nothing_wrong_with_a_scrape() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool in PATH (Debian's package `prometheus` has it)")
    authors = Instruments()
    authors.timer("naps_seconds", "Naps.").record(0.2)
    async with starling.testing.mesh(MetricPurse) as mesh:
        await mesh.send(AgentId("metric_purse", "anna"), Coin(1))
        await mesh.idle()
        [pool] = mesh._pools
        text = generate_latest(registry(pool.workers[0].collector, authors))
    done = await asyncio.to_thread(subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
