"""The embedded server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from starling.adapters.nats import EmbeddedServer, connect
from starling.adapters.nats.server import cluster, memory_bytes
from starling.errors import Unreachable
from starling.ports.store import Answer, Stored, StreamSpec, Unknown

BOUND = 30.0


async def test_data_and_address_outlive_a_crash(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    url, first = server.url, server.pid
    store = await connect(url, name="test")
    await store.ensure_stream(StreamSpec(name="s", subjects=("s",)))
    assert await (await store.publish("s", b"1")) == Stored(1)
    await store.close()
    await server.restart()
    assert server.url == url
    assert server.pid not in (None, first)
    store = await connect(url, name="test")
    message = await store.last("s", "s")
    assert message is not None
    assert message.data == b"1"
    await store.close()
    running = server.pid
    await server.stop()
    assert not _runs(running or 0)
    await server.stop()


async def test_a_port_in_use_is_named_with_the_log(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "one")
    await server.start()
    second = EmbeddedServer(tmp_path / "two", port=server.port)
    with pytest.raises(
        Unreachable, match=r"^nats-server ended while starting: Error listening .* address already in use\" \(.*two"
    ):
        await second.start()
    await server.stop()


async def test_two_servers_never_run_on_the_same_data(tmp_path: Path) -> None:
    server, second = EmbeddedServer(tmp_path), EmbeddedServer(tmp_path)
    await server.start()
    with pytest.raises(Unreachable, match=f"another nats-server runs on {tmp_path}"):
        await second.start()
    await server.kill()
    await second.start()  # whoever was refused holds nothing that keeps it from starting later
    assert second.pid is not None
    await second.stop()


async def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import asyncio, pathlib, sys, time\n"
        "from starling.adapters.nats import EmbeddedServer\n"
        "server = EmbeddedServer(pathlib.Path(sys.argv[1]))\n"
        "asyncio.run(server.start())\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(BOUND):
        child = int(await parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        while _runs(child):
            await asyncio.sleep(0.02)


async def test_three_servers_make_a_cluster(tmp_path: Path) -> None:
    servers = cluster(tmp_path)
    await asyncio.gather(*(server.start() for server in servers))
    try:
        store = await connect(",".join(server.url for server in servers), name="test")
        async with asyncio.timeout(BOUND):
            while True:
                try:
                    await store.ensure_stream(StreamSpec(name="s", subjects=("s",), replicas=3))
                    break
                except Unreachable:
                    await asyncio.sleep(0.1)
            answer: Answer = Unknown()
            while not isinstance(answer, Stored):
                answer = await (await store.publish("s", b"1"))
        await store.close()
    finally:
        await asyncio.gather(*(server.kill() for server in servers))


def _runs(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"sys/fs/cgroup/memory.max": "1048576\n"}, 1_048_576),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "2097152\n"}, 2_097_152),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({}, None),
    ],
    ids=["version 2", "version 1", "no limit", "no control groups"],
)
def test_the_memory_there_is_is_the_containers_or_the_machines(
    tmp_path: Path, files: dict[str, str], found: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)

    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_bytes(tmp_path) == (machine if found is None else found)


@pytest.mark.parametrize(
    ("asked", "around", "kept"),
    [(None, None, str(memory_bytes() // 4)), (None, "700MiB", "700MiB"), (100_000_000, "700MiB", "100000000")],
    ids=["a quarter of the memory", "what the environment says", "what was asked for"],
)
async def test_the_server_is_told_how_much_memory_to_stay_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None, around: str | None, kept: str
) -> None:
    monkeypatch.delenv("GOMEMLIMIT", raising=False)
    if around:
        monkeypatch.setenv("GOMEMLIMIT", around)
    server = EmbeddedServer(tmp_path, soft_memory=asked)
    await server.start()
    try:
        said = told(server)
    finally:
        await server.kill()
    assert said == [f"GOMEMLIMIT={kept}"]


def told(server: EmbeddedServer) -> list[str]:
    """What the server's environment says of memory."""
    environment = Path(f"/proc/{server.pid}/environ").read_text().split("\0")
    return [each for each in environment if each.startswith("GOMEMLIMIT=")]
