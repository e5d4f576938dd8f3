"""`starling drain`: empty a pod before it goes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from starling.admin.overview import members_of
from starling.cli.common import LOCAL_MESH, LOCAL_NATS, AsJson, MeshName, Nats, Timeout, connected, pools_of, run, show
from starling.core.ids import PodName, PoolName
from starling.core.membership import Member
from starling.core.names import MeshNames
from starling.errors import MeshError, SpecError
from starling.ports.store import Store

_LOOK = 0.2
_ANSWER = 2.0


def drain(
    pod: Annotated[str, typer.Argument(metavar="POOL/POD", help="Pool and pod, such as counters/counters-0.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it have shards again.")] = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
    timeout: Timeout = 60.0,
) -> None:
    """Ask a pod to be emptied, and wait until it owns no shard.

    The pod says that it is draining; the control plane moves its shards to the others. It goes on as a member without
    shards until it is restarted or this is undone.
    """
    pool, slash, name = pod.partition("/")
    if not slash or not name:
        raise SpecError("pod", f"{pod!r} is not of the form pool/pod; `starling status` shows both")

    async def work() -> None:
        async with connected(nats) as store:
            (route,) = await pools_of(store, mesh, pool)
            await _ask(store, mesh, route.pool, PodName(name), undo=undo)
            if undo:
                show(as_json, {"pod": pod, "draining": False}, f"{pod} may have shards again")
                return
            left = await _wait_until_empty(store, mesh, route.pool, PodName(name), timeout)
        if left:
            raise MeshError(
                f"{pod} still owns {left} shards after {timeout:g} s: only the control plane moves them. "
                "Is it running, and is there another ready pod? The pod stays draining; --undo ends that"
            )
        show(as_json, {"pod": pod, "draining": True, "shards": 0}, f"{pod} owns no shard")

    run(work())


async def _ask(store: Store, mesh: str, pool: PoolName, pod: PodName, *, undo: bool) -> None:
    subject = MeshNames(mesh).pool(pool).drain(pod)
    if await store.ask(subject, b"undo" if undo else b"", timeout=_ANSWER) is None:
        members, _ = await members_of(store, mesh, pool)
        known = ", ".join(member.pod for member in members) or "none"
        raise SpecError("pod", f"no pod {pod!r} of pool {pool} listens; members are: {known}")


async def _wait_until_empty(store: Store, mesh: str, pool: PoolName, pod: PodName, timeout: float) -> int:
    """Return how many shards it still owns at the end."""
    left = 0
    try:
        async with asyncio.timeout(timeout):
            while True:
                member = await _member(store, mesh, pool, pod)
                if member is None:
                    return 0  # it has left altogether
                left = len(member.shards)
                if member.draining and not left:
                    return 0
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        return left


async def _member(store: Store, mesh: str, pool: PoolName, pod: PodName) -> Member | None:
    members, _ = await members_of(store, mesh, pool)
    return next((member for member in members if member.pod == pod), None)
