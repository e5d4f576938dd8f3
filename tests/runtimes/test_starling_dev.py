"""The suite under `starling dev`: manifests, a control loop, and worker processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import starling
import yaml
from starling import Mesh

from tests.runtimes.objects import objects
from tests.runtimes.suite import BOUND, Suite


@pytest.fixture(scope="module")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a running `starling dev` has its server; prints in how many seconds it was ready."""
    folder = tmp_path_factory.mktemp("dev")
    manifests, status, log = folder / "manifests", folder / "status.json", folder / "dev.log"
    manifests.mkdir()
    (manifests / "members.yaml").write_text(yaml.safe_dump_all(objects()), encoding="utf-8")
    options = ("--file", str(manifests), "--data", str(folder / "data"), "--port", "0", "--plain")
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", "from starling.cli import main; main()", "dev", *options, "--status", str(status)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        while not _is_ready(status):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - began < BOUND, log.read_text()
            time.sleep(0.02)
        print(f"starling dev was ready after {time.monotonic() - began:.1f} s")
        yield str(json.loads(status.read_text())["nats"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.wait(timeout=BOUND)


def _is_ready(status: Path) -> bool:
    return status.exists() and bool(json.loads(status.read_text())["ready"])


@pytest.fixture
async def mesh(nats_url: str) -> AsyncIterator[Mesh]:
    async with starling.connect(nats_url) as made:
        yield made


class TestStarlingDev(Suite):
    """Two worker processes and a server."""
