"""`starling send`, `call`, `query`, `publish`: messages from the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from starling.admin.expected import unchecked_because
from starling.cli.common import (
    LOCAL_MESH,
    LOCAL_NATS,
    AsJson,
    MeshName,
    Nats,
    Timeout,
    agent_of,
    client_of,
    message_of,
    readable,
    routes_of,
    run,
    say,
    show,
    show_json,
    store_and_client,
)
from starling.context import checked_headers
from starling.core.ids import AgentId, TopicId
from starling.errors import MessageError, SpecError
from starling.ports.store import Store

Agent = Annotated[str, typer.Argument(metavar="TYPE/KEY", help="The agent.")]
Message = Annotated[str, typer.Argument(help="Name of the message and its JSON body: 'Add {\"x\": 1}'.")]
MessageId = Annotated[str | None, typer.Option("--id", help="A repeat of this id within 30 s counts once.")]
Unchecked = Annotated[
    bool,
    typer.Option("--unchecked", help="Send it whatever the agent type is known to take, as to older or newer code."),
]
Headers = Annotated[list[str] | None, typer.Option("--header", "-H", help="name=value; may be given again.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(send)
    app.command()(call)
    app.command()(query)
    app.command()(publish)


def send(
    agent: Agent,
    message: Message,
    message_id: MessageId = None,
    header: Headers = None,
    unchecked: Unchecked = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
    timeout: Timeout = 30.0,
) -> None:
    """Send a message to an agent; it is stored when this returns.

    One that its agent type does not take, by what the pool's pods have said of it, is refused.
    """
    target, (name, body), headers = agent_of(agent), message_of(message), _headers(header)

    async def work() -> None:
        async with store_and_client(nats, mesh, "starling send") as (store, client):
            why = "" if unchecked else await _unchecked(store, mesh, target, name, body)
            stored = await client.send_raw(target, name, body, id=message_id, headers=headers, timeout=timeout)
        if why:
            typer.echo(f"not checked: {why}", err=True)
        text = f"stored at {stored.sequence}{' (repeat)' if stored.duplicate else ''}"
        show(
            as_json,
            {"sequence": stored.sequence, "duplicate": stored.duplicate, "checked": not (why or unchecked)},
            text,
        )

    run(work())


async def _unchecked(store: Store, mesh: str, target: AgentId, name: str, body: bytes) -> str:
    """Why it cannot be said whether the agent takes this, "" if it does. Raises CantHandle, DecodeError."""
    try:
        return await unchecked_because(store, mesh, await routes_of(store, mesh), target, name, body)
    except MessageError as error:
        raise type(error)(f"{error}; nothing was sent; --unchecked sends it all the same") from error


def call(
    agent: Agent,
    message: Message,
    header: Headers = None,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
    timeout: Timeout = 30.0,
) -> None:
    """Call an agent and print its answer, which comes after the commit of its turn."""
    target, (name, body), headers = agent_of(agent), message_of(message), _headers(header)

    async def work() -> None:
        async with client_of(nats, mesh, "starling call") as client:
            answer_type, answer = await client.call_raw(target, name, body, timeout=timeout, headers=headers)
        show_answer(as_json, target, answer_type, answer)

    run(work())


def query(
    agent: Agent,
    message: Message,
    header: Headers = None,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
    timeout: Timeout = 5.0,
) -> None:
    """Ask a `@query` handler: nothing is stored or changed, and the answer says what was committed lately."""
    target, (name, body), headers = agent_of(agent), message_of(message), _headers(header)

    async def work() -> None:
        async with client_of(nats, mesh, "starling query") as client:
            answer_type, answer = await client.query_raw(target, name, body, timeout=timeout, headers=headers)
        show_answer(as_json, target, answer_type, answer)

    run(work())


def publish(
    topic: Annotated[str, typer.Argument(metavar="TOPIC/SOURCE", help="The topic and what it is about.")],
    message: Message,
    message_id: MessageId = None,
    header: Headers = None,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
    timeout: Timeout = 30.0,
) -> None:
    """Publish a message to a topic; it is stored for every subscriber when this returns."""
    kind, slash, source = topic.partition("/")
    if not slash:
        raise SpecError("topic", f"{topic!r} is not of the form type/source")
    (name, body), headers = message_of(message), _headers(header)

    async def work() -> None:
        async with client_of(nats, mesh, "starling publish") as client:
            stored = await client.publish_raw(
                TopicId(kind, source), name, body, id=message_id, headers=headers, timeout=timeout
            )
        repeats = sum(accepted.duplicate for accepted in stored)
        text = f"stored for {len(stored)} agents{f' ({repeats} repeats)' if repeats else ''}"
        if not stored:
            text += f": no subscription takes what is published to {topic}"
        show(as_json, {"agents": len(stored), "duplicates": repeats}, text)

    run(work())


def show_answer(as_json: bool, target: AgentId, answer_type: str, answer: bytes) -> None:
    """Print what an agent answered."""
    if as_json:
        show_json({"agent": str(target), "type": answer_type, "answer": readable(answer)})
    else:
        say(answer.decode(errors="backslashreplace"))


def _headers(given: list[str] | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SpecError("--header", f"{text!r} is not of the form name=value")
        headers[name] = value
    return dict(checked_headers(headers))
