"""`starling dead`: messages that were given up on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from starling.admin.letters import PAGE, DeadLetters, Filter, Letter, Summary, list_letters
from starling.admin.replay import Replayer
from starling.cli.common import (
    LOCAL_MESH,
    LOCAL_NATS,
    AsJson,
    MeshName,
    Nats,
    PoolOption,
    clock,
    connected,
    counted,
    pools_of,
    readable,
    routes_of,
    run,
    say,
    show,
    show_json,
    show_table,
    time_of,
)
from starling.core.envelope import Envelope
from starling.core.severity import Severity
from starling.errors import MeshError, SpecError
from starling.ports.store import Store

app = typer.Typer(no_args_is_help=True, help="Dead letters: messages that were given up on.")

Names = Annotated[
    list[str] | None, typer.Argument(metavar="LETTER...", help="pool/number as `dead list` shows it, or a message id.")
]
SeverityOption = Annotated[Severity | None, typer.Option("--severity", help="This severity only.")]
AgentOption = Annotated[str | None, typer.Option("--agent", help="type, or type/key.")]
TypeOption = Annotated[str | None, typer.Option("--type", help="Name of the message.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Class of the error.")]
SinceOption = Annotated[str | None, typer.Option("--since", help="A time, or 10m, 2h, 1d ago.")]
UntilOption = Annotated[str | None, typer.Option("--until", help="A time, or 10m, 2h, 1d ago.")]
AllOption = Annotated[bool, typer.Option("--all", help="All that the filters take.")]


@app.command("list")
def list_(
    pool: PoolOption = None,
    severity: SeverityOption = None,
    agent: AgentOption = None,
    message_type: TypeOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    page: Annotated[int, typer.Option("--page", min=1, help="Which page.")] = 1,
    size: Annotated[int, typer.Option("--size", min=1, max=1000, help="Letters a page.")] = PAGE,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """List dead letters, worst first and then newest first."""
    wanted = _filter(severity, agent, message_type, reason, since, until)

    async def work() -> None:
        async with connected(nats) as store:
            pools = [DeadLetters(store, mesh, route.pool) for route in await pools_of(store, mesh, pool)]
            found = await list_letters(pools, wanted, number=page, size=size)
            fills = {letters.pool: await letters.fill() for letters in pools}
        if as_json:
            show_json(
                {
                    "letters": [_summary_json(letter) for letter in found.letters],
                    "page": found.number,
                    "pages": found.pages,
                    "total": found.total,
                    "fill": {name: round(fill.ratio, 4) for name, fill in fills.items()},
                }
            )
            return
        show_table(
            ("LETTER", "SEVERITY", "TIME", "AGENT", "MESSAGE", "TRIES", "REASON", "TEXT"),
            [_row(letter) for letter in found.letters],
        )
        say(f"page {found.number} of {found.pages}, {counted(found.total, 'letter')}")
        for name, fill in fills.items():
            if fill.ratio >= _NEARLY_FULL:
                say(f"pool {name} keeps {fill.letters} letters, {fill.ratio:.0%} of its bound: then the oldest go")

    run(work())


_NEARLY_FULL = 0.8


@app.command("show")
def show_letter(
    names: Names = None,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """Show letters whole: reason, stack, headers, message."""
    if not names:
        raise SpecError("letter", "give pool/number as `dead list` shows it, or a message id")

    async def work() -> None:
        async with connected(nats) as store:
            letters = [letter async for letter in _named(store, mesh, names)]
        if as_json:
            show_json([_letter_json(letter) for letter in letters])
            return
        for letter in letters:
            _print(letter)

    run(work())


@app.command("replay")
def replay(
    names: Names = None,
    everything: AllOption = False,
    pool: PoolOption = None,
    severity: SeverityOption = None,
    agent: AgentOption = None,
    message_type: TypeOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also where an earlier replay was cut off and may have worked.")
    ] = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """Put letters back at their targets; each leaves the dead letters once its message is stored."""
    wanted = _filter(severity, agent, message_type, reason, since, until)
    _check_choice(names, everything)

    async def work() -> None:
        async with connected(nats) as store:
            routes = await routes_of(store, mesh)
            done: list[str] = []
            failed: dict[str, str] = {}
            async for letter in _chosen(store, mesh, names, pool, wanted):
                letters = DeadLetters(store, mesh, letter.pool)
                try:
                    await Replayer(store, mesh, letters, routes).replay(letter, again=again)
                    done.append(_name(letter))
                except MeshError as error:
                    failed[_name(letter)] = f"{type(error).__name__}: {error}"
        show(as_json, {"replayed": done, "failed": failed}, f"{counted(len(done), 'letter')} put back")
        _raise_failures("put back", failed, as_json=as_json)

    run(work())


@app.command("drop")
def drop(
    names: Names = None,
    everything: AllOption = False,
    pool: PoolOption = None,
    severity: SeverityOption = None,
    agent: AgentOption = None,
    message_type: TypeOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """Remove letters for good."""
    wanted = _filter(severity, agent, message_type, reason, since, until)
    _check_choice(names, everything)

    async def work() -> None:
        async with connected(nats) as store:
            chosen = [(letter.pool, letter.number) async for letter in _chosen(store, mesh, names, pool, wanted)]
            if (
                not yes
                and chosen
                and not typer.confirm(f"Remove {counted(len(chosen), 'dead letter')} for good?", err=True)
            ):
                raise SpecError("--yes", "not confirmed; nothing was removed")
            dropped = [f"{of}/{number}" for of, number in chosen if await DeadLetters(store, mesh, of).drop(number)]
        show(as_json, {"dropped": dropped}, f"{counted(len(dropped), 'letter')} removed")

    run(work())


def _filter(
    severity: Severity | None,
    agent: str | None,
    message_type: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
) -> Filter:
    return Filter(
        severity=severity,
        agent=agent,
        type=message_type,
        reason=reason,
        since=time_of(since, "--since"),
        until=time_of(until, "--until"),
    )


def _check_choice(names: list[str] | None, everything: bool) -> None:
    if bool(names) == everything:
        raise SpecError("letter", "name letters (pool/number, or message ids), or give --all, with filters or without")


async def _chosen(
    store: Store, mesh: str, names: list[str] | None, pool: str | None, wanted: Filter
) -> AsyncIterator[Letter]:
    """The letters that a command is about. Those that come while it runs are left for the next time."""
    if names:
        async for letter in _named(store, mesh, names):
            yield letter
        return
    for route in await pools_of(store, mesh, pool):
        letters = DeadLetters(store, mesh, route.pool)
        last = await letters.last()
        async for letter in letters.each(wanted):
            if letter.number > last:
                break
            yield letter


async def _named(store: Store, mesh: str, names: list[str]) -> AsyncIterator[Letter]:
    for name in names:
        pool, _, number = name.rpartition("/")
        if pool and number.isdigit():
            (route,) = await pools_of(store, mesh, pool)
            yield await DeadLetters(store, mesh, route.pool).get(int(number))
            continue
        found = [
            letter
            for route in await pools_of(store, mesh, None)
            for letter in await DeadLetters(store, mesh, route.pool).of_message(name)
        ]
        if not found:
            raise SpecError("letter", f"no dead letter {name!r}, and none of a message with this id")
        for letter in found:
            yield letter


def _raise_failures(what: str, failed: dict[str, str], *, as_json: bool) -> None:
    if failed:
        lines = "" if as_json else "".join(f"\n  {name}: {text}" for name, text in failed.items())
        raise MeshError(f"{len(failed)} letters could not be {what}{lines}")


def _name(letter: Letter) -> str:
    return f"{letter.pool}/{letter.number}"


def _row(letter: Summary) -> tuple[object, ...]:
    text = (
        letter.text if letter.replaying is None else f"(being put back since {clock(letter.replaying)}) {letter.text}"
    )
    message = letter.type if letter.messages <= 1 else f"{letter.type} +{letter.messages - 1}"
    when = clock(letter.time)
    return letter.name, letter.severity, when, letter.agent, message, letter.attempts, letter.reason, text


def _summary_json(letter: Summary) -> dict[str, Any]:
    return {
        "letter": letter.name,
        "severity": letter.severity,
        "time": clock(letter.time),
        "agent": letter.agent,
        "type": letter.type,
        "id": letter.message_id,
        "messages": letter.messages,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "text": letter.text,
        "replaying": None if letter.replaying is None else clock(letter.replaying),
    }


def _letter_json(letter: Letter) -> dict[str, Any]:
    told = letter.letter
    return {
        "letter": _name(letter),
        "severity": told.severity,
        "time": clock(told.time),
        "reason": told.reason,
        "text": told.text,
        "attempts": told.attempts,
        "stack": told.stack,
        "replaying": None if letter.replaying is None else clock(letter.replaying),
        "messages": [_message_json(envelope) for envelope in letter.envelopes],
        "raw": told.raw.hex() if told.raw and not letter.envelopes else "",
    }


def _message_json(envelope: Envelope) -> dict[str, Any]:
    return {
        "id": envelope.id,
        "type": envelope.type,
        "target": str(envelope.target),
        "sender": str(envelope.sender) if envelope.sender else None,
        "topic": str(envelope.topic) if envelope.topic else None,
        "created": clock(envelope.created / 1000) if envelope.created else None,
        "trace": envelope.trace or None,
        "headers": dict(envelope.headers),
        "body": readable(envelope.body),
    }


def _print(letter: Letter) -> None:
    shown = _letter_json(letter)
    for name in ("letter", "severity", "time", "reason", "text", "attempts", "replaying"):
        if shown[name] is not None:
            say(f"{name + ':':<11}{shown[name]}")
    for message in shown["messages"]:
        say("message:")
        for name, value in message.items():
            if value not in (None, {}):
                say(f"  {name + ':':<9}{value}")
    if shown["raw"]:
        say(f"raw:       {shown['raw']}")
    if shown["stack"]:
        say(shown["stack"].rstrip())
