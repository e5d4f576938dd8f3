"""`starling tail`: watch mailboxes, journals and dead letters without taking anything away."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from starling.admin.tail import Source, Tailed, explained, sources
from starling.admin.tail import tail as followed
from starling.cli.common import (
    LOCAL_MESH,
    LOCAL_NATS,
    AsJson,
    MeshName,
    Nats,
    clock,
    connected,
    one_shard,
    pools_of,
    run,
    say,
)
from starling.core.ids import ShardId
from starling.errors import SpecError
from starling.ports.store import Message


def tail(
    what: Annotated[Tailed, typer.Argument(help="mailbox, journal or dead.")],
    where: Annotated[str, typer.Argument(metavar="POOL[/SHARD]", help="A pool, or one shard of it.")],
    last: Annotated[
        int, typer.Option("-n", "--last", min=0, help="Begin with so many older ones of each stream.")
    ] = 10,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after so many stored messages.")] = None,
    bodies: Annotated[bool, typer.Option("--bodies", help="Also what is in the messages.")] = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """Show what comes into a mailbox, a journal or the dead letters. Nothing is consumed."""
    if "/" in where and what is Tailed.DEAD:
        raise SpecError("where", "dead letters are kept by pool, not by shard; give the pool")

    async def work() -> None:
        async with connected(nats) as store:
            if "/" in where:
                route, shard = await one_shard(store, mesh, where)
                shards = [shard]
            else:
                (route,) = await pools_of(store, mesh, where)
                shards = [ShardId(number) for number in range(route.shards)]
            shown = 0
            items = followed(store, sources(mesh, what, route.pool, shards), last=last, follow=follow)
            try:
                async for source, message in items:
                    _print(what, source, message, bodies=bodies, as_json=as_json)
                    shown += 1
                    if count is not None and shown >= count:
                        break
            finally:
                await items.aclose()  # type: ignore[attr-defined]

    run(work())


def _print(what: Tailed, source: Source, message: Message, *, bodies: bool, as_json: bool) -> None:
    place = source.pool if source.shard is None else f"{source.pool}/{source.shard}"
    for told in explained(what, message, bodies=bodies):
        if as_json:
            head = {"time": clock(message.time), "where": place, "sequence": message.sequence}
            say(json.dumps(head | told, ensure_ascii=False))
        else:
            rest = "  ".join(f"{name}={_text(value)}" for name, value in told.items())
            say(f"{clock(message.time)}  {place}  {message.sequence}  {rest}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return " ".join(str(value).split())
