"""What the NATS server's bytes mean: each row of the table of answers, also those no test can provoke."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starling.adapters.nats import EmbeddedServer, connect, wire
from starling.adapters.nats.server import cluster
from starling.adapters.nats.streams import check_kept
from starling.core import limits
from starling.errors import SpecError, Unreachable
from starling.ports.store import Answer, Refused, Stored, StreamSpec, Unknown

BOUND = 30.0


def _error(code: int, err_code: int, text: str) -> bytes:
    return f'{{"error":{{"code":{code},"err_code":{err_code},"description":"{text}"}},"stream":"s","seq":0}}'.encode()


@pytest.mark.parametrize(
    ("data", "meaning"),
    [
        (b'{"stream":"s","seq":7}', Stored(7)),
        (b'{"stream":"s","domain":"hub","seq":7,"duplicate": true}', Stored(7, duplicate=True)),
        (_error(400, 10071, "wrong last sequence: 3"), Refused("conflict", "wrong last sequence: 3")),
        (_error(400, 10164, "wrong last sequence"), Refused("conflict", "wrong last sequence")),
        (_error(503, 10077, "maximum bytes exceeded"), Refused("full", "maximum bytes exceeded")),
        (_error(503, 10077, "maximum messages exceeded"), Refused("full", "maximum messages exceeded")),
        (
            _error(503, 10077, "maximum messages per subject exceeded"),
            Refused("full", "maximum messages per subject exceeded"),
        ),
        (
            _error(400, 10054, "message size exceeds maximum allowed"),
            Refused("too-large", "message size exceeds maximum allowed"),
        ),
    ],
)
def test_an_answer_that_says_it(data: bytes, meaning: Answer) -> None:
    assert wire.publish_answer(data) == meaning


@pytest.mark.parametrize(
    "data",
    [
        _error(503, 10077, "write failed: no space left on device"),
        _error(503, 10163, "expected last sequence per subject temporarily unavailable"),
        _error(409, 10158, "duplicate message id is in process"),
        _error(503, 10008, "JetStream system temporarily unavailable"),
        _error(500, 0, ""),
        b'{"stream":"s","seq":0}',
        b'{"stream":"s"}',
        b"[]",
        b"not json",
    ],
)
def test_any_other_answer_says_nothing(data: bytes) -> None:
    assert isinstance(wire.publish_answer(data), Unknown)


def test_a_server_that_drops_a_setting_is_too_old() -> None:
    wanted = {"name": "KV_members", "max_age": 1, "subject_delete_marker_ttl": 60, "deny_delete": False, "metadata": {}}
    check_kept(wanted | {"metadata": {"_nats.ver": "2.15.1"}}, wanted)
    check_kept({"name": "KV_members", "max_age": 1, "subject_delete_marker_ttl": 60}, wanted)
    with pytest.raises(SpecError, match=r"KV_members\.subject_delete_marker_ttl.*2\.11"):
        check_kept({"name": "KV_members", "max_age": 1}, wanted)
    with pytest.raises(SpecError, match=r"KV_members\.max_age"):
        check_kept(wanted | {"max_age": 2}, wanted)


async def test_what_the_server_cannot_do_is_a_wrong_setting(nats_server: EmbeddedServer) -> None:
    store = await connect(nats_server.url, name="test")
    with pytest.raises(SpecError, match="replicas > 1 not supported"):
        await store.ensure_stream(StreamSpec(name="replicated", subjects=("replicated",), replicas=3))
    assert await store.stream_info("replicated") is None
    await store.close()


async def test_credentials_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no file"):
        await connect("nats://127.0.0.1:1", name="test", credentials=tmp_path / "absent.creds")


async def test_without_a_majority_a_publish_is_unknown_and_a_stream_is_never_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_TIMEOUT", 1.0)
    servers = cluster(tmp_path)
    await asyncio.gather(*(server.start() for server in servers))
    store = await connect(servers[0].url, name="test")
    try:
        async with asyncio.timeout(BOUND):
            await _until_stored(StreamSpec(name="s", subjects=("s",), replicas=3), servers)
            await asyncio.gather(servers[1].kill(), servers[2].kill())
            for _ in range(4):
                answer = await (await store.publish("s", b"2"))
                assert isinstance(answer, Unknown), answer
            await asyncio.gather(servers[1].start(), servers[2].start())
            while not isinstance(answer, Stored):
                answer = await (await store.publish("s", b"3"))
                assert isinstance(answer, Stored | Unknown), answer
    finally:
        await store.close()
        await asyncio.gather(*(server.kill() for server in servers))


async def _until_stored(spec: StreamSpec, servers: list[EmbeddedServer]) -> None:
    store = await connect(servers[0].url, name="maker")
    while True:
        try:
            await store.ensure_stream(spec)
            break
        except Unreachable:
            await asyncio.sleep(0.1)
    answer: Answer = Unknown()
    while not isinstance(answer, Stored):
        answer = await (await store.publish(spec.subjects[0], b"1"))
    await store.close()
