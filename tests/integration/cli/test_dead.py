"""`starling dead`: poison messages of a running mesh, listed, shown, put back and dropped."""

from __future__ import annotations

import asyncio
import io
import time
from dataclasses import replace
from typing import Any

import pytest
from starling.admin.letters import DeadLetters, Filter, list_letters
from starling.admin.replay import Replayer
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, ShardId
from starling.core.names import Inlet, Lane, Origin, PoolNames
from starling.core.severity import Severity
from starling.engine.dead import DeadLetter
from starling.errors import MailboxFull, OutcomeUnknown, SpecError, UnknownPool
from starling.node.dead_letters import DeadLetterWatch
from starling.provision import PoolStreams, dead_letter_stream, read_routes, shard_streams

from .conftest import BOUND, Account, Ask, Paid, RunningMesh, Spoilt, until


async def _letters_there(mesh: RunningMesh, count: int) -> DeadLetters:
    letters = DeadLetters(mesh.store, mesh.name, mesh.pool)

    async def there() -> bool:
        return (await letters.fill()).letters >= count

    await until(there)
    return letters


async def _balance(mesh: RunningMesh, key: str) -> int:
    await mesh.idle()
    answer = await mesh.client.call(AgentId("account", key), Ask(), timeout=BOUND)
    amount: int = answer.amount
    return amount


@pytest.mark.row("RT-30", part="kept with reason, stack, attempts, headers and target while other agents go on")
@pytest.mark.row("RT-15", part="look-up by the id finds its dead letter")
@pytest.mark.row("CP-39", part="dead")
async def test_a_poison_message_is_shown_with_all_that_is_known_of_it(account_mesh: RunningMesh) -> None:
    await account_mesh.client.send(AgentId("account", "anna"), Spoilt(3), headers={"tenant": "blue"}, id="bad-1")
    await account_mesh.client.send(AgentId("account", "bo"), Paid(4))
    await _letters_there(account_mesh, 1)
    assert await _balance(account_mesh, "bo") == 4
    shown = (await account_mesh.starling("dead", "show", "bad-1", "--json")).json
    assert len(shown) == 1
    letter, message = shown[0], shown[0]["messages"][0]
    assert (letter["reason"], letter["text"], letter["attempts"]) == ("ValueError", "cannot take 3", 1)
    assert letter["severity"] == "high"
    assert "in spoilt" in letter["stack"]
    assert (message["id"], message["type"], message["target"]) == ("bad-1", "cli.Spoilt", "account/anna")
    assert (message["headers"], message["body"]) == ({"tenant": "blue"}, {"amount": 3})
    text = (await account_mesh.starling("dead", "show", letter["letter"])).out
    assert "ValueError" in text
    assert "tenant" in text


@pytest.mark.row("RT-30", part="replay after the fix handles it once", completes=True)
async def test_after_the_fix_a_letter_that_is_put_back_is_handled_once_and_gone(account_mesh: RunningMesh) -> None:
    await account_mesh.client.send(AgentId("account", "anna"), Spoilt(3))
    letters = await _letters_there(account_mesh, 1)
    Account.mended = True
    (name,) = [s["letter"] for s in (await account_mesh.starling("dead", "list", "--json")).json["letters"]]
    ran = await account_mesh.starling("dead", "replay", name)
    assert (ran.code, ran.out) == (0, "1 letter put back\n")
    assert await _balance(account_mesh, "anna") == 3
    assert (await letters.fill()).letters == 0
    again = await account_mesh.starling("dead", "replay", name)
    assert again.code == 2
    assert "has no dead letter" in again.err
    assert await _balance(account_mesh, "anna") == 3


async def test_a_letter_that_fails_again_is_a_dead_letter_again(account_mesh: RunningMesh) -> None:
    await account_mesh.client.send(AgentId("account", "anna"), Spoilt(3), id="bad")
    letters = await _letters_there(account_mesh, 1)
    for _ in range(2):
        (letter,) = await letters.of_message("bad")
        assert (await account_mesh.starling("dead", "replay", f"{letter.pool}/{letter.number}")).code == 0
        await _letters_there(account_mesh, 1)
    assert len(await letters.of_message("bad")) == 1


@pytest.mark.row("RT-30", part="a crash between storing and removing does not handle it twice")
async def test_a_replay_that_crashed_before_the_letter_was_removed_is_finished_without_a_second_effect(
    account_mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    await account_mesh.client.send(AgentId("account", "anna"), Spoilt(3))
    letters = await _letters_there(account_mesh, 1)
    Account.mended = True
    _, routes = await read_routes(account_mesh.store, account_mesh.name)
    letter = await letters.get(await letters.last())

    class Crash(Exception):
        pass

    async def crash(self: DeadLetters, number: int) -> bool:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(DeadLetters, "drop", crash)
        with pytest.raises(Crash):
            await Replayer(account_mesh.store, account_mesh.name, letters, routes).replay(letter)
    assert await _balance(account_mesh, "anna") == 3
    listed = (await account_mesh.starling("dead", "list", "--json")).json["letters"]
    assert listed[0]["replaying"] is not None
    assert (await account_mesh.starling("dead", "replay", "--all")).code == 0
    assert await _balance(account_mesh, "anna") == 3
    assert (await letters.fill()).letters == 0


async def test_a_replay_that_was_cut_off_long_ago_is_not_repeated_unless_a_person_says_so(
    account_mesh: RunningMesh, names: PoolNames
) -> None:
    await account_mesh.client.send(AgentId("account", "anna"), Spoilt(3))
    letters = await _letters_there(account_mesh, 1)
    Account.mended = True
    letter = await letters.get(await letters.last())
    long_ago = repr(time.time() - 100.0).encode()
    await (await account_mesh.store.publish(names.replay_subject(letter.number), long_ago))
    _, routes = await read_routes(account_mesh.store, account_mesh.name)
    with pytest.raises(OutcomeUnknown, match="being put back 100 s ago already"):
        await Replayer(account_mesh.store, account_mesh.name, letters, routes).replay(letter)
    ran = await account_mesh.starling("dead", "replay", "--all")
    assert ran.code == 1
    assert "look at its agent, then replay it with --again or drop it" in ran.err
    assert await _balance(account_mesh, "anna") == 0
    assert (await account_mesh.starling("dead", "replay", "--all", "--again")).code == 0
    assert await _balance(account_mesh, "anna") == 3
    assert (await letters.fill()).letters == 0


async def test_a_full_mailbox_leaves_the_letter_where_it_is(account_mesh: RunningMesh, names: PoolNames) -> None:
    await account_mesh.client.send(AgentId("account", "anna"), Spoilt(3))
    letters = await _letters_there(account_mesh, 1)
    await account_mesh.stop("accounts-0")
    _, routes = await read_routes(account_mesh.store, account_mesh.name)
    target = routes.target(AgentId("account", "anna"))
    _, mailbox = shard_streams(names, target.shard, PoolStreams(account_mesh.pool, mailbox_limit=1), ())
    await account_mesh.store.ensure_stream(mailbox)
    letter = await letters.get(await letters.last())
    with pytest.raises(MailboxFull):  # what came from outside stays for the dedupe window
        await account_mesh.client.send(AgentId("account", "anna"), Paid(1))
    with pytest.raises(MailboxFull, match="stays: mailbox"):
        await Replayer(account_mesh.store, account_mesh.name, letters, routes).replay(letter)
    assert [found.replaying async for found in letters.each()] == [None]


async def test_dropping_asks_first_and_all_with_a_filter_drops_only_what_fits(
    account_mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("anna", "bo"):
        await account_mesh.client.send(AgentId("account", key), Spoilt(3))
    letters = await _letters_there(account_mesh, 2)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    refused = await account_mesh.starling("dead", "drop", "--all")
    assert (refused.code, refused.out.strip()) == (2, "")
    assert "Remove 2 dead letters for good?" in refused.err
    assert (await letters.fill()).letters == 2
    ran = await account_mesh.starling("dead", "drop", "--all", "--agent", "account/bo", "--yes", "--json")
    assert len(ran.json["dropped"]) == 1
    left = (await account_mesh.starling("dead", "list", "--json")).json["letters"]
    assert [letter["agent"] for letter in left] == ["account/anna"]


async def test_dropping_or_replaying_nothing_in_particular_is_refused(account_mesh: RunningMesh) -> None:
    for command in ("drop", "replay"):
        ran = await account_mesh.starling("dead", command)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert "or give --all" in ran.err


async def _put_letters(mesh: RunningMesh, names: PoolNames, count: int) -> None:
    """Store letters as a shard would, of all severities."""
    severities = list(Severity)
    pending = []
    for number in range(count):
        envelope = Envelope(id=f"m{number}", type="cli.Spoilt", body=b"{}", target=AgentId("account", f"k{number % 7}"))
        letter = DeadLetter(
            "ValueError", "x", "s" * 4000, 1, 1000.0 + number, envelope, severity=severities[number % 4]
        )
        pending.append(asyncio.ensure_future(await mesh.store.publish(names.dead_subject, letter.pack())))
    await asyncio.gather(*pending)


@pytest.mark.row("RT-30", part="1500 of them cost no pod memory, recent ones are listed by severity in pages of 50")
async def test_1500_letters_are_listed_by_severity_in_pages_of_50_without_asking_a_pod(
    account_mesh: RunningMesh, names: PoolNames
) -> None:
    await account_mesh.stop("accounts-0")  # who is not there spends no memory
    await _put_letters(account_mesh, names, 1500)
    first = (await account_mesh.starling("dead", "list", "--json")).json
    assert (first["total"], first["pages"], len(first["letters"])) == (1500, 30, 50)
    assert {letter["severity"] for letter in first["letters"]} == {"critical"}
    assert [letter["id"] for letter in first["letters"][:2]] == ["m1496", "m1492"]
    seen: list[dict[str, Any]] = []
    letters = DeadLetters(account_mesh.store, account_mesh.name, account_mesh.pool)
    for page in range(1, 31):
        found = await list_letters([letters], number=page)
        seen += [{"rank": letter.severity.rank, "number": letter.number} for letter in found.letters]
    assert len({letter["number"] for letter in seen}) == 1500
    assert seen == sorted(seen, key=lambda letter: (letter["rank"], -letter["number"]))
    beyond = await list_letters([letters], number=31)
    assert beyond.letters == ()
    text = await account_mesh.starling("dead", "list", "--severity", "low", "--page", "2")
    assert text.out.splitlines()[-1] == "page 2 of 8, 375 letters"


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Filter(agent="account"), 28),
        (Filter(agent="account/k3"), 4),
        (Filter(agent="other"), 0),
        (Filter(type="cli.Spoilt"), 28),
        (Filter(type="cli.Paid"), 0),
        (Filter(reason="ValueError"), 28),
        (Filter(reason="KeyError"), 0),
        (Filter(severity=Severity.LOW), 7),
        (Filter(since=1010.0), 18),
        (Filter(until=1003.0), 4),
        (Filter(since=1004.0, until=1007.0, severity=Severity.CRITICAL), 1),
    ],
)
async def test_a_filter_takes_what_fits_everything_given(
    account_mesh: RunningMesh, names: PoolNames, wanted: Filter, count: int
) -> None:
    await _put_letters(account_mesh, names, 28)
    letters = DeadLetters(account_mesh.store, account_mesh.name, account_mesh.pool)
    assert (await list_letters([letters], wanted)).total == count


async def test_a_letter_that_cannot_be_read_is_listed_and_not_put_back(
    account_mesh: RunningMesh, names: PoolNames
) -> None:
    await (await account_mesh.store.publish(names.inlet_subject(*_inlet()), b"\xff garbage"))
    await _letters_there(account_mesh, 1)
    listed = (await account_mesh.starling("dead", "list", "--json")).json["letters"]
    assert [letter["reason"] for letter in listed] == ["DecodeError"]
    shown = (await account_mesh.starling("dead", "show", listed[0]["letter"], "--json")).json[0]
    assert bytes.fromhex(shown["raw"]) == b"\xff garbage"
    ran = await account_mesh.starling("dead", "replay", "--all")
    assert ran.code == 1
    assert "holds no readable message" in ran.err


def _inlet() -> Any:
    return ShardId(0), Inlet(Origin.OUTSIDE, Lane.NORMAL)


async def test_a_page_before_the_first_and_a_pool_that_is_not_there_are_refused(account_mesh: RunningMesh) -> None:
    letters = DeadLetters(account_mesh.store, account_mesh.name, account_mesh.pool)
    with pytest.raises(SpecError, match="page 0 of 50"):
        await list_letters([letters], number=0)
    ran = await account_mesh.starling("dead", "list", "--pool", "nothing")
    assert (ran.code, ran.err) == (
        2,
        f"starling: pool: mesh '{account_mesh.name}' has no pool 'nothing'; it has: accounts\n",
    )
    with pytest.raises(UnknownPool):
        await list_letters([DeadLetters(account_mesh.store, "nowhere", account_mesh.pool)])


@pytest.mark.row("RT-30", part="a metric says before the bound drops the oldest")
async def test_how_full_the_stream_is_can_be_seen_before_the_oldest_letters_go(
    account_mesh: RunningMesh, names: PoolNames
) -> None:
    stream = dead_letter_stream(names, PoolStreams(account_mesh.pool))
    await account_mesh.store.ensure_stream(replace(stream, max_messages=10))
    await _put_letters(account_mesh, names, 9)
    watch = DeadLetterWatch(account_mesh.store, names, lambda: True)
    await watch.look()
    sampled = {sample.name: sample.value for metric in watch.collect() for sample in metric.samples}
    assert sampled == {"starling_dead_letters_kept": 9, "starling_dead_letters_fill_ratio": 0.9}
    listed = await account_mesh.starling("dead", "list")
    assert listed.out.splitlines()[-1] == "pool accounts keeps 9 letters, 90% of its bound: then the oldest go"
    doctor = await account_mesh.starling("doctor", "--json")
    assert "9 dead letters, 90% of the bound: then the oldest go" in [finding["text"] for finding in doctor.json]
    idle = DeadLetterWatch(account_mesh.store, names, lambda: False)
    await idle.look()
    assert [sample for metric in idle.collect() for sample in metric.samples] == []
    await _put_letters(account_mesh, names, 2)
    full = await account_mesh.starling("dead", "replay", "--all")
    assert full.code == 1
    assert "one more note would push the oldest out" in full.err


async def test_every_command_of_the_page_is_understood(account_mesh: RunningMesh, names: PoolNames) -> None:
    """Those of docs/command-line.md, on letters of this mesh."""
    await _put_letters(account_mesh, names, 8)
    listed = await account_mesh.starling("dead", "list", "--severity", "high", "--since", "2h")
    assert listed.out.splitlines()[-1] == "page 1 of 0, 0 letters"
    assert (await account_mesh.starling("dead", "show", "accounts/1")).code == 0
    assert (await account_mesh.starling("dead", "replay", "accounts/1")).out == "1 letter put back\n"
    assert (
        await account_mesh.starling("dead", "replay", "--all", "--agent", "account/k1")
    ).out == "1 letter put back\n"
    dropped = await account_mesh.starling("dead", "drop", "--all", "--reason", "ValueError", "--yes")
    assert dropped.code == 0
    assert dropped.out.endswith(" letters removed\n")
    wrong = await account_mesh.starling("dead", "list", "--since", "yesterday")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
