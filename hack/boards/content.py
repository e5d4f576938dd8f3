"""What the board shows: rows of panels, each with its queries."""

from __future__ import annotations

from dataclasses import dataclass

# Samples of the workers: Prometheus names their namespace and pod.
WORKERS = 'namespace=~"$namespace", pool=~"$pool"'
FAILED = f'{WORKERS}, result!="ok"'
# What is called `namespace` in the operator's samples depends on how it is scraped: the pool's, or its own.
OPERATOR = 'pool=~"$pool"'
# What happened nowhere is shown as 0, not as an empty panel.
ZERO = "or on() vector(0)"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL with the board's variables in it, and the legend of its series."""

    promql: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. unit: Grafana's id of the unit; stacked: the sum is worth seeing too."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, two side by side."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """A board; the uid is its address in Grafana and never changes."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]


def rate(metric: str, labels: str = WORKERS) -> str:
    """Return the growth of a counter in a second."""
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def increase(metric: str, labels: str = WORKERS) -> str:
    """Return by how much a counter grew between two points of a graph."""
    return f"increase({metric}{{{labels}}}[$__rate_interval])"


POOLS = Row(
    "Pools",
    (
        Panel(
            "Turns by pool",
            "Messages handled in a second, whatever came of them.",
            "ops",
            (Query(f"sum by (pool) ({rate('starling_turns_total')})", "{{pool}}"),),
            stacked=True,
        ),
        Panel(
            "Turns that failed",
            "Turns in a second that did not succeed: tried again, given up (dead), or answered with an error (failed).",
            "ops",
            (
                Query(
                    f"sum by (pool, result) ({rate('starling_turns_total', FAILED)}) {ZERO}",
                    "{{pool}} {{result}}",
                ),
            ),
        ),
        Panel(
            "Seconds in a turn",
            "Mean time from the start of a turn to its end; the commit comes after it.",
            "s",
            (
                Query(
                    f"sum by (pool, agent_type) ({rate('starling_turn_seconds_total')})"
                    f" / sum by (pool, agent_type) ({rate('starling_turns_total')})",
                    "{{pool}} {{agent_type}}",
                ),
            ),
        ),
        Panel(
            "Lag by pool",
            "Messages in the mailboxes that are not finished, by lane: urgent (u) and normal (n).",
            "short",
            (Query(f"sum by (pool, lane) (starling_mailbox_lag{{{WORKERS}}})", "{{pool}} {{lane}}"),),
            stacked=True,
        ),
        Panel(
            "Dead letters",
            "Messages given up between two points of the graph, by reason.",
            "short",
            (
                Query(
                    f"sum by (pool, reason) ({increase('starling_dead_letters_total')}) {ZERO}",
                    "{{pool}} {{reason}}",
                ),
            ),
        ),
        Panel(
            "Active agents",
            "Agents that are in the workers' memory.",
            "short",
            (Query(f"sum by (pool) (starling_active_agents{{{WORKERS}}})", "{{pool}}"),),
        ),
    ),
)

SHARDS = Row(
    "Shards",
    (
        Panel(
            "Busy share by shard",
            "Seconds of work of a shard in a second; at 100 % it never rests. This is what decides who moves.",
            "percentunit",
            (Query(f"sum by (pool, shard) ({rate('starling_busy_seconds_total')})", "{{pool}}/{{shard}}"),),
        ),
        Panel(
            "Lag by shard",
            "Messages of each shard that are not finished, both lanes.",
            "short",
            (Query(f"sum by (pool, shard) (starling_mailbox_lag{{{WORKERS}}})", "{{pool}}/{{shard}}"),),
        ),
        Panel(
            "Busy share by pod",
            "Seconds of work of all of a pod's shards in a second: equal lines are a balanced pool.",
            "percentunit",
            (Query(f"sum by (pod) ({rate('starling_busy_seconds_total')})", "{{pod}}"),),
        ),
        Panel(
            "Shards by pod",
            "Shards that each pod owns; a pool's pods own all its shards together, but for those on the way.",
            "short",
            (Query(f"sum by (pod) (starling_shards_owned{{{WORKERS}}})", "{{pod}}"),),
            stacked=True,
        ),
    ),
)

MOVES = Row(
    "Moves",
    (
        Panel(
            "Moves",
            "Shards that placement sent to another pod, between two points of the graph.",
            "short",
            (Query(f"sum by (pool) ({increase('starling_operator_moves_total', OPERATOR)}) {ZERO}", "{{pool}}"),),
        ),
        Panel(
            "Moves refused",
            "Map writes that somebody else had overtaken, between two points of the graph; the next round plans anew.",
            "short",
            (Query("sum(increase(starling_operator_moves_refused_total[$__rate_interval])) or vector(0)", "refused"),),
        ),
        Panel(
            "Imbalance",
            "The busiest pod's load over the mean of the pool: above 1 + tolerance shards begin to move.",
            "short",
            (Query(f"max by (pool) (starling_operator_imbalance_ratio{{{OPERATOR}}})", "{{pool}}"),),
        ),
        Panel(
            "Takes and fences",
            "Shards taken by a pod, and shards lost to a newer owner, between two points of the graph.",
            "short",
            (
                Query(f"sum by (pool) ({increase('starling_takes_total')})", "{{pool}} taken"),
                Query(f"sum by (pool) ({increase('starling_fenced_total')})", "{{pool}} fenced"),
            ),
        ),
    ),
)

ENGINE = Row(
    "Commits",
    (
        Panel(
            "Commits by pool",
            "Journal records stored in a second; one covers the turns that ended together.",
            "ops",
            (Query(f"sum by (pool) ({rate('starling_commits_total')})", "{{pool}}"),),
        ),
        Panel(
            "Seconds to a commit",
            "Mean time until NATS has stored a journal record.",
            "s",
            (
                Query(
                    f"sum by (pool) ({rate('starling_commit_seconds_total')})"
                    f" / sum by (pool) ({rate('starling_commits_total')})",
                    "{{pool}}",
                ),
            ),
        ),
        Panel(
            "Frames not delivered",
            "Committed messages that wait for their mailbox's acknowledgement.",
            "short",
            (Query(f"sum by (pool) (starling_outbox_frames{{{WORKERS}}})", "{{pool}}"),),
        ),
        Panel(
            "Cells not in the table",
            "Committed state that is in the journal and not yet written to the table.",
            "short",
            (Query(f"sum by (pool) (starling_table_dirty_cells{{{WORKERS}}})", "{{pool}}"),),
        ),
    ),
)

CONTROL = Row(
    "Operator",
    (
        Panel(
            "Seconds in a reconcile",
            "95 of 100 passes over an object took no longer than this.",
            "s",
            (
                Query(
                    "histogram_quantile(0.95, sum by (le)"
                    " (rate(starling_operator_reconcile_seconds_bucket[$__rate_interval])))",
                    "95 %",
                ),
            ),
        ),
        Panel(
            "Reconciles",
            "Passes over an object in a second, by result.",
            "ops",
            (
                Query(
                    "sum by (result) (rate(starling_operator_reconcile_seconds_count[$__rate_interval]))", "{{result}}"
                ),
            ),
        ),
        Panel(
            "Age of the loads",
            "Age of the newest loads that the operator has of a pool; when they are old, nothing moves.",
            "s",
            (Query(f"max by (pool) (starling_operator_metrics_age_seconds{{{OPERATOR}}})", "{{pool}}"),),
        ),
        Panel(
            "Leaders",
            "Operators that hold the Lease: 1, or 0 for a moment.",
            "short",
            (Query("sum(starling_operator_leader)", "leaders"),),
        ),
    ),
)

BOARDS = {
    "starling.json": Board(
        "starling-pools",
        "Starling: pools, shards and moves",
        "Load and lag of pools and shards, who owns them, which of them moved, and how the operator fares.",
        (POOLS, SHARDS, MOVES, ENGINE, CONTROL),
    ),
}
