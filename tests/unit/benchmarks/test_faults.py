"""The judges and tools of the fault suite."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
from starling.adapters.nats import EmbeddedServer
from starling.adapters.nats.server import HOST, free_port
from starling.core.ids import PoolName
from starling.core.names import MeshNames

from benchmarks.faults.__main__ import run
from benchmarks.faults.cluster import routed
from benchmarks.faults.garbage import frames_of_garbage
from benchmarks.faults.proxy import Proxy
from benchmarks.faults.trial import Report
from benchmarks.kept import keep
from benchmarks.page import page
from benchmarks.verdict import Effects, Verdict, effects


def judged(numbers: list[int], sent: int) -> Effects:
    """What an agent that got these numbers in this order counts, and what is made of it."""
    last = not_above = left_out = 0
    for number in numbers:
        not_above += number <= last
        left_out += max(0, number - last - 1)
        last = max(last, number)
    return effects(sent, len(numbers), not_above, left_out)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        pytest.param([1, 2, 3, 4], (0, 0, 0), id="as sent"),
        pytest.param([1, 2, 4], (1, 0, 0), id="one in the middle is lost"),
        pytest.param([1, 2, 3], (1, 0, 0), id="the last is lost"),
        pytest.param([], (4, 0, 0), id="all are lost"),
        pytest.param([1, 2, 2, 3, 4], (0, 1, 0), id="one came twice"),
        pytest.param([1, 2, 3, 4, 1, 2, 3, 4], (0, 4, 0), id="all came twice"),
        pytest.param([1, 3, 2, 4], (0, 0, 1), id="two are exchanged"),
        pytest.param([4, 1, 2, 3], (0, 0, 3), id="the last came first"),
    ],
)
def test_effects_tell_lost_doubled_and_disordered_apart(numbers: list[int], expected: tuple[int, int, int]) -> None:
    assert judged(numbers, sent=4) == expected


def test_any_order_but_the_sent_one_is_found() -> None:
    for numbers in itertools.permutations([1, 2, 3, 4]):
        found = judged(list(numbers), sent=4)
        assert (found.lost, found.doubled) == (0, 0)
        assert (found.out_of_order == 0) == (list(numbers) == [1, 2, 3, 4])


@pytest.mark.parametrize("wrong", [{"lost": 1}, {"doubled": 1}, {"out_of_order": 1}, {"unsure": 1}, {"reason": "x"}])
def test_a_verdict_is_good_only_when_nothing_at_all_is_wrong(wrong: dict[str, object]) -> None:
    good = Verdict(accepted=5, lost=0, doubled=0, out_of_order=0)

    assert good.ok
    assert not replace(good, **wrong).ok  # type: ignore[arg-type]


def test_garbage_is_the_same_for_the_same_seed_and_reaches_every_shard() -> None:
    names = MeshNames("m").pool(PoolName("p"))
    once, again = (list(frames_of_garbage(names, 4, 2000, random.Random(1))) for _ in range(2))

    assert once == again
    subjects = {subject for subject, _, _ in once}
    assert {f"st.m.p.m.{shard}.{lane}" for shard in range(4) for lane in ("o.n", "o.u", "f.n", "f.u")} <= subjects
    assert {f"st.m.p.q.{shard}" for shard in range(4)} <= subjects


def test_garbage_holds_frames_that_cannot_be_read_and_some_that_can() -> None:
    readable = 0
    frames = list(frames_of_garbage(MeshNames("m").pool(PoolName("p")), 4, 1000, random.Random(1)))
    for _, body, _ in frames:
        try:
            readable += isinstance(msgpack.unpackb(body), list)
        except (ValueError, msgpack.UnpackException):
            continue

    assert 100 < readable < 900


async def good(folder: Path, report: Report) -> None:
    report.accepted = 5


async def broken(folder: Path, report: Report) -> None:
    raise OSError("no server")


async def test_what_a_run_knows_is_in_its_file_after_each_row_and_stays_there_when_it_is_stopped(
    tmp_path: Path,
) -> None:
    target = tmp_path / "made" / "faults.json"
    asked = asyncio.Event()

    async def waits(folder: Path, report: Report) -> None:
        asked.set()
        await asyncio.Event().wait()

    rows = {"first": good, "second": broken, "third": waits, "fourth": good}
    running = asyncio.create_task(run(rows, folders=None, target=target, quick=False))
    async with asyncio.timeout(10):
        await asked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    kept = json.loads(target.read_text())
    assert [(row["name"], row["ok"], row["failures"]) for row in kept["rows"]] == [
        ("first", True, []),
        ("second", False, ["OSError: no server"]),
    ]
    assert kept["missing"] == ["third", "fourth"]
    assert [file.name for file in target.parent.iterdir()] == ["faults.json"]
    assert "before these rows: third, fourth." in page(NO_BENCHMARKS | kept, kept)


async def test_a_run_that_ends_misses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "faults.json"
    reports = await run({"first": good, "second": good}, folders=tmp_path, target=target, quick=True)
    assert [report.accepted for report in reports] == [5, 5]
    kept = json.loads(target.read_text())
    assert (kept["missing"], kept["quick"], len(kept["rows"])) == ([], True, 2)
    assert "The run was stopped" not in page(NO_BENCHMARKS | kept, kept)


def test_what_a_file_held_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    keep({"rows": [1]}, target)
    (tmp_path / "run.json.part").mkdir()  # in the way of the new one
    with pytest.raises(IsADirectoryError):
        keep({"rows": [1, 2]}, target)
    assert json.loads(target.read_text()) == {"rows": [1]}


NO_BENCHMARKS = {"rounds": 1, "cases": []}


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """Port of a server that sends back what it gets."""
    port = free_port()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(answer, HOST, port):
        yield port


async def ends(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends, with or without a reset."""
    try:
        return not await reader.read(100)
    except ConnectionResetError:
        return True


async def test_a_cut_proxy_keeps_its_connections_and_carries_nothing(echo: int) -> None:
    async with Proxy(HOST, echo) as proxy, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"before")
        assert await reader.read(100) == b"before"

        proxy.cut()
        writer.write(b"meanwhile")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(100), 0.2)

        proxy.heal()
        assert await ends(reader)
        writer.close()

        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"after")
        assert await reader.read(100) == b"after"
        writer.close()


@pytest.mark.parametrize("cut", ["there", "back"])
async def test_a_proxy_that_is_cut_one_way_carries_the_other(cut: str) -> None:
    port = free_port()
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait((reader, writer))

    async with await asyncio.start_server(served, HOST, port), Proxy(HOST, port) as proxy, asyncio.timeout(10):
        here, to_there = await asyncio.open_connection(HOST, proxy.port)
        there, to_here = await accepted.get()
        proxy.cut(there=cut == "there", back=cut == "back")
        to_there.write(b"to there")
        to_here.write(b"to here")
        carried, held = (here, there) if cut == "there" else (there, here)
        assert await carried.read(100)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(held.read(100), 0.2)
        proxy.heal()
        assert await ends(here)
        assert await ends(there)
        to_there.close()
        to_here.close()


async def test_servers_behind_proxies_have_no_route_around_them(tmp_path: Path) -> None:
    async with routed(tmp_path) as (made, proxies):
        ports = [arguments(server)["--cluster"] for server in made]
        routes = [arguments(server)["--routes"].split(",") for server in made]
        advertised = [arguments(server)["--cluster_advertise"] for server in made]
    urls = [proxy.url for proxy in proxies]
    assert routes[1:] == [urls[:1], urls[1:]]
    assert routes[0] == [f"nats://{advertised[0]}"]
    assert not {f"nats://{where}" for where in advertised} & {*urls, *ports}


def arguments(server: EmbeddedServer) -> dict[str, str]:
    """Its options and their values."""
    return dict(zip(server._arguments[::2], server._arguments[1::2], strict=True))


async def test_a_proxy_drops_all_connections_and_takes_new_ones(echo: int) -> None:
    async with Proxy(HOST, echo) as proxy, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"x")
        await reader.read(1)

        proxy.drop()

        assert await ends(reader)
        writer.close()
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"y")
        assert await reader.read(1) == b"y"
        writer.close()
