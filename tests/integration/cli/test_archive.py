"""`starling export` and `import`: agents of a running mesh saved and restored."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starling import Agent, AgentId, Context, event, message, rpc
from starling.adapters.nats import EmbeddedServer
from starling.admin.archive import restore
from starling.admin.states import StateReader
from starling.core.ids import ShardId
from starling.core.names import PoolNames, bucket_stream, bucket_subject, cell_key
from starling.core.record import Cell
from starling.engine.amend import amend
from starling.engine.objects import Objects
from starling.errors import TooLarge
from starling.provision import read_routes

from .conftest import BOUND, Account, Ask, Balance, Paid, RunningMesh, running_mesh, until


@message("cli.Nap")
@dataclass
class Nap:
    seconds: float


@dataclass
class Sleep:
    naps: int = 0


@message("cli.Write")
@dataclass
class Write:
    letters: int


@dataclass
class Page:
    text: str = ""


class Writer(Agent[Page], type="writer"):
    @rpc
    async def write(self, message: Write, ctx: Context) -> int:
        """Write so many letters, or none, over what is there; return how many were there."""
        before = len(self.state.text)
        if message.letters:
            self.state.text = "x" * message.letters
        return before


class Sleeper(Agent[Sleep], type="sleeper"):
    @event
    async def nap(self, message: Nap, ctx: Context) -> None:
        self.state.naps += 1
        await asyncio.sleep(message.seconds)


def _saved(file: Path) -> dict[str, Any]:
    head, *agents, end = [json.loads(line) for line in file.read_text().splitlines()]
    assert head["format"] == "starling agents"
    assert (end["end"], end["saved"]) == (True, len(agents))
    return {line["agent"]: line["cells"] for line in agents}


async def _pay(mesh: RunningMesh, amounts: Mapping[str, int]) -> None:
    for key, amount in amounts.items():
        await mesh.client.send(AgentId("account", key), Paid(amount))
    await mesh.idle()


async def _balance(mesh: RunningMesh, key: str) -> Balance:
    answer: Balance = await mesh.client.call(AgentId("account", key), Ask(), timeout=BOUND)
    return answer


@pytest.mark.row("RT-78", part="saved and restored, at a turn boundary")
@pytest.mark.row("CP-39", part="export and import")
async def test_agents_come_back_as_they_were_saved(account_mesh: RunningMesh, tmp_path: Path) -> None:
    file = tmp_path / "agents.jsonl"
    keys = [f"k{number}" for number in range(20)] + ["a/b", "ü *>."]
    await _pay(account_mesh, dict.fromkeys(keys, 5))
    ran = await account_mesh.starling("export", str(file))
    assert (ran.code, ran.out) == (0, "22 agents saved\n"), ran.err
    assert _saved(file)["account/a/b"] == {"state": {"version": 1, "value": {"amount": 5, "payments": 1}}}
    await _pay(account_mesh, {**dict.fromkeys(keys, 1), "new": 9})
    back = await account_mesh.starling("import", str(file), "--yes", "--json")
    assert back.json == {"restored": 22, "failed": {}}, back.err
    for key in keys:
        assert await _balance(account_mesh, key) == Balance(5, 1)
    assert await _balance(account_mesh, "new") == Balance(9, 1)
    await _pay(account_mesh, {"k0": 2})
    assert await _balance(account_mesh, "k0") == Balance(7, 2)


async def test_what_is_in_the_table_only_is_saved_as_well(account_mesh: RunningMesh, tmp_path: Path) -> None:
    names = PoolNames(account_mesh.name, account_mesh.pool)
    await _pay(account_mesh, {"anna": 5})
    shard = account_mesh.client._routes.current.target(AgentId("account", "anna")).shard
    subject = bucket_subject(names.table, cell_key(shard, AgentId("account", "anna"), "state"))

    async def is_written_behind() -> bool:
        return await account_mesh.store.last(bucket_stream(names.table), subject) is not None

    await until(is_written_behind)
    await account_mesh.stop("accounts-0")
    info = await account_mesh.store.stream_info(names.journal(shard))
    assert info is not None
    await account_mesh.store.purge(names.journal(shard), names.journal_subject(shard), info.last_sequence)
    file = tmp_path / "agents.jsonl"
    assert (await account_mesh.starling("export", str(file))).code == 0
    assert _saved(file) == {"account/anna": {"state": {"version": 1, "value": {"amount": 5, "payments": 1}}}}


@pytest.mark.row("RT-78", part="chosen keys and one type; a restore leaves the rest alone")
async def test_chosen_agents_and_one_type_are_saved_and_restored_alone(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    async with running_mesh(nats_server, Account, Sleeper) as mesh:
        await _pay(mesh, {"anna": 5, "bo": 6})
        await mesh.client.send(AgentId("sleeper", "anna"), Nap(0.0))
        await mesh.idle()
        everything, chosen, one_type = (tmp_path / name for name in ("all", "chosen", "type"))
        assert (await mesh.starling("export", str(everything))).code == 0
        assert sorted(_saved(everything)) == ["account/anna", "account/bo", "sleeper/anna"]
        assert (await mesh.starling("export", str(chosen), "--agent", "account/bo")).code == 0
        assert list(_saved(chosen)) == ["account/bo"]
        assert (await mesh.starling("export", str(one_type), "--type", "sleeper", "--pool", "accounts")).code == 0
        assert list(_saved(one_type)) == ["sleeper/anna"]
        await _pay(mesh, {"anna": 1, "bo": 1})
        await mesh.client.send(AgentId("sleeper", "anna"), Nap(0.0))
        await mesh.idle()
        ran = await mesh.starling("import", str(everything), "--type", "sleeper", "--yes")
        assert (ran.code, ran.out) == (0, "1 agents restored\n")
        assert [await _balance(mesh, key) for key in ("anna", "bo")] == [Balance(6, 2), Balance(7, 2)]
        again = tmp_path / "again"
        await mesh.starling("export", str(again), "--type", "sleeper")
        assert _saved(again) == _saved(one_type)
        assert (await mesh.starling("import", str(everything), "--agent", "account/bo", "--yes")).code == 0
        assert [await _balance(mesh, key) for key in ("anna", "bo")] == [Balance(6, 2), Balance(6, 1)]


async def test_large_cells_are_saved_whole_and_restored_into_the_object_store(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    file = tmp_path / "agents.jsonl"
    async with running_mesh(nats_server, Writer) as mesh:
        anna = AgentId("writer", "anna")
        await mesh.client.call(anna, Write(1_500_000), timeout=BOUND)
        assert (await mesh.starling("export", str(file))).code == 0
        assert len(_saved(file)["writer/anna"]["state"]["value"]["text"]) == 1_500_000
        await mesh.client.call(anna, Write(2), timeout=BOUND)
        back = await mesh.starling("import", str(file), "--yes", "--json")
        assert back.json == {"restored": 1, "failed": {}}, back.err
        assert await mesh.client.call(anna, Write(0), timeout=BOUND) == 1_500_000


async def test_a_large_cell_whose_object_is_lost_is_named_and_the_others_are_saved(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    file = tmp_path / "agents.jsonl"
    async with running_mesh(nats_server, Writer) as mesh:
        await mesh.client.call(AgentId("writer", "anna"), Write(1_500_000), timeout=BOUND)
        await mesh.client.call(AgentId("writer", "bo"), Write(5), timeout=BOUND)
        objects = Objects(mesh.store, mesh.name)
        (name,) = await objects.names(mesh.pool)
        await objects.delete(mesh.pool, name)
        ran = await mesh.starling("export", str(file), "--json")
        assert ran.code == 1
        assert ran.json["failed"] == {"writer/anna": f"object {name} of st_{mesh.name}_{mesh.pool}_big is missing"}
        assert list(_saved(file)) == ["writer/bo"]


@pytest.mark.row("RT-78")
async def test_a_hundred_agents_are_saved_while_each_is_in_the_middle_of_a_turn(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    async with running_mesh(nats_server, Sleeper) as mesh:
        for number in range(100):
            await mesh.client.send(AgentId("sleeper", str(number)), Nap(0.05))
        await mesh.idle()
        for number in range(100):
            await mesh.client.send(AgentId("sleeper", str(number)), Nap(60.0))
        file = tmp_path / "agents.jsonl"
        async with asyncio.timeout(20.0):  # far less than the turns take
            ran = await mesh.starling("export", str(file))
        assert (ran.code, ran.out) == (0, "100 agents saved\n")
        assert {json.dumps(cells) for cells in _saved(file).values()} == {
            '{"state": {"version": 1, "value": {"naps": 1}}}'
        }


@pytest.mark.row("RT-78", part="a failing agent is listed and the others are saved")
async def test_an_agent_that_cannot_be_read_is_listed_and_the_others_are_saved(
    account_mesh: RunningMesh, tmp_path: Path
) -> None:
    names = PoolNames(account_mesh.name, account_mesh.pool)
    await _pay(account_mesh, {"anna": 5, "bo": 6})
    key = cell_key(ShardId(0), AgentId("account", "broken"), "state")
    await (await account_mesh.store.publish(bucket_subject(names.table, key), b"\xff\xff"))
    file = tmp_path / "agents.jsonl"
    ran = await account_mesh.starling("export", str(file), "--json")
    assert (ran.code, ran.json["saved"]) == (1, 2)
    assert list(ran.json["failed"]) == ["account/broken"]
    assert ran.err.startswith("starling: 1 could not be saved:\n  account/broken: table value")
    assert sorted(_saved(file)) == ["account/anna", "account/bo"]
    end = json.loads(file.read_text().splitlines()[-1])
    assert list(end["failed"]) == ["account/broken"]
    absent = await account_mesh.starling("export", str(tmp_path / "x"), "--agent", "account/nobody")
    assert (absent.code, absent.err) == (1, "starling: 1 could not be saved:\n  account/nobody: has no state\n")


async def test_restoring_under_load_loses_and_doubles_nothing(account_mesh: RunningMesh) -> None:
    _, routes = await read_routes(account_mesh.store, account_mesh.name)
    stop = asyncio.Event()
    sent = 0

    async def feed() -> None:
        nonlocal sent
        while not stop.is_set():
            await account_mesh.client.send(AgentId("account", f"k{sent % 10}"), Paid(1))
            sent += 1

    feeding = asyncio.create_task(feed())
    try:
        for round_ in range(3):
            agents = [
                (AgentId("account", f"r{n}"), {"state": Cell(1, b'{"amount":%d,"payments":0}' % round_)})
                for n in range(8)
            ]
            saved = await restore(account_mesh.store, account_mesh.name, routes, agents, who="import/test")
            assert (saved.done, saved.failed) == (8, {})
            before = sent

            async def goes_on(before: int = before) -> bool:
                return sent > before + 50

            await until(goes_on)
    finally:
        stop.set()
        await feeding
    await account_mesh.idle()
    assert sum([(await _balance(account_mesh, f"k{n}")).amount for n in range(10)]) == sent
    assert [(await _balance(account_mesh, f"r{n}")).amount for n in range(8)] == [2] * 8


async def test_a_restore_drops_cells_that_the_file_does_not_have(account_mesh: RunningMesh) -> None:
    names = PoolNames(account_mesh.name, account_mesh.pool)
    _, routes = await read_routes(account_mesh.store, account_mesh.name)
    agent = AgentId("account", "anna")
    target = routes.target(agent)
    old = {cell_key(target.shard, agent, name): Cell(1, b'{"amount":1,"payments":1}') for name in ("state", "other")}
    await amend(account_mesh.store, names, target.shard, [old], incarnation=target.pool.incarnation, who="import/a")
    cells = {"state": Cell(1, b'{"amount":2,"payments":1}')}
    await restore(account_mesh.store, account_mesh.name, routes, [(agent, cells)], who="import/b")
    read = await StateReader(account_mesh.store, account_mesh.name, target.pool, target.shard).read()
    assert {name: cell.data for name, cell in read.agents[agent].items()} == {"state": cells["state"].data}


async def test_a_cell_that_fits_into_no_record_changes_nothing(account_mesh: RunningMesh) -> None:
    names = PoolNames(account_mesh.name, account_mesh.pool)
    before = await account_mesh.store.stream_info(names.journal(ShardId(0)))
    groups = [{"0.a.account.x.state": Cell(1, b"{}")}, {"0.a.account.y.state": Cell(1, b"x" * 1_000_000)}]
    with pytest.raises(TooLarge, match="at most 921600 fit into a record"):
        await amend(account_mesh.store, names, ShardId(0), groups, incarnation=account_mesh.incarnation, who="import/a")
    after = await account_mesh.store.stream_info(names.journal(ShardId(0)))
    assert before is not None
    assert after is not None
    assert after.last_sequence == before.last_sequence


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "file: has no end: the export was cut off"),
        ('{"format":"other"}\n', "line 1: is not the head of an export"),
        ('{"format":"starling agents","version":9}\n', "line 1: is of version 9, this program reads 1"),
        ('{"format":"starling agents","version":1}\n{"agent":"a/b"}\n', "line 2: is no line of an export"),
        ('{"format":"starling agents","version":1}\nx\n', "line 2: is no line of an export"),
        ('{"format":"starling agents","version":1}\n', "file: has no end: the export was cut off"),
    ],
    ids=["empty", "another file", "another version", "no cells", "no JSON", "cut off"],
)
async def test_a_file_that_is_no_whole_export_restores_nothing(
    account_mesh: RunningMesh, tmp_path: Path, text: str, line: str
) -> None:
    file = tmp_path / "agents.jsonl"
    file.write_text(text)
    ran = await account_mesh.starling("import", str(file), "--yes")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"starling: {line}")


async def test_an_export_does_not_overwrite_and_unknown_agents_are_refused(
    account_mesh: RunningMesh, tmp_path: Path
) -> None:
    file = tmp_path / "agents.jsonl"
    await _pay(account_mesh, {"anna": 5})
    assert (await account_mesh.starling("export", str(file))).code == 0
    twice = await account_mesh.starling("export", str(file))
    assert (twice.code, twice.err) == (2, f"starling: file: cannot write {file}: File exists; give another name\n")
    piped = await account_mesh.starling("export", "-")
    assert piped.out.splitlines()[1] == file.read_text().splitlines()[1]
    other = await account_mesh.starling("export", str(tmp_path / "x"), "--type", "other")
    assert (other.code, other.err) == (1, "starling: no pool of this mesh runs agent type 'other'\n")
    nobody = await account_mesh.starling("import", str(file), "--agent", "account/bo", "--yes")
    assert (nobody.code, nobody.err) == (2, "starling: --agent: account/bo: not in the file\n")


async def test_an_import_asks_first(account_mesh: RunningMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "agents.jsonl"
    await _pay(account_mesh, {"anna": 5})
    await account_mesh.starling("export", str(file))
    await _pay(account_mesh, {"anna": 1})
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    ran = await account_mesh.starling("import", str(file))
    assert (ran.code, await _balance(account_mesh, "anna")) == (2, Balance(6, 2))
