"""The `starling` command: exit codes 0, 1 failed, 2 usage, 3 unreachable; errors are one clear line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from starling.cli import agents, archive, dead, doctor, drain, messages, repair, status, tail
from starling.cli.common import CREDENTIALS, run, say
from starling.errors import MeshError, SpecError, Unreachable

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(dead.app, name="dead")
app.add_typer(repair.app, name="repair")
messages.register(app)
for command in (status.status, tail.tail, doctor.doctor, drain.drain, agents.agents):
    app.command()(command)
app.command("export")(archive.export_agents)
app.command("import")(archive.import_agents)


def _say_version(wanted: bool) -> None:
    if wanted:
        say(f"starling {metadata.version('starling-mesh')}")
        raise typer.Exit


@app.callback()
def starling(
    creds: Annotated[
        Path | None,
        typer.Option("--creds", envvar="STARLING_NATS_CREDS", help="NATS credentials file to sign in with."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Durable agents on NATS and Kubernetes."""
    CREDENTIALS.set(creds)


@app.command()
def dev(
    folder: Annotated[Path, typer.Option("--file", "-f", exists=True, help="Folder, or file, of manifests.")],
    data: Annotated[
        Path | None, typer.Option(help="Where data and logs are kept; default .starling beside them.")
    ] = None,
    ephemeral: Annotated[bool, typer.Option(help="Throw the data away at the end.")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the embedded NATS server; 0 takes a free one.")
    ] = 4222,
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `starling` command; always ends with SystemExit. arguments: default those of the process."""
    try:
        app(args=arguments, prog_name="starling")
    except Unreachable as error:
        sys.exit(_failed(error, 3))
    except SpecError as error:
        sys.exit(_failed(error, 2))
    except (MeshError, TimeoutError) as error:
        sys.exit(_failed(error, 1))


def _failed(error: BaseException, code: int) -> int:
    print(f"starling: {error or type(error).__name__}", file=sys.stderr)  # noqa: T201
    return code
