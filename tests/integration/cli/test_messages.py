"""`starling send`, `call`, `publish` against a running mesh."""

from __future__ import annotations

import asyncio
import sys

import pytest
from starling import AgentId
from starling.adapters.nats import EmbeddedServer
from starling.core.names import PoolNames

from .conftest import Account, RunningMesh, Sponge, run_starling, running_mesh


@pytest.mark.row("CP-39", part="send, call and publish")
async def test_what_is_sent_and_published_is_there_when_the_agent_is_called(account_mesh: RunningMesh) -> None:
    sent = await account_mesh.starling("send", "account/anna", 'cli.Paid {"amount": 5}')
    assert (sent.code, sent.err) == (0, "")
    assert sent.out.startswith("stored at ")
    published = await account_mesh.starling("publish", "payment/anna", 'cli.Paid {"amount": 7}', "--json")
    assert published.json == {"agents": 1, "duplicates": 0}
    nobody = await account_mesh.starling("publish", "paiment/anna", 'cli.Paid {"amount": 7}')
    assert nobody.out == "stored for 0 agents: no subscription takes what is published to paiment/anna\n"
    called = await account_mesh.starling("call", "account/anna", "cli.Ask")
    assert called.out == '{"amount":12,"payments":2}\n'
    told = (await account_mesh.starling("call", "account/anna", "cli.Ask", "--json")).json
    assert told == {"agent": "account/anna", "type": "cli.Balance", "answer": {"amount": 12, "payments": 2}}


@pytest.mark.row("CP-39", part="query")
async def test_a_query_is_answered_and_nothing_is_stored(account_mesh: RunningMesh, names: PoolNames) -> None:
    await account_mesh.starling("send", "account/anna", 'cli.Paid {"amount": 5}')
    await account_mesh.idle()
    target = account_mesh.client._routes.current.target(AgentId("account", "anna"))
    before = await account_mesh.store.stream_info(names.mailbox(target.shard))
    assert (await account_mesh.starling("query", "account/anna", "cli.Ask")).out == '{"amount":5,"payments":1}\n'
    told = (await account_mesh.starling("query", "account/anna", "cli.Ask", "--json")).json
    assert told == {"agent": "account/anna", "type": "cli.Balance", "answer": {"amount": 5, "payments": 1}}
    after = await account_mesh.store.stream_info(names.mailbox(target.shard))
    assert before is not None
    assert after is not None
    assert after.last_sequence == before.last_sequence
    refused = await account_mesh.starling("query", "account/anna", "cli.Spoilt")
    assert refused.code == 1
    assert refused.err.count("\n") == 1


@pytest.mark.row("CP-39", part="a message that the agent does not take is not stored")
@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            'cli.Payd {"amount": 5}',
            "account has no handler that takes cli.Payd; it takes: cli.Paid, cli.Ask, cli.Spoilt",
        ),
        ("cli.Peek", "account takes cli.Peek only as a query: `starling query`"),
        ("cli.Paid", "cli.Paid.amount: is missing"),
        ('cli.Paid {"amount": "5"}', 'cli.Paid.amount: must be an integer, not "5"'),
        ('cli.Paid {"amout": 5}', "cli.Paid.amout: is no field of it; there are: amount"),
        ("cli.Paid [5]", "cli.Paid: must be an object, not [5]"),
    ],
)
async def test_what_its_agent_would_not_take_is_refused_and_not_stored_but_with_unchecked(
    account_mesh: RunningMesh, message: str, line: str
) -> None:
    refused = await account_mesh.starling("send", "account/anna", message)
    text = f"starling: {line}; nothing was sent; --unchecked sends it all the same\n"
    assert (refused.code, refused.out, refused.err) == (1, "", text)
    assert await dead_letters(account_mesh) == 0
    sent = await account_mesh.starling("send", "account/anna", message, "--unchecked")
    assert (sent.code, sent.err) == (0, "")
    await account_mesh.idle()
    assert await dead_letters(account_mesh) == 1


async def dead_letters(mesh: RunningMesh) -> int:
    return len((await mesh.starling("dead", "list", "--json")).json["letters"])


async def test_what_no_pod_has_told_of_yet_is_sent_and_said_not_to_be_checked(nats_server: EmbeddedServer) -> None:
    async with running_mesh(nats_server, Account, pods=0) as mesh:
        sent = await mesh.starling("send", "account/anna", 'cli.Paid {"amout": 5}', "--json")
    assert (sent.code, sent.json["checked"]) == (0, False)
    assert sent.err == "not checked: no pod has said yet what account takes\n"


async def test_an_agent_that_takes_what_no_handler_names_is_sent_any_message(nats_server: EmbeddedServer) -> None:
    async with running_mesh(nats_server, Sponge) as mesh:
        sent = await mesh.starling("send", "sponge/bob", "cli.Anything", "--json")
        assert (sent.code, sent.json["checked"]) == (0, False)
        assert sent.err == "not checked: sponge also takes messages that it does not name\n"
        assert (await mesh.starling("send", "sponge/bob", 'cli.Paid {"amount": "x"}')).code == 1


async def test_the_same_id_twice_counts_once_and_the_answer_says_so(account_mesh: RunningMesh) -> None:
    for expected in (False, True):
        sent = await account_mesh.starling("send", "account/bo", 'cli.Paid {"amount": 5}', "--id", "one", "--json")
        assert sent.json["duplicate"] is expected
    assert (await account_mesh.starling("call", "account/bo", "cli.Ask")).out == '{"amount":5,"payments":1}\n'


@pytest.mark.row("CP-39", part="errors are one clear line")
@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("send", "acount/anna", "cli.Paid"), 1, "no pool of this mesh runs agent type 'acount'"),
        (("send", "account", "cli.Paid"), 2, "agent: 'account' is not of the form type/key"),
        (("send", "account/anna", "cli.Paid {"), 2, "message: the body is no JSON"),
        (("send", "account/anna", '{"amount": 5}'), 2, "message: begins with its body, '{\"amount\":'; give its name"),
        (("send", "account/anna", "cli.Paid", "-H", "x"), 2, "--header: 'x' is not of the form name=value"),
        (("send", "account/anna", "cli.Paid", "-H", "St-V=1"), 2, "headers.St-V: names that start with"),
        (("publish", "payment", "cli.Paid"), 2, "topic: 'payment' is not of the form type/source"),
        (("call", "account/anna", "cli.Balance"), 1, "account has no handler that takes cli.Balance"),
        (("call", "account/anna", "cli.Spoilt"), 1, "ValueError: cannot take 1"),
        (("call", "account/anna", "cli.Nothing"), 1, "no message class is registered as 'cli.Nothing'"),
        (("call", "account/anna", 'cli.Paid {"amount": "x"}'), 1, "cli.Paid.amount: Input should be a valid integer"),
    ],
)
async def test_what_is_wrong_is_one_clear_line(
    account_mesh: RunningMesh, arguments: tuple[str, ...], code: int, line: str
) -> None:
    ran = await account_mesh.starling(*arguments)
    assert ran.code == code
    assert ran.err.startswith(f"starling: {line}")
    assert ran.err.count("\n") == 1
    assert ran.out == ""


async def test_without_a_server_the_exit_code_is_3() -> None:
    ran = await run_starling("send", "account/anna", "cli.Paid", "--nats", "nats://127.0.0.1:1")
    assert ran.code == 3
    assert ran.err.startswith("starling: no NATS server at nats://127.0.0.1:1")


async def test_without_a_mesh_of_this_name_the_exit_code_is_3(account_mesh: RunningMesh) -> None:
    ran = await run_starling("dead", "list", "--nats", account_mesh.server.url, "--mesh", "nowhere")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("starling: there is no mesh 'nowhere' on this NATS server")


@pytest.mark.parametrize("command", [("send", "account/anna", "cli.Paid"), ("status",)])
async def test_a_name_that_no_mesh_can_have_is_refused_as_such(
    account_mesh: RunningMesh, command: tuple[str, ...]
) -> None:
    ran = await run_starling(*command, "--nats", account_mesh.server.url, "--mesh", "a b")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("starling: mesh: 'a b' must be made of letters, digits and '-' only")


async def test_the_installed_program_ends_with_the_same_codes(account_mesh: RunningMesh) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from starling.cli import main; main()"),
        *("send", "nobody/anna", "cli.Paid", "--nats", account_mesh.server.url, "--mesh", account_mesh.name),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60.0):
        out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert err == b"starling: no pool of this mesh runs agent type 'nobody'\n"
