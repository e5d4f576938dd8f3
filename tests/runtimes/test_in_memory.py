"""The suite over a store in this process's memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import starling
from starling import LocalRuntime

from tests.runtimes.suite import AGENTS, SUBSCRIPTIONS, Suite

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def mesh() -> AsyncIterator[LocalRuntime]:
    async with starling.local(*AGENTS, subscriptions=list(SUBSCRIPTIONS.values())) as runtime:
        yield runtime


class TestInMemory(Suite):
    """Nothing but Python."""


@pytest.mark.row("RT-31", part="the in-memory part needs no NATS")
def test_a_program_in_memory_runs_where_there_is_no_client_of_nats(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "first-program.md").read_text(encoding="utf-8")
    program = re.search(r"```python first\.py\n(.*?)```", page, re.DOTALL)
    printed = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert program is not None
    assert printed is not None
    (tmp_path / "first.py").write_text(program[1], encoding="utf-8")
    without_nats = "import runpy, sys; sys.modules['nats'] = None; runpy.run_path('first.py', run_name='__main__')"
    command, env = [sys.executable, "-c", without_nats], dict(os.environ)
    done = subprocess.run(command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, printed[1]), done.stderr
