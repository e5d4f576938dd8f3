"""`starling dev` as people run it: a process of its own, its workers below it, manifests in a folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starling import AgentId, connect

BOUND = 60.0

AGENTS = """
from dataclasses import dataclass
from starling import Agent, event, rpc

@dataclass(frozen=True)
class DevAdd:
    number: int

@dataclass(frozen=True)
class DevAsk:
    pass

@dataclass
class DevTotal:
    total: int = 0

class Adder(Agent[DevTotal], type="adder"):
    @event
    async def add(self, message: DevAdd) -> None:
        self.state.total += message.number

    @rpc
    async def ask(self, message: DevAsk) -> int:
        return self.state.total
"""

POOL = """
apiVersion: starlingmesh.dev/v1alpha1
kind: AgentPool
metadata: {{name: adders}}
spec:
  replicas: {replicas}
  shards: 4
  drainSeconds: 1
  code: {{configMap: adders-code}}
  agents: [{{type: adder, entrypoint: "adders:Adder"}}]
"""

KUSTOMIZATION = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
configMapGenerator: [{name: adders-code, files: [adders.py]}]
"""


def write(folder: Path, *, replicas: int = 1, code: str = AGENTS, other: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "adders.py").write_text(code)
    (folder / "kustomization.yaml").write_text(KUSTOMIZATION)
    (folder / "pool.yaml").write_text(POOL.format(replicas=replicas))
    if other:
        (folder / "other.yaml").write_text(other)


class Dev:
    """One run of `starling dev` on a folder."""

    def __init__(self, folder: Path, place: Path, *options: str) -> None:
        self.folder = folder
        self._status = place / "status.json"
        self._status.unlink(missing_ok=True)
        self.out = place / "out.txt"
        program = "from starling.cli import main; main()"
        given = ["dev", "--file", str(folder), "--port", "0", "--status", str(self._status), *options]
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, *given],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(place)},
                start_new_session=True,
            )

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._status.read_text()) if self._status.exists() else {}
        return found

    @property
    def said(self) -> str:
        return self.out.read_text()

    @property
    def workers(self) -> dict[str, int]:
        pools = self.status.get("pools", {})
        return {pod: pid for pool in pools.values() for pod, pid in pool["processes"].items()}

    async def until(self, fact: Callable[[], bool], what: str = "") -> None:
        """Wait until it is a fact; fail with what was said."""
        try:
            async with asyncio.timeout(BOUND):
                while not fact():
                    assert self.process.poll() is None, self.said
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not so in time: {what}\n{self.said}") from None

    async def ready(self) -> None:
        await self.until(lambda: bool(self.status.get("ready")), "ready")

    async def owners(self, *pods: str) -> None:
        """Wait until these pods and no others own all shards."""

        def so() -> bool:
            owners = self.status.get("pools", {}).get("adders", {}).get("owners", {})
            return len(owners) == 4 and set(owners.values()) == set(pods)

        await self.until(so, f"owned by {pods}")

    async def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Press Ctrl-C and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        async with asyncio.timeout(BOUND):
            while self.process.poll() is None:
                await asyncio.sleep(0.02)
        return int(self.process.returncode)

    async def add(self, key: str, number: int) -> None:
        async with connect(self.status["nats"], mesh=self.status["mesh"]) as mesh:
            body = json.dumps({"number": number}).encode()
            await mesh.send_raw(AgentId("adder", key), "DevAdd", body)

    async def total(self, key: str) -> int:
        async with connect(self.status["nats"], mesh=self.status["mesh"]) as mesh:
            _, answer = await mesh.call_raw(AgentId("adder", key), "DevAsk", b"{}", timeout=BOUND)
            return int(answer)


Start = Callable[..., Dev]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts `starling dev` on the folder of the test; ends it at the end."""
    runs: list[Dev] = []

    def started(*options: str) -> Dev:
        runs.append(Dev(tmp_path / "manifests", tmp_path, *options))
        return runs[-1]

    try:
        yield started
    finally:
        for run in runs:
            await run.stop(signal.SIGTERM)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(*pids: int) -> None:
    async with asyncio.timeout(BOUND):
        while any(is_alive(pid) for pid in pids):
            await asyncio.sleep(0.02)


def thrown_away(place: Path) -> list[Path]:
    """The folders of runs that keep nothing."""
    return list(place.glob("starling-*"))


def is_free(url: str) -> bool:
    host, _, port = url.removeprefix("nats://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


@pytest.mark.row("RT-31", part="starling dev runs the manifests with nothing but Python")
async def test_it_is_ready_says_so_in_plain_lines_and_ends_cleanly_on_ctrl_c(start: Start, tmp_path: Path) -> None:
    write(tmp_path / "manifests")
    dev = start()
    await dev.ready()
    await dev.add("k", 40)
    await dev.add("k", 2)
    assert await dev.total("k") == 42
    pids, url = [*dev.workers.values()], dev.status["nats"]
    assert len(pids) == 1
    assert await dev.stop() == 0
    await gone(*pids)
    assert is_free(url)
    lines = dev.said.splitlines()
    assert any("ready in " in line and url in line for line in lines)
    assert any("adders: 1/1 pods ready, 4/4 shards" in line for line in lines)
    assert lines[-1].endswith("stopping")
    assert "\x1b" not in dev.said
    assert "Traceback" not in dev.said


async def test_data_is_kept_beside_the_manifests_and_found_again(start: Start, tmp_path: Path) -> None:
    write(tmp_path / "manifests")
    for number in (1, 2):
        dev = start()
        await dev.ready()
        await dev.add("k", 10)
        assert await dev.total("k") == 10 * number
        assert await dev.stop() == 0
    assert {path.name for path in (tmp_path / "manifests" / ".starling").iterdir()} >= {"nats", "logs", "pools"}


async def test_data_may_be_thrown_away(start: Start, tmp_path: Path) -> None:
    write(tmp_path / "manifests")
    dev = start("--ephemeral")
    await dev.ready()
    await dev.add("k", 10)
    assert thrown_away(tmp_path)
    assert await dev.stop() == 0
    assert thrown_away(tmp_path) == []
    assert not (tmp_path / "manifests" / ".starling").exists()


async def test_a_worker_that_dies_is_started_again_with_its_state(start: Start, tmp_path: Path) -> None:
    write(tmp_path / "manifests", replicas=2)
    dev = start()
    await dev.owners("adders-0", "adders-1")
    for number in range(8):
        await dev.add(f"k{number}", number + 1)
    killed = dev.workers["adders-0"]
    os.kill(killed, signal.SIGKILL)
    await dev.until(lambda: dev.workers.get("adders-0", killed) != killed, "another process")
    assert [await dev.total(f"k{number}") for number in range(8)] == list(range(1, 9))
    await dev.owners("adders-0", "adders-1")


async def test_manifests_are_read_again_when_they_change(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    write(folder)
    dev = start()
    await dev.owners("adders-0")
    await dev.add("k", 5)
    (folder / "pool.yaml").write_text(POOL.format(replicas=2))
    await dev.owners("adders-0", "adders-1")
    assert "manifests read again" in dev.said
    assert await dev.total("k") == 5

    first = dict(dev.workers)
    (folder / "adders.py").write_text(AGENTS.replace("return self.state.total", "return self.state.total * 100"))
    await dev.until(lambda: not set(first.values()) & set(dev.workers.values()) and len(dev.workers) == 2, "new code")
    assert await dev.total("k") == 500

    (folder / "pool.yaml").write_text(POOL.format(replicas=1))
    await dev.owners("adders-0")
    await dev.until(lambda: set(dev.workers) == {"adders-0"}, "one pod")
    assert await dev.total("k") == 500


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (POOL.format(replicas=1).replace("shards: 4", "shards: 0"), "pool.yaml: AgentPool adders: spec.shards"),
        (POOL.format(replicas=1).replace("shards: 4", "shards: 8"), "spec.shards"),
        (POOL.format(replicas=1).replace("drainSeconds", "drainSecond"), "drainSecond"),
        ("spec: [", "pool.yaml: is no YAML"),
        ("- 1", "pool.yaml: holds a document that is no object"),
        (POOL.format(replicas=1).replace("metadata: {name: adders}", "metadata: adders"), "metadata"),
    ],
    ids=["range", "may-not-change", "unknown", "no-yaml", "no-object", "no-metadata"],
)
async def test_a_wrong_manifest_is_said_with_its_field_and_the_last_good_state_stays(
    start: Start, tmp_path: Path, wrong: str, says: str
) -> None:
    folder = tmp_path / "manifests"
    write(folder)
    dev = start()
    await dev.ready()
    await dev.add("k", 5)
    before = dict(dev.workers)
    (folder / "pool.yaml").write_text(wrong)
    await dev.until(lambda: "manifests are wrong, the last good ones stay" in dev.said, "said")
    line = next(line for line in dev.said.splitlines() if "are wrong" in line)
    assert says in line
    assert await dev.total("k") == 5
    assert dev.workers == before
    (folder / "pool.yaml").write_text(POOL.format(replicas=2))
    await dev.owners("adders-0", "adders-1")


async def test_bytes_that_are_no_text_are_a_wrong_manifest_too(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    write(folder)
    dev = start()
    await dev.ready()
    (folder / "pool.yaml").write_bytes(b"\xff\xfe\x00")
    await dev.until(lambda: "pool.yaml: is no UTF-8 text" in dev.said, "said")
    assert dev.process.poll() is None


async def test_a_pool_that_is_taken_out_ends_its_workers_and_comes_back_with_its_data(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "manifests"
    write(folder)
    dev = start()
    await dev.ready()
    await dev.add("k", 5)
    assert await dev.total("k") == 5
    pids = dev.workers.values()
    (folder / "pool.yaml").write_text("# nothing\n")
    await dev.until(lambda: dev.workers == {} and "adders" not in dev.status["pools"], "no workers")
    await gone(*pids)
    (folder / "pool.yaml").write_text(POOL.format(replicas=1))
    await dev.owners("adders-0")
    assert await dev.total("k") == 5


@pytest.mark.parametrize(
    ("other", "says"),
    [(POOL.format(replicas=-1), "other.yaml: AgentPool adders: spec.replicas"), ("}", "other.yaml: is no YAML")],
    ids=["field", "no-yaml"],
)
async def test_manifests_that_are_wrong_at_the_start_end_it_with_one_clear_line(
    start: Start, tmp_path: Path, other: str, says: str
) -> None:
    write(tmp_path / "manifests", other=other)
    dev = start()
    await gone(dev.process.pid)
    assert await dev.stop() == 2
    assert says in dev.said
    assert "Traceback" not in dev.said


async def test_a_folder_for_data_that_cannot_be_made_ends_it_with_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path / "manifests")
    (tmp_path / "file").write_text("")
    dev = Dev(tmp_path / "manifests", tmp_path, "--data", str(tmp_path / "file" / "data"))
    await gone(dev.process.pid)
    assert await dev.stop() == 2
    assert f"--data: {tmp_path}/file/data cannot be made: Not a directory; give another folder" in dev.said
    assert "Traceback" not in dev.said


async def test_a_code_that_does_not_start_is_seen_and_can_be_mended(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    write(folder, code="raise RuntimeError('not yet')")
    dev = start()
    log = folder / ".starling" / "logs" / "adders-0.log"
    await dev.until(lambda: log.exists() and "not yet" in log.read_text(), "the reason in the worker's log")
    await dev.until(lambda: f"adders-0 ended with code 2, its log {log} ends with: " in dev.said, "said")
    assert "RuntimeError: not yet; it starts again at once" in dev.said
    assert not dev.status.get("ready")
    (folder / "adders.py").write_text(AGENTS)
    await dev.owners("adders-0")
    await dev.add("k", 3)
    assert await dev.total("k") == 3


async def test_the_only_pod_of_a_pool_is_replaced_once_and_without_waiting_for_its_drain_time(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "manifests"
    write(folder)
    (folder / "pool.yaml").write_text(POOL.format(replicas=1).replace("drainSeconds: 1", "drainSeconds: 600"))
    dev = start()
    await dev.owners("adders-0")
    await dev.add("k", 5)
    first = dict(dev.workers)
    (folder / "adders.py").write_text(AGENTS.replace("return self.state.total", "return self.state.total * 100"))
    await dev.until(lambda: dev.workers.get("adders-0", first["adders-0"]) != first["adders-0"], "new code")
    assert await dev.total("k") == 500
    assert dev.said.count("PodReplaced") == 1


async def test_a_pool_that_cannot_start_holds_up_no_other(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    other = POOL.format(replicas=1).replace("adder", "abacus").replace("abacuss-code", "nothing")
    write(folder, other=other)
    dev = start()
    await dev.owners("adders-0")
    assert "abacuss: AgentPool abacuss: spec.code.configMap: there is no ConfigMap 'nothing'" in dev.said


async def test_a_port_that_is_taken_is_said_and_nothing_is_left_running(tmp_path: Path) -> None:
    write(tmp_path / "manifests")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        dev = Dev(tmp_path / "manifests", tmp_path, "--port", str(port))
        await gone(dev.process.pid)
        assert await dev.stop() == 3
    assert f"--port: {port} is taken by another program; give another one" in dev.said
    assert "Traceback" not in dev.said


async def test_a_status_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    write(tmp_path / "manifests")
    (tmp_path / "file").write_text("")
    dev = Dev(tmp_path / "manifests", tmp_path, "--status", str(tmp_path / "file" / "status.json"))
    await gone(dev.process.pid)
    assert await dev.stop() == 2
    assert dev.said.startswith("starling: --status: ")
    assert "give another file" in dev.said
    assert not (tmp_path / "manifests" / ".starling").exists()


async def test_manifests_without_a_pool_are_said_to_run_nothing(start: Start, tmp_path: Path) -> None:
    write(tmp_path / "manifests")
    (tmp_path / "manifests" / "pool.yaml").unlink()
    dev = start()
    await dev.until(lambda: "there is no AgentPool in these manifests: nothing runs" in dev.said, "said")
    (tmp_path / "manifests" / "pool.yaml").write_text(POOL.format(replicas=1))
    await dev.owners("adders-0")
