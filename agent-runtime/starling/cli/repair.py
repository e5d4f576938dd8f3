"""`starling repair`: a shard whose journal is gone, an agent whose state does not load."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import msgpack
import typer

from starling.admin.repair import Repair, Waiting, carry_out, plan_repair
from starling.cli.common import (
    LOCAL_MESH,
    LOCAL_NATS,
    AsJson,
    MeshName,
    Nats,
    Timeout,
    agent_of,
    client_of,
    connected,
    one_shard,
    routes_of,
    run,
    say,
    show,
    show_json,
)
from starling.engine.repairs import REPAIR
from starling.errors import SpecError

app = typer.Typer(no_args_is_help=True, help="Repair what a person has to decide about.")

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("shard")
def shard(
    where: Annotated[str, typer.Argument(metavar="POOL/SHARD", help="As `starling doctor` names it.")],
    waiting: Annotated[
        Waiting,
        typer.Option("--waiting", help="handle: messages in the mailbox, some perhaps twice; skip: none of them."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """Make the journal of a shard anew, when it is gone or is another one.

    States come from the table. What was committed in the last second before the loss, and frames that were not
    delivered yet, are lost with the journal.
    """

    async def work() -> None:
        async with connected(nats) as store:
            route, number = await one_shard(store, mesh, where)
            repair = await plan_repair(store, mesh, await routes_of(store, mesh), route, number, waiting=waiting)
            if not as_json:
                _print(repair)
            if not dry_run:
                if not yes and not typer.confirm(f"Make the journal of {where} anew?", err=True):
                    raise SpecError("--yes", "not confirmed; nothing was changed")
                await carry_out(store, mesh, route, repair)
        if as_json:
            show_json({"repaired": not dry_run} | _repair_json(repair))
        elif not dry_run:
            say(f"{where} is free; its pod takes it")

    run(work())


@app.command("agent")
def agent(
    name: Annotated[str, typer.Argument(metavar="TYPE/KEY", help="The agent.")],
    state: Annotated[str | None, typer.Option("--state", help="The state it gets, as JSON.")] = None,
    version: Annotated[
        int | None, typer.Option("--state-version", min=1, help="Of that state; default what the code has.")
    ] = None,
    cell: Annotated[str | None, typer.Option("--cell", help="A named cell instead of the state.")] = None,
    destroy: Annotated[bool, typer.Option("--destroy", help="Remove its cells and due records instead.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
    timeout: Timeout = 10.0,
) -> None:
    """Mend an agent that is parked because its state does not load; then its dead letters can be replayed."""
    target = agent_of(name)
    if (state is None) == (not destroy):
        raise SpecError("--state", "give the state as JSON, or --destroy")
    wanted: dict[str, Any] = {"destroy": True}
    if state is not None:
        wanted = {"data": _json_bytes(state)}
        wanted |= {} if version is None else {"version": version}
        wanted |= {} if cell is None else {"cell": cell}

    async def work() -> None:
        question = f"Destroy {target} for good?" if destroy else f"Give {target} this state?"
        if not yes and not typer.confirm(question, err=True):
            raise SpecError("--yes", "not confirmed; nothing was changed")
        async with client_of(nats, mesh, "starling repair") as client:
            await client.query_raw(target, REPAIR, msgpack.packb(wanted), timeout=timeout)
        help_text = f"starling dead replay --all --agent {target}"
        show(as_json, {"agent": str(target), "destroyed": destroy}, f"{target} takes messages again; now: {help_text}")

    run(work())


def _json_bytes(text: str) -> bytes:
    try:
        json.loads(text)
    except ValueError as error:
        raise SpecError("--state", f"is no JSON: {error}") from error
    return text.encode()


def _print(repair: Repair) -> None:
    say(f"{repair.pool}/{repair.shard}: {repair.problem}")
    if repair.journal_is_whole:
        say("its journal is whole and goes on; what was in the mailbox and not handled is lost")
    else:
        say(f"the journal begins at {repair.first_sequence}, after epoch {repair.epoch}")
    what = "are handled, some perhaps for the second time" if repair.waiting is Waiting.HANDLE else "are skipped"
    say(f"{repair.mailbox_messages} frames in the mailbox {what}")
    say(f"{len(repair.seen)} senders and {len(repair.counters)} targets go on where they were")
    for warning in repair.warnings:
        say(f"warning: {warning}")


def _repair_json(repair: Repair) -> dict[str, Any]:
    told = asdict(repair)
    told["floors"] = {str(inlet): floor for inlet, floor in repair.floors.items()}
    told["seen"] = [[source.shard, source.lane, number] for source, number in repair.seen.items()]
    told["counters"] = [[*target, number] for target, number in repair.counters.items()]
    return told
