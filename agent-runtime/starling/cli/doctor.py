"""`starling doctor`: what is wrong, and what helps."""

from __future__ import annotations

from typing import Annotated

import typer

from starling.admin.doctor import Finding, Level, examine, server_findings
from starling.cli.common import LOCAL_MESH, LOCAL_NATS, AsJson, MeshName, Nats, connected, counted, run, say, show_json
from starling.errors import MeshError


def doctor(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is not ok.")] = False,
    as_json: AsJson = False,
    nats: Nats = LOCAL_NATS,
    mesh: MeshName = LOCAL_MESH,
) -> None:
    """Look at NATS, buckets, streams, members and shards; exit code 1 when something has failed."""

    async def work() -> None:
        async with connected(nats, "starling doctor") as store:
            facts = await store.server()
            findings = list(server_findings(facts.version, facts.jetstream, facts.stored_bytes, facts.limit_bytes))
            if facts.jetstream:
                findings += await examine(store, mesh)
        _show([one for one in findings if not quiet or one.level is not Level.OK], as_json=as_json)
        failed = sum(finding.level is Level.FAILED for finding in findings)
        if failed:
            raise MeshError(f"{counted(failed, 'finding')} to act on")

    run(work())


def _show(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        show_json([{"level": f.level, "where": f.where, "text": f.text, "help": f.help} for f in findings])
        return
    for finding in findings:
        help_text = f" ({finding.help})" if finding.help else ""
        say(f"{finding.level:<8} {finding.where}: {finding.text}{help_text}")
