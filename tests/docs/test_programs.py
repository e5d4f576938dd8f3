"""The programs of the pages, run as they are printed."""

from __future__ import annotations

import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import starling.errors
from starling_operator.dev.manifests import read

from hack.docs import ROOT, Block, blocks

READY = 60.0


def steps(page: str) -> list[Block]:
    """Return the blocks of a page that are files, commands that can be run here, or what these print."""
    kept = []
    for block in blocks(ROOT / page):
        runs = block.language == "sh" and block.about in ("", "terminal")
        if block.file or runs or block.language == "text":
            kept.append(block)
    return kept


def write(block: Block, folder: Path, port: int = 0) -> None:
    """Write a file as printed, but for the port, which is this test's own."""
    file = folder / block.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text.replace(":4222", f":{port}"))


def environment(port: int) -> dict[str, str]:
    """The checkout's programs first, and the mesh on this test's own port."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "STARLING_NATS_URL": f"nats://127.0.0.1:{port}", "PYTHONPATH": "."}


def run(block: Block, folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        ["sh", "-e", "-c", block.text], cwd=folder, env=env, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, f"{block.page.name}:{block.line}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def terminal(block: Block, folder: Path, port: int) -> Iterator[Path]:
    """Run `starling dev` as printed, but on a port of this test, until the block of the page is over."""
    (command,) = block.commands
    assert command.startswith("starling dev ")
    log = folder / "dev.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command.split(), "--port", str(port), "--plain"],
            cwd=folder, env=environment(port), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
        try:
            wait_for(log, r" ready in ", process)
            yield log
        finally:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(60)
            finally:
                process.kill()
        assert code == 0, log.read_text()


def wait_for(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a line of the log fits. Fails after a minute, or when the process ends."""
    end = time.monotonic() + READY
    while not re.search(pattern, log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.row("RT-93")
def test_the_first_program_has_twenty_lines_and_prints_what_the_page_says(tmp_path: Path) -> None:
    program, command, printed = steps("docs/first-program.md")
    write(program, tmp_path)
    assert len([line for line in program.text.splitlines() if line.strip()]) == 20
    assert run(command, tmp_path, environment(0)) == printed.text


def test_getting_started_works_on_a_laptop_as_it_is_printed(tmp_path: Path) -> None:
    port = free_port()
    page = steps("docs/getting-started.md")
    assert [block.file for block in page if block.file] == [
        "hello/counter.py",
        "hello/pool.yaml",
        "hello/kustomization.yaml",
        "client.py",
    ]
    for block in page:
        if block.file:
            write(block, tmp_path, port)
    (start,) = [block for block in page if block.about == "terminal"]
    shells = [block for block in page if block.language == "sh" and not block.about]
    texts = [block for block in page if block.language == "text"]
    with terminal(start, tmp_path, port):
        for shell, text in zip(shells, texts, strict=True):
            assert run(shell, tmp_path, environment(port)) == text.text
    with terminal(start, tmp_path, port):
        assert run(shells[1], tmp_path, environment(port)) == "Count(total=58)\n"


def test_the_program_of_the_page_on_observing_prints_what_the_page_says(tmp_path: Path) -> None:
    program, command, printed = steps("docs/observing.md")
    write(program, tmp_path)
    assert run(command, tmp_path, environment(0)) == printed.text


def test_the_guides_agents_pass_the_guides_tests(tmp_path: Path) -> None:
    for block in steps("docs/agents.md"):
        if block.file:
            write(block, tmp_path)
        else:
            assert "3 passed" in run(block, tmp_path, environment(0))


AIRPORTS = """
import asyncio
import starling
from airports import Airport, Ask, Movement

async def main():
    async with starling.testing.mesh(Airport, subscriptions={"airport.movement": Airport}) as tests:
        for carrier in ("UA", "UA", "AA"):
            await tests.publish(starling.Topic("airport.movement")("EWR"), Movement(carrier))
        print(await tests.agent(Airport, "EWR").report(Ask()))

asyncio.run(main())
"""


def test_the_readmes_agent_counts_what_its_topic_brings(tmp_path: Path) -> None:
    (program,) = [block for block in steps("README.md") if block.file == "airports.py"]
    write(program, tmp_path)
    driver = Block(program.page, program.line, "sh", "", f"python - <<'END'\n{AIRPORTS}END\n")
    assert run(driver, tmp_path, environment(0)) == "Movements(total=3, carriers={'UA': 2, 'AA': 1})\n"


def test_the_readmes_objects_are_the_three_kinds_and_fit_its_agent(tmp_path: Path) -> None:
    for block in steps("README.md"):
        if block.file:
            write(block, tmp_path)
    (pool,) = (manifests := read(tmp_path)).pools.values()
    (subscription,) = manifests.subscriptions.values()
    (target,) = manifests.targets.values()
    assert [agent.entrypoint for agent in pool.spec.agents] == ["airports:Airport"]
    assert subscription.spec.pool_ref.name == target.spec.pool_ref.name == pool.metadata.name
    assert subscription.spec.agent_type == pool.spec.agents[0].type


def test_the_page_of_errors_speaks_of_every_error_and_of_no_other() -> None:
    errors = {name for name, value in vars(starling.errors).items() if inspect.isclass(value)}
    errors = {name for name in errors if issubclass(getattr(starling.errors, name), starling.errors.MeshError)}
    shown = set(re.findall(r"`([A-Z]\w+)`", (ROOT / "docs" / "errors.md").read_text()))
    others = {"LookupError", "TimeoutError", "TypeError", "ValidationError", "Degraded"}
    assert shown - others == errors
