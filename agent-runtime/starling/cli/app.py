"""The `starling` command: exit codes 0, 1 failed, 2 usage, 3 unreachable; errors are one clear line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from starling.client import connect
from starling.core.ids import AgentId, TopicId
from starling.errors import MeshError, SpecError, Unreachable

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Durable agents on NATS and Kubernetes.")

Nats = Annotated[str, typer.Option("--nats", envvar="STARLING_NATS_URL", help="Address of the NATS server.")]
MeshName = Annotated[str, typer.Option("--mesh", envvar="STARLING_MESH", help="Name of the mesh.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait at most.")]
LOCAL_NATS = "nats://127.0.0.1:4222"


@app.command()
def dev(
    folder: Annotated[Path, typer.Option("--file", "-f", exists=True, help="Folder, or file, of manifests.")],
    data: Annotated[
        Path | None, typer.Option(help="Where data and logs are kept; default .starling beside them.")
    ] = None,
    ephemeral: Annotated[bool, typer.Option(help="Throw the data away at the end.")] = False,
    port: Annotated[int, typer.Option(help="Port of the embedded NATS server; 0 takes a free one.")] = 4222,
    plain: Annotated[bool, typer.Option(help="Lines instead of the live view.")] = False,
    status: Annotated[Path | None, typer.Option(help="Write what goes on to this file, as JSON.")] = None,
) -> None:
    """Run manifests on this machine: NATS, control loop and workers, until Ctrl-C."""
    try:
        from starling_operator.dev.run import DevOptions
        from starling_operator.dev.run import dev as run_dev
        from starling_operator.dev.view import view
    except ImportError as error:
        raise SpecError("starling dev", f"needs the extra: pip install 'starling-mesh[dev]' ({error})") from error
    base = folder if folder.is_dir() else folder.parent
    kept = None if ephemeral else data if data is not None else base / ".starling"
    options = DevOptions(folder, kept.absolute() if kept else None, port=port, status=status)
    with view(Console(), plain=plain) as shown:
        run(run_dev(options, shown))


@app.command()
def call(
    agent: Annotated[str, typer.Argument(help="type/key")],
    message: Annotated[str, typer.Argument(help="Message name and JSON body: 'Ask {}'")],
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = "dev",
    timeout: Timeout = 30.0,
) -> None:
    """Call an agent and print its answer as JSON."""
    type_name, body = _message(message)

    async def work() -> None:
        async with connect(nats, mesh=mesh) as client:
            _, answer = await client.call_raw(AgentId.parse(agent), type_name, body, timeout=timeout)
            print(answer.decode())  # noqa: T201

    run(work())


@app.command()
def send(
    agent: Annotated[str, typer.Argument(help="type/key")],
    message: Annotated[str, typer.Argument(help="Message name and JSON body: 'Add {\"x\": 1}'")],
    message_id: Annotated[str | None, typer.Option("--id", help="A repeat of this id counts once.")] = None,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = "dev",
    timeout: Timeout = 30.0,
) -> None:
    """Send a message to an agent; it is stored when this returns."""
    type_name, body = _message(message)

    async def work() -> None:
        async with connect(nats, mesh=mesh, name="starling send") as client:
            stored = await client.send_raw(AgentId.parse(agent), type_name, body, id=message_id, timeout=timeout)
            print(f"stored at {stored.sequence}{' (repeat)' if stored.duplicate else ''}")  # noqa: T201

    run(work())


@app.command()
def publish(
    topic: Annotated[str, typer.Argument(help="type/source")],
    message: Annotated[str, typer.Argument(help="Message name and JSON body: 'Departed {…}'")],
    message_id: Annotated[str | None, typer.Option("--id", help="A repeat of this id counts once.")] = None,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = "dev",
    timeout: Timeout = 30.0,
) -> None:
    """Publish a message to a topic; it is stored for every subscriber when this returns."""
    kind, slash, source = topic.partition("/")
    if not slash:
        raise SpecError("topic", f"{topic!r} is not of the form type/source")
    type_name, body = _message(message)

    async def work() -> None:
        async with connect(nats, mesh=mesh, name="starling publish") as client:
            stored = await client.publish_raw(TopicId(kind, source), type_name, body, id=message_id, timeout=timeout)
            print(f"stored for {len(stored)} agents")  # noqa: T201

    run(work())


def _message(text: str) -> tuple[str, bytes]:
    name, _, body = text.strip().partition(" ")
    try:
        json.loads(body or "{}")
    except ValueError as error:
        raise SpecError("message", f"the body is no JSON: {error}") from error
    return name, (body or "{}").encode()


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one command's work."""
    asyncio.run(work)


def main() -> None:
    """Entry point of the `starling` command."""
    try:
        app(standalone_mode=True)
    except Unreachable as error:
        sys.exit(_failed(error, 3))
    except SpecError as error:
        sys.exit(_failed(error, 2))
    except (MeshError, TimeoutError) as error:
        sys.exit(_failed(error, 1))


def _failed(error: BaseException, code: int) -> int:
    print(f"starling: {error or type(error).__name__}", file=sys.stderr)  # noqa: T201
    return code
