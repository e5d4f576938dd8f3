"""`starling status`: pools, pods, shards and what waits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from starling.admin.overview import PoolView, pool_view
from starling.cli.common import (
    LOCAL_MESH,
    LOCAL_NATS,
    AsJson,
    MeshName,
    Nats,
    PoolOption,
    connected,
    pools_of,
    routes_of,
    run,
    say,
    show_json,
    show_table,
)


def status(
    pool: PoolOption = None,
    shards: Annotated[bool, typer.Option("--shards", help="Also a line for each shard.")] = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """Show pools, pods, shards with their owners, and what waits."""

    async def work() -> None:
        async with connected(nats) as store:
            routes = await routes_of(store, mesh)
            views = [await pool_view(store, mesh, routes, route) for route in await pools_of(store, mesh, pool)]
        if as_json:
            show_json({"mesh": mesh, "pools": [_pool_json(view) for view in views]})
        else:
            _print(views, shards=shards)

    run(work())


def _print(views: list[PoolView], *, shards: bool) -> None:
    show_table(
        ("POOL", "AGENTS", "PODS", "SHARDS", "OWNED", "WAITING", "DEAD LETTERS"),
        [
            (
                view.route.pool,
                ",".join(view.agent_types),
                len(view.members),
                view.route.shards,
                view.owned,
                view.waiting,
                view.dead.letters if view.dead else "missing",
            )
            for view in views
        ],
    )
    for view in views:
        say("")
        show_table(
            (f"POD OF {view.route.pool}", "STATE", "OWNS", "VERSION", "METRICS"),
            [
                (member.pod, _state(member.ready, member.draining), len(member.shards), member.version, member.metrics)
                for member in view.members
            ],
        )
        if shards:
            say("")
            show_table(
                (f"SHARD OF {view.route.pool}", "OWNER", "MAP", "EPOCH", "WAITING", "MAILBOX", "JOURNAL", "PROBLEM"),
                [
                    (
                        shard.shard,
                        shard.owner.pod if shard.owner else "nobody",
                        shard.placed or "nobody",
                        shard.epoch,
                        "?" if shard.waiting is None else shard.waiting,
                        shard.mailbox.messages if shard.mailbox else "missing",
                        shard.journal.messages if shard.journal else "missing",
                        shard.problem,
                    )
                    for shard in view.shards
                ],
            )


def _state(ready: bool, draining: bool) -> str:
    if draining:
        return "draining"
    return "ready" if ready else "starting"


def _pool_json(view: PoolView) -> dict[str, Any]:
    return {
        "pool": view.route.pool,
        "incarnation": view.route.incarnation,
        "agentTypes": list(view.agent_types),
        "shardCount": view.route.shards,
        "owned": view.owned,
        "waiting": view.waiting,
        "deadLetters": view.dead.letters if view.dead else None,
        "mapRev": view.map.rev if view.map else None,
        "pods": [
            {
                "pod": member.pod,
                "state": _state(member.ready, member.draining),
                "shards": sorted(member.shards),
                "version": member.version,
                "metrics": member.metrics,
            }
            for member in view.members
        ],
        "shards": [
            {
                "shard": shard.shard,
                "owner": shard.owner.pod if shard.owner else None,
                "map": shard.placed,
                "epoch": shard.epoch,
                "waiting": shard.waiting,
                "mailbox": shard.mailbox.messages if shard.mailbox else None,
                "journal": shard.journal.messages if shard.journal else None,
                "problem": shard.problem or None,
            }
            for shard in view.shards
        ],
    }
