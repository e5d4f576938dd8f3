"""`starling repair shard`: a journal or a mailbox that is gone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from starling import Agent, AgentId, Context, event, message, rpc
from starling.adapters.nats import EmbeddedServer
from starling.core.ids import PodName, ShardId
from starling.core.membership import ShardMap
from starling.core.names import PoolNames, bucket_stream, bucket_subject, cell_key
from starling.core.overlay import TableValue
from starling.core.record import Cell
from starling.engine.amend import amend
from starling.engine.shard import OwnedShard
from starling.provision import read_map, write_map

from .conftest import BOUND, Account, Ask, Paid, RunningMesh, running_mesh, until


@message("cli.Give")
@dataclass
class Give:
    """Send so much to each of the next wallets."""

    amount: int


@message("cli.Got")
@dataclass
class Got:
    amount: int


@message("cli.Look")
@dataclass
class Look:
    pass


@dataclass
class Purse:
    got: int = 0
    gifts: int = 0


class Wallet(Agent[Purse], type="wallet"):
    @event
    async def give(self, message: Give, ctx: Context) -> None:
        for step in range(1, 10):
            ctx.send(AgentId("wallet", str((int(self.id.key) + step) % 10)), Got(message.amount))

    @event
    async def got(self, message: Got) -> None:
        self.state.got += message.amount
        self.state.gifts += 1

    @rpc
    async def look(self, message: Look) -> Purse:
        return self.state


async def _give(mesh: RunningMesh) -> None:
    for key in range(10):
        await mesh.client.send(AgentId("wallet", str(key)), Give(2))
    await mesh.idle()


async def _purses(mesh: RunningMesh) -> list[Purse]:
    return [await mesh.client.call(AgentId("wallet", str(key)), Look(), timeout=BOUND) for key in range(10)]


async def _written_behind(mesh: RunningMesh, names: PoolNames) -> None:
    """Wait until the table has what the journals have."""

    async def is_written() -> bool:
        return all(not run.table.overlay.entries for run in _running(mesh))

    await until(is_written)


def _running(mesh: RunningMesh) -> list[OwnedShard]:
    return [run for worker in mesh.workers.values() for run in worker.ownership.owned.values()]


async def _is_lost(mesh: RunningMesh) -> bool:
    return any(ShardId(0) in worker.ownership.lost for worker in mesh.workers.values())


@pytest.mark.row("CP-39", part="repair shard")
async def test_a_shard_whose_journal_is_gone_goes_on_with_its_states_and_its_correspondents(
    nats_server: EmbeddedServer,
) -> None:
    async with running_mesh(nats_server, Wallet) as mesh:
        names = PoolNames(mesh.name, mesh.pool)
        await _give(mesh)
        assert await _purses(mesh) == [Purse(18, 9)] * 10
        await _written_behind(mesh, names)
        await mesh.store.delete_stream(names.journal(ShardId(0)))
        target = mesh.client._routes.current.target
        hit = next(agent for n in range(10) if target(agent := AgentId("wallet", str(n))).shard == 0)
        await mesh.client.send(hit, Got(100))  # its commit fails, and it is among what is skipped
        await until(lambda: _is_lost(mesh))
        whole = await mesh.starling("repair", "shard", "accounts/1", "--waiting", "skip", "--yes")
        assert (whole.code, whole.err) == (2, "starling: shard: accounts/1 is whole: there is nothing to repair\n")
        dry = await mesh.starling("repair", "shard", "accounts/0", "--waiting", "skip", "--dry-run")
        assert dry.code == 0
        assert "there is no stream" in dry.out
        assert await mesh.store.stream_info(names.journal(ShardId(0))) is None
        ran = await mesh.starling("repair", "shard", "accounts/0", "--waiting", "skip", "--yes")
        assert (ran.code, ran.out.splitlines()[-1]) == (0, "accounts/0 is free; its pod takes it"), ran.err
        await mesh.served()
        assert await _purses(mesh) == [Purse(18, 9)] * 10
        await _give(mesh)
        assert await _purses(mesh) == [Purse(36, 18)] * 10
        assert (await mesh.starling("doctor", "--quiet")).code == 0


async def test_messages_that_wait_in_the_mailbox_are_handled_if_a_person_says_so(nats_server: EmbeddedServer) -> None:
    async with running_mesh(nats_server, Account, pods=0) as mesh:
        names = PoolNames(mesh.name, mesh.pool)
        for number in range(10):
            await mesh.client.send(AgentId("account", f"k{number}"), Paid(1))
        for shard in map(ShardId, range(2)):
            await mesh.store.delete_stream(names.journal(shard))
            ran = await mesh.starling("repair", "shard", f"accounts/{shard}", "--waiting", "handle", "--yes", "--json")
            assert ran.json["repaired"] is True, ran.err
        over, _ = await read_map(mesh.store, mesh.name, mesh.pool)
        placed = {ShardId(n): PodName("accounts-0") for n in range(2)}
        await write_map(mesh.store, mesh.name, mesh.pool, ShardMap(2, placed), over=over)
        await mesh.start("accounts-0")
        await mesh.idle()
        balances = [await mesh.client.call(AgentId("account", f"k{n}"), Ask(), timeout=BOUND) for n in range(10)]
        assert [balance.amount for balance in balances] == [1] * 10


async def test_a_shard_whose_mailbox_is_gone_keeps_its_journal_and_its_correspondents(
    nats_server: EmbeddedServer,
) -> None:
    async with running_mesh(nats_server, Wallet) as mesh:
        names = PoolNames(mesh.name, mesh.pool)
        await _give(mesh)
        await mesh.stop("accounts-0")
        before = await mesh.store.stream_info(names.journal(ShardId(0)))
        await mesh.store.delete_stream(names.mailbox(ShardId(0)))
        ran = await mesh.starling("repair", "shard", "accounts/0", "--waiting", "skip", "--yes")
        assert ran.code == 0, ran.err
        assert "its journal is whole and goes on" in ran.out
        after = await mesh.store.stream_info(names.journal(ShardId(0)))
        assert before is not None
        assert after is not None
        assert after.last_sequence == before.last_sequence + 3
        await mesh.start("accounts-0")
        await mesh.served()
        await _give(mesh)
        assert await _purses(mesh) == [Purse(36, 18)] * 10


async def test_the_new_journal_is_ahead_of_every_version_in_the_table(nats_server: EmbeddedServer) -> None:
    async with running_mesh(nats_server, Account) as mesh:
        names = PoolNames(mesh.name, mesh.pool)
        await mesh.client.send(AgentId("account", "anna"), Paid(1))
        await mesh.idle()
        await _written_behind(mesh, names)
        await mesh.stop("accounts-0")
        shard = mesh.client._routes.current.target(AgentId("account", "anna")).shard
        pattern = bucket_subject(names.table, f"{shard}.a.>")
        values = [TableValue.decode(m.data) for m in await mesh.store.page(bucket_stream(names.table), pattern, 1)]
        await mesh.store.delete_stream(names.journal(shard))
        ran = await mesh.starling("repair", "shard", f"accounts/{shard}", "--waiting", "skip", "--yes", "--json")
        assert ran.json["first_sequence"] > max(value.journal for value in values)
        await mesh.start("accounts-0")
        await mesh.served()
        for _ in range(3):
            await mesh.client.send(AgentId("account", "anna"), Paid(1))
        await mesh.idle()
        await _written_behind(mesh, names)
        balance = await mesh.client.call(AgentId("account", "anna"), Ask(), timeout=BOUND)
        assert balance.amount == 4


@pytest.mark.row("RT-39", part="the repair command brings it back")
@pytest.mark.row("CP-39", part="repair agent")
@pytest.mark.parametrize("how", ["state", "destroy"])
async def test_an_agent_whose_state_does_not_load_is_brought_back(nats_server: EmbeddedServer, how: str) -> None:
    async with running_mesh(nats_server, Account, shards=1) as mesh:
        names = PoolNames(mesh.name, mesh.pool)
        anna = AgentId("account", "anna")
        spoilt = {cell_key(ShardId(0), anna, "state"): Cell(1, b'{"amount": "much"}')}
        await amend(mesh.store, names, ShardId(0), [spoilt], incarnation=mesh.incarnation, who="test/1")
        await mesh.served()
        await mesh.client.send(anna, Paid(2))

        async def is_dead() -> bool:
            return bool((await mesh.starling("tail", "dead", "accounts")).out)

        await until(is_dead)
        (letter,) = (await mesh.starling("dead", "list", "--agent", "account/anna", "--json")).json["letters"]
        assert letter["reason"] == "StateUnreadable"
        wrong = await mesh.starling("repair", "agent", "account/anna", "--state", '{"amount": "more"}', "--yes")
        assert wrong.code == 1
        assert "amount" in wrong.err
        options = ("--state", '{"amount":40,"payments":4}') if how == "state" else ("--destroy",)
        ran = await mesh.starling("repair", "agent", "account/anna", *options, "--yes")
        assert (ran.code, ran.err) == (0, "")
        assert (await mesh.starling("dead", "replay", "--all", "--agent", "account/anna")).code == 0
        await mesh.idle()
        balance = await mesh.client.call(anna, Ask(), timeout=BOUND)
        assert (balance.amount, balance.payments) == ((42, 5) if how == "state" else (2, 1))
        again = await mesh.starling("repair", "agent", "account/anna", "--destroy", "--yes")
        assert again.code != 0
        assert "is not parked" in again.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("account/anna",), "--state: give the state as JSON, or --destroy"),
        (("account/anna", "--state", "{}", "--destroy"), "--state: give the state as JSON, or --destroy"),
        (("account/anna", "--state", "{"), "--state: is no JSON"),
        (("anna", "--destroy"), "agent: 'anna' is not of the form type/key"),
    ],
)
async def test_a_repair_without_a_clear_wish_is_refused(
    account_mesh: RunningMesh, arguments: tuple[str, ...], line: str
) -> None:
    ran = await account_mesh.starling("repair", "agent", *arguments, "--yes")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"starling: {line}")
