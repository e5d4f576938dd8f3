"""A worker's Prometheus metrics, read from the shards when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from starling.core.ids import PoolName, ShardId
from starling.core.names import Inlet
from starling.engine.shard import OwnedShard
from starling.engine.shard_info import ShardStats
from starling.instruments import Instruments
from starling.node.states import RunState
from starling.node.traffic import Traffic


class WorkerCollector(Collector):
    """Counts of all shards that this process owns or has owned; labels have bounds (pool, shard, lane, agent type).

    Counts of a shard that left stay, so that counters only grow.
    """

    def __init__(
        self,
        pool: PoolName,
        owned: Callable[[], Mapping[ShardId, OwnedShard]],
        *,
        takes: Callable[[], int],
        fenced: Callable[[], int],
        state: Callable[[], RunState],
        wall: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._owned = owned
        self._takes = takes
        self._fenced = fenced
        self._state = state
        self._wall = wall
        self._seen: dict[ShardId, list[ShardStats]] = {}

    def taken(self, shard: ShardId, stats: ShardStats) -> None:
        """Remember the counts of a shard that was taken."""
        self._seen.setdefault(shard, []).append(stats)

    def collect(self) -> Iterable[Metric]:
        yield from self._counters()
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        pool = self._pool
        turns = CounterMetricFamily("starling_turns", "Turns.", labels=("pool", "shard", "agent_type", "result"))
        seconds = CounterMetricFamily(
            "starling_turn_seconds", "Seconds in turns.", labels=("pool", "shard", "agent_type")
        )
        busy = CounterMetricFamily("starling_busy_seconds", "Seconds of work of a shard.", labels=("pool", "shard"))
        commits = CounterMetricFamily("starling_commits", "Journal records stored.", labels=("pool", "shard"))
        commit_seconds = CounterMetricFamily(
            "starling_commit_seconds", "Seconds until journal records were stored.", labels=("pool", "shard")
        )
        written = CounterMetricFamily("starling_record_bytes", "Bytes of records stored.", labels=("pool", "shard"))
        calls = CounterMetricFamily(
            "starling_calls", "Calls made by turns, by how they ended.", labels=("pool", "shard", "result")
        )
        queries = CounterMetricFamily(
            "starling_queries", "Queries answered past the log, by how they ended.", labels=("pool", "shard", "result")
        )
        dead = CounterMetricFamily("starling_dead_letters", "Dead letters.", labels=("pool", "shard", "reason"))
        overdue = CounterMetricFamily(
            "starling_overdue_turns",
            "Turns that went on past their deadline, as their handlers swallowed the cancellation.",
            labels=("pool", "shard", "agent_type"),
        )
        for shard, history in self._seen.items():
            name = str(shard)
            busy.add_metric((pool, name), sum(stats.busy_seconds for stats in history))
            commits.add_metric((pool, name), sum(stats.commits for stats in history))
            commit_seconds.add_metric((pool, name), sum(stats.commit_seconds for stats in history))
            written.add_metric((pool, name), sum(stats.record_bytes for stats in history))
            for result, count in _sums(stats.calls for stats in history).items():
                calls.add_metric((pool, name, result), count)
            for result, count in _sums(stats.queries for stats in history).items():
                queries.add_metric((pool, name, result), count)
            for (kind, result), count in _sums(stats.turns for stats in history).items():
                turns.add_metric((pool, name, kind, result), count)
            for kind, spent in _sums(stats.turn_seconds for stats in history).items():
                seconds.add_metric((pool, name, kind), spent)
            for reason, count in _sums(stats.dead_letters for stats in history).items():
                dead.add_metric((pool, name, reason), count)
            for kind, count in _sums(stats.overdue_turns for stats in history).items():
                overdue.add_metric((pool, name, kind), count)
        yield from (turns, seconds, busy, commits, commit_seconds, written, calls, queries, dead, overdue)
        for family, help_text, value in (
            ("starling_takes", "Shards taken.", self._takes()),
            ("starling_fenced", "Shards lost to a newer owner.", self._fenced()),
        ):
            counter = CounterMetricFamily(family, help_text, labels=("pool",))
            counter.add_metric((pool,), value)
            yield counter

    def _gauges(self) -> Iterator[Metric]:
        pool = self._pool
        labels = ("pool", "shard")
        lag = GaugeMetricFamily("starling_mailbox_lag", "Messages not finished.", labels=("pool", "shard", "lane"))
        oldest = GaugeMetricFamily(
            "starling_oldest_message_age_seconds",
            "Age of the oldest message that is not finished; 0 without any.",
            labels=("pool", "shard", "lane"),
        )
        due = GaugeMetricFamily("starling_due_records", "Work to do at or after a time.", labels=labels)
        outbox = GaugeMetricFamily("starling_outbox_frames", "Frames not delivered.", labels=labels)
        dirty = GaugeMetricFamily("starling_table_dirty_cells", "Cells not in the table yet.", labels=labels)
        active = GaugeMetricFamily("starling_active_agents", "Agents in memory.", labels=labels)
        parked = GaugeMetricFamily(
            "starling_quarantined_agents", "Agents that are parked: their state does not load.", labels=labels
        )
        owned = self._owned()
        for shard, running in owned.items():
            name, stats = str(shard), running.stats
            lanes: dict[str, int] = {}
            for inlet, waiting in running.lags.items():
                lanes[inlet.lane.value] = lanes.get(inlet.lane.value, 0) + waiting
            for lane, waiting in lanes.items():
                lag.add_metric((pool, name, lane), waiting)
            for lane, age in _ages(running.oldest, self._wall()).items():
                oldest.add_metric((pool, name, lane), age)
            due.add_metric((pool, name), stats.due_records)
            outbox.add_metric((pool, name), stats.outbox_frames)
            dirty.add_metric((pool, name), stats.dirty_cells)
            active.add_metric((pool, name), stats.active_agents)
            parked.add_metric((pool, name), stats.quarantined_agents)
        yield from (lag, oldest, due, outbox, dirty, active, parked)
        for gauge, text, value in (
            ("starling_shards_owned", "Shards that this pod owns.", len(owned)),
            ("starling_worker_state", "0 starting, 1 running, 2 draining, 3 stopped.", self._state().number),
        ):
            family = GaugeMetricFamily(gauge, text, labels=("pool",))
            family.add_metric((pool,), value)
            yield family


def _ages(oldest: Mapping[Inlet, float], now: float) -> dict[str, float]:
    """Seconds since the oldest message of each lane was stored; 0 without any, or when clocks differ."""
    ages: dict[str, float] = {}
    for inlet, stored in oldest.items():
        age = max(0.0, now - stored) if stored else 0.0
        ages[inlet.lane.value] = max(ages.get(inlet.lane.value, 0.0), age)
    return ages


K = TypeVar("K")


def _sums(counters: Iterable[Mapping[K, float]]) -> dict[K, float]:
    total: dict[K, float] = {}
    for counter in counters:
        for key, value in counter.items():
            total[key] = total.get(key, 0) + value
    return total


def registry(collector: WorkerCollector, of_authors: Instruments | None = None) -> CollectorRegistry:
    """Return a registry of this worker alone: its shards, its process, and the instruments of its agents' authors."""
    made = CollectorRegistry()
    made.register(collector)
    ProcessCollector(registry=made)
    made.register(Traffic())
    if of_authors is not None:
        made.register(of_authors)
    return made
