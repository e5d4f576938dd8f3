"""`starling status`, `tail`, `doctor`: looking at a running mesh changes nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import pytest
from starling.adapters.nats import EmbeddedServer
from starling.admin.doctor import Level, server_findings
from starling.core.ids import AgentId, PodName, ShardId
from starling.core.membership import ShardMap
from starling.core.names import INLETS, PoolNames
from starling.ports.store import StreamSpec
from starling.provision import PoolStreams, read_map, shard_streams, write_map

from .conftest import Account, Paid, Ran, RunningMesh, Spoilt, run_starling, running_mesh, until


@pytest.mark.row("CP-39", part="status")
async def test_status_tells_pods_owners_and_what_waits(account_mesh: RunningMesh) -> None:
    told = (await account_mesh.starling("status", "--json")).json
    (pool,) = told["pools"]
    assert (pool["pool"], pool["agentTypes"], pool["shardCount"], pool["owned"]) == ("accounts", ["account"], 2, 2)
    assert [(pod["pod"], pod["state"], pod["shards"]) for pod in pool["pods"]] == [("accounts-0", "ready", [0, 1])]
    assert [(shard["owner"], shard["map"], shard["waiting"]) for shard in pool["shards"]] == [
        ("accounts-0", "accounts-0", 0)
    ] * 2
    text = await account_mesh.starling("status", "--shards")
    assert text.out.splitlines()[1].split() == ["accounts", "account", "1", "2", "2", "0", "0"]


async def test_status_of_a_pool_without_pods_tells_what_waits(nats_server: EmbeddedServer) -> None:
    async with running_mesh(nats_server, Account, pods=0) as mesh:
        for number in range(5):
            await mesh.client.send(AgentId("account", f"k{number}"), Paid(1))
        (pool,) = (await mesh.starling("status", "--json")).json["pools"]
        assert (pool["owned"], pool["pods"], pool["waiting"]) == (0, [], 5)
        assert {shard["owner"] for shard in pool["shards"]} == {None}
        await mesh.start("accounts-0")
        _, found = await read_map(mesh.store, mesh.name, mesh.pool)
        placed = {ShardId(n): PodName("accounts-0") for n in range(2)}
        over, _ = await read_map(mesh.store, mesh.name, mesh.pool)
        await write_map(mesh.store, mesh.name, mesh.pool, ShardMap((found.rev if found else 0) + 1, placed), over=over)
        await mesh.idle()

        async def is_handled() -> bool:
            (pool,) = (await mesh.starling("status", "--json")).json["pools"]
            return bool(pool["waiting"] == 0 and pool["owned"] == 2)

        await until(is_handled)


def _lines(ran: Ran) -> list[dict[str, Any]]:
    assert (ran.code, ran.err) == (0, "")
    return [json.loads(line) for line in ran.out.splitlines()]


@pytest.mark.row("CP-39", part="peek does not consume")
async def test_tail_shows_mailbox_journal_and_dead_letters_and_consumes_nothing(
    nats_server: EmbeddedServer,
) -> None:
    async with running_mesh(nats_server, Account, pods=0) as mesh:
        for number in range(5):
            await mesh.client.send(AgentId("account", "anna"), Paid(number), headers={"n": str(number)})
        for _ in range(2):
            seen = _lines(await mesh.starling("tail", "mailbox", "accounts", "--json", "--bodies"))
            assert [line["body"] for line in seen] == [f'{{"amount":{number}}}' for number in range(5)]
        assert seen[0]["target"] == "account/anna"
        assert seen[0]["headers"] == {"n": "0"}
        last = _lines(await mesh.starling("tail", "mailbox", "accounts", "--json", "-n", "2"))
        assert [line["headers"]["n"] for line in last] == ["3", "4"]
        assert "body" not in last[0]
        shard = last[0]["where"]
        assert len(_lines(await mesh.starling("tail", "mailbox", shard, "--json", "--count", "1"))) == 1
        over, _ = await read_map(mesh.store, mesh.name, mesh.pool)
        placed = {ShardId(n): PodName("accounts-0") for n in range(2)}
        await write_map(mesh.store, mesh.name, mesh.pool, ShardMap(2, placed), over=over)
        await mesh.start("accounts-0")
        await mesh.idle()
        assert (await mesh.starling("call", "account/anna", "cli.Ask")).out == '{"amount":10,"payments":5}\n'
        journal = _lines(await mesh.starling("tail", "journal", shard, "--json"))
        assert [line["kind"] for line in journal[:2]] == ["born", "take"]
        assert any(line["kind"] == "commit" and line.get("cells") == 1 for line in journal)
        await mesh.client.send(AgentId("account", "anna"), Spoilt(3))

        async def is_dead() -> bool:
            return bool((await mesh.starling("tail", "dead", "accounts")).out)

        await until(is_dead)
        (letter,) = _lines(await mesh.starling("tail", "dead", "accounts", "--json"))
        assert (letter["reason"], letter["target"]) == ("ValueError", "account/anna")


async def test_tail_follows_what_comes(account_mesh: RunningMesh) -> None:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-c",
            "from starling.cli import main; main()",
            "tail",
            "mailbox",
            "accounts",
            "-f",
            "-n",
            "1",
        ),
        *("--count", "3", "--json", "--nats", account_mesh.server.url, "--mesh", account_mesh.name),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    await account_mesh.client.send(AgentId("account", "anna"), Paid(1))
    async with asyncio.timeout(60.0):
        first = json.loads(await process.stdout.readline())
        for amount in (2, 3):
            await account_mesh.client.send(AgentId("account", "bo"), Paid(amount))
        rest = [json.loads(line) for line in (await process.stdout.read()).splitlines()]
        assert await process.wait() == 0
    assert first["target"] == "account/anna"
    assert [line["target"] for line in rest] == ["account/bo", "account/bo"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("mailbox", "nothing"), "pool: mesh"),
        (("mailbox", "accounts/9"), "shard: pool accounts has shards 0 to 1, not 9"),
        (("journal", "accounts/x"), "shard: 'accounts/x' is not of the form pool/number"),
        (("dead", "accounts/0"), "where: dead letters are kept by pool"),
    ],
)
async def test_what_cannot_be_followed_is_one_clear_line(
    account_mesh: RunningMesh, arguments: Sequence[str], line: str
) -> None:
    ran = await account_mesh.starling("tail", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"starling: {line}")


def _failed(ran: Ran) -> list[tuple[str, str]]:
    return [(f["where"], f["text"]) for f in json.loads(ran.out) if f["level"] == "failed"]


def _warned(ran: Ran) -> list[tuple[str, str]]:
    return [(f["where"], f["text"]) for f in json.loads(ran.out) if f["level"] == "warning"]


@pytest.mark.row("CP-39", part="doctor")
async def test_doctor_finds_nothing_wrong_with_a_good_mesh(account_mesh: RunningMesh) -> None:
    ran = await account_mesh.starling("doctor", "--json")
    assert (ran.code, _failed(ran), _warned(ran)) == (0, [], [])
    assert len(ran.json) >= 6
    quiet = await account_mesh.starling("doctor", "--quiet")
    assert (quiet.code, quiet.out) == (0, "")
    text = await account_mesh.starling("doctor")
    assert "ok       accounts: 2 of 2 shards have a live owner, 0 frames wait" in text.out


async def test_doctor_finds_a_mesh_that_is_not_there(account_mesh: RunningMesh) -> None:
    ran = await run_starling("doctor", "--json", "--nats", account_mesh.server.url, "--mesh", "nowhere")
    assert ran.code == 1
    assert _failed(ran) == [("buckets", "there is no bucket st_nowhere_maps, st_nowhere_members, st_nowhere_routes")]
    assert ran.err == "starling: 1 finding to act on\n"


async def test_doctor_finds_streams_that_are_gone(account_mesh: RunningMesh, names: PoolNames) -> None:
    await account_mesh.store.delete_stream(names.dead_letters)
    await account_mesh.store.delete_stream(names.journal(ShardId(1)))
    ran = await account_mesh.starling("doctor", "--json")
    assert ran.code == 1
    found = dict(_failed(ran))
    assert found["accounts"] == "there is no dead-letter stream"
    assert "accounts/1" in found
    helps = {f["where"]: f["help"] for f in ran.json if f["level"] == "failed"}
    assert helps["accounts/1"] == "starling repair shard accounts/1"


async def test_doctor_finds_limits_that_somebody_changed(account_mesh: RunningMesh, names: PoolNames) -> None:
    journal = StreamSpec(
        name=names.journal(ShardId(0)), subjects=(names.journal_subject(ShardId(0)),), max_messages=100_000
    )
    await account_mesh.store.ensure_stream(journal)
    mailbox = StreamSpec(name=names.mailbox(ShardId(1)), subjects=(names.mailbox_subjects(ShardId(1)),))
    await account_mesh.store.ensure_stream(mailbox)
    ran = await account_mesh.starling("doctor", "--json")
    assert _failed(ran) == [
        ("accounts/0", "its journal has a limit"),
        ("accounts/1", "its mailbox is not bounded as it was made"),
    ]


async def test_doctor_finds_a_full_mailbox_and_shards_without_an_owner(nats_server: EmbeddedServer) -> None:
    async with running_mesh(nats_server, Account, pods=0) as mesh:
        names = PoolNames(mesh.name, mesh.pool)
        shard = mesh.client._routes.current.target(AgentId("account", "anna")).shard
        _, mailbox = shard_streams(names, shard, PoolStreams(mesh.pool, mailbox_limit=2), ())
        await mesh.store.ensure_stream(mailbox)
        for _ in range(2):
            await mesh.client.send(AgentId("account", "anna"), Paid(1))
        over, _ = await read_map(mesh.store, mesh.name, mesh.pool)
        placed = {ShardId(n): PodName("accounts-1") for n in range(2)}
        await write_map(mesh.store, mesh.name, mesh.pool, ShardMap(2, placed), over=over)
        ran = await mesh.starling("doctor", "--json")
        assert (f"accounts/{shard}", "its mailbox is 100% full") in _failed(ran)
        assert ("accounts", "no pod is a member") in _failed(ran)
        assert [text for where, text in _warned(ran) if where != "accounts"] == []  # without pods no shard has an owner
        await mesh.start("accounts-0")

        async def is_said() -> bool:
            return ("accounts/0", "nobody owns it") in _warned(await mesh.starling("doctor", "--json"))

        await until(is_said)


async def test_doctor_finds_a_pod_that_is_gone_and_an_owner_that_left(account_mesh: RunningMesh) -> None:
    task = account_mesh.tasks.pop("accounts-0")
    account_mesh.workers.pop("accounts-0")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    warned = _warned(await account_mesh.starling("doctor", "--json"))
    assert ("accounts/accounts-0", "is gone; its entry has not expired yet") in warned


@pytest.mark.parametrize(
    ("version", "jetstream", "stored", "limit", "levels"),
    [
        ("2.11.0", True, 10, 100, [Level.OK, Level.OK]),
        ("2.15.1", True, 10, 0, [Level.OK, Level.OK]),
        ("2.10.29", True, 10, 100, [Level.FAILED, Level.OK]),
        ("3.0.0", True, 81, 100, [Level.OK, Level.WARNING]),
        ("2.15.1", False, 0, 0, [Level.OK, Level.FAILED]),
    ],
)
def test_the_server_is_judged_by_version_jetstream_and_room(
    version: str, jetstream: bool, stored: int, limit: int, levels: list[Level]
) -> None:
    assert [finding.level for finding in server_findings(version, jetstream, stored, limit)] == levels


async def test_all_inlets_are_looked_at(account_mesh: RunningMesh, names: PoolNames) -> None:
    """A message in any lane counts as waiting while nobody reads it."""
    await account_mesh.stop("accounts-0")
    for inlet in INLETS:
        await (await account_mesh.store.publish(names.inlet_subject(ShardId(0), inlet), b"\x90"))
    (pool,) = (await account_mesh.starling("status", "--json")).json["pools"]
    assert pool["shards"][0]["waiting"] == len(INLETS)


async def test_the_program_tells_its_version() -> None:
    ran = await run_starling("--version")
    assert (ran.code, ran.out) == (0, f"starling {metadata.version('starling-mesh')}\n")
