"""`starling export` and `starling import`: agents saved to a file and restored."""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from typing import Annotated

import typer

from starling.admin.archive import Saved, Selection, export, read_archive, restore
from starling.cli.common import (
    LOCAL_MESH,
    LOCAL_NATS,
    AsJson,
    MeshName,
    Nats,
    PoolOption,
    agent_of,
    clock,
    connected,
    routes_of,
    run,
    show,
)
from starling.core.ids import AgentId
from starling.errors import MeshError, SpecError

TypeOption = Annotated[str | None, typer.Option("--type", help="Agents of this type only.")]
AgentsOption = Annotated[list[str] | None, typer.Option("--agent", help="This agent (type/key); may be given again.")]


def export_agents(
    file: Annotated[Path, typer.Argument(help="Where to; must not be there yet. - for standard output.")],
    pool: PoolOption = None,
    agent_type: TypeOption = None,
    agent: AgentsOption = None,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """Save agents to a file of JSON lines, each as of one commit. Nothing is paused."""
    wanted = Selection(pool=pool, type=agent_type, agents=_agents(agent))

    async def work() -> None:
        async with connected(nats) as store:
            routes = await routes_of(store, mesh)
            now = clock(time.time())
            if str(file) == "-":
                saved = await export(store, mesh, routes, wanted, sys.stdout, now=now)
            else:
                try:
                    out = file.open("x", encoding="utf-8")
                except OSError as error:
                    raise SpecError("file", f"cannot write {file}: {error.strerror}; give another name") from error
                with out:
                    saved = await export(store, mesh, routes, wanted, out, now=now)
        if str(file) != "-":
            _show(saved, "saved", as_json=as_json)
        _raise_failures(saved, "saved")

    run(work())


def import_agents(
    file: Annotated[Path, typer.Argument(help="An export. - for standard input.")],
    agent_type: TypeOption = None,
    agent: AgentsOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """Restore agents from an export: they get the state in the file; all other agents stay as they are.

    Each shard that is concerned pauses for about a second. Messages that wait are handled on the restored state.
    """
    wanted = Selection(type=agent_type, agents=_agents(agent))
    chosen = [(one, cells) for one, cells in read_archive(_lines(file)) if wanted.takes(one)]
    missing = sorted(set(wanted.agents or ()) - {one for one, _ in chosen})
    if missing:
        raise SpecError("--agent", f"{', '.join(map(str, missing))}: not in the file")

    async def work() -> None:
        async with connected(nats) as store:
            routes = await routes_of(store, mesh)
            question = f"Give {len(chosen)} agents of mesh {mesh} the state in {file}?"
            if not yes and not typer.confirm(question, err=True):
                raise SpecError("--yes", "not confirmed; nothing was changed")
            saved = await restore(store, mesh, routes, chosen, who=f"import/{uuid.uuid4().hex[:8]}")
        _show(saved, "restored", as_json=as_json)
        _raise_failures(saved, "restored")

    run(work())


def _agents(given: list[str] | None) -> tuple[AgentId, ...] | None:
    return None if given is None else tuple(dict.fromkeys(agent_of(text) for text in given))


def _lines(file: Path) -> list[str]:
    if str(file) == "-":
        return sys.stdin.readlines()
    try:
        with file.open(encoding="utf-8") as source:
            return source.readlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError("file", f"cannot read {file}: {error}") from error


def _show(saved: Saved, what: str, *, as_json: bool) -> None:
    show(as_json, {what: saved.done, "failed": saved.failed}, f"{saved.done} agents {what}")


def _raise_failures(saved: Saved, what: str) -> None:
    if saved.failed:
        lines = "".join(f"\n  {name}: {reason}" for name, reason in saved.failed.items())
        raise MeshError(f"{len(saved.failed)} could not be {what}:{lines}")
