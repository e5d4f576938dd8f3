"""The client protocol of NATS, byte by byte, and how a connection begins."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.adapters.nats import EmbeddedServer, connect, link
from starling.adapters.nats.greeting import Address, greet
from starling.adapters.nats.link import Link, Msg
from starling.errors import SpecError, Unreachable
from starling.ports.store import Stored, StreamSpec

BOUND = 30.0
INFO = b'INFO {"version":"2.15.1","max_payload":1000}\r\n'
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

bodies = st.binary(max_size=40)
headers = st.none() | st.dictionaries(st.sampled_from(["A", "St-No", "x"]), st.sampled_from(["", "1", "a b", "é: ü"]))
messages = st.lists(
    st.tuples(st.sampled_from(["a", "a.b"]), bodies, st.sampled_from(["", "re.ply"]), headers), min_size=1, max_size=5
)


def _as_sent(subject: str, data: bytes, reply: str, fields: dict[str, str] | None) -> bytes:
    to = f"{subject} 1 {reply}".strip().encode()
    if fields is None:
        return b"MSG %b %d\r\n%b\r\n" % (to, len(data), data)
    head = b"NATS/1.0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in fields.items()) + b"\r\n"
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (to, len(head), len(head) + len(data), head, data)


@given(sent=messages, cuts=st.lists(st.integers(1, 30), min_size=1, max_size=60))
async def test_messages_come_whole_however_the_network_cuts_them(
    sent: list[tuple[str, bytes, str, dict[str, str] | None]], cuts: list[int]
) -> None:
    heard: list[Msg] = []
    made = Link(lambda: None)
    made.subscribe(">", heard.append)
    stream = INFO + b"".join(_as_sent(*one) for one in sent)
    while stream:
        size = cuts[len(stream) % len(cuts)]
        made.data_received(stream[:size])
        stream = stream[size:]
    assert heard == [Msg(subject, data, reply, fields) for subject, data, reply, fields in sent]


async def test_what_one_listener_raises_does_not_keep_the_next_message_from_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[bytes] = []
    made = Link(lambda: None)

    def listen(message: Msg) -> None:
        if message.data == b"1":
            raise ValueError("of the listener")
        heard.append(message.data)

    made.subscribe("a", listen)
    made.data_received(b"MSG a 1 1\r\n1\r\nMSG a 1 1\r\n2\r\n")
    assert heard == [b"2"]
    assert "error in the handling of a message" in caplog.text


@pytest.mark.parametrize(
    ("block", "status", "text"),
    [
        (b"NATS/1.0 503\r\n\r\n", "503", None),
        (b"NATS/1.0 404 No Messages\r\n\r\n", "404", "No Messages"),
        (b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n", "100", "Idle Heartbeat"),
    ],
)
async def test_the_status_of_a_message_is_among_its_headers(block: bytes, status: str, text: str | None) -> None:
    heard: list[Msg] = []
    made = Link(lambda: None)
    made.subscribe("a", heard.append)
    made.data_received(b"HMSG a 1 %d %d\r\n%b\r\n" % (len(block), len(block), block))
    fields = heard[0].headers or {}
    assert (fields["Status"], fields.get("Description"), heard[0].data) == (status, text, b"")
    assert fields.get("Nats-Last-Consumer") == ("7" if status == "100" else None)


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0\r\n", "a\tb"])
async def test_a_subject_that_would_break_the_protocol_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="subject"):
        Link(lambda: None).publish(subject, b"", "", None)


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("a:b", "x"), ("a b", "x"), ("a", "x\r\nb: y")])
async def test_a_header_that_would_break_the_protocol_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header"):
        Link(lambda: None).publish("a", b"", "", {name: value})


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Address]:
    """A server of ours that says what a test wants it to say."""
    ended = asyncio.Event()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with asyncio.timeout(BOUND), await asyncio.start_server(served, "127.0.0.1", 0) as server:
        yield Address(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await ended.wait()


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        (INFO + b"-ERR 'Authorization Violation'\r\n", "Authorization Violation"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "unreadable bytes"),
        (b"", "closed the connection"),
    ],
)
async def test_a_server_that_does_not_take_us_says_why(says: bytes, problem: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        if says.startswith(INFO):
            await reader.read()

    async with serving(serve) as address:
        with pytest.raises(ConnectionError, match=problem):
            await greet(address, name="test", credentials=None, changed=lambda: None)


async def test_a_server_that_answers_no_pings_any_more_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PING_INTERVAL", 0.02)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await reader.read()

    lost = asyncio.Event()
    async with serving(serve) as address:
        made = await greet(address, name="test", credentials=None, changed=lost.set)
        await lost.wait()
        assert (made.is_open, made.problem) == (False, "the server does not answer pings")


@pytest.mark.parametrize("url", ["http://a:1", "nats://", "nats://a:port", "nats://me:secret@a:99999999"])
async def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SpecError, match="give nats://host:port") as raised:
        await connect(url, name="test")
    assert "secret" not in str(raised.value)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    request = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    command = [*request.split(), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=BOUND)
    return cert, key


async def test_with_tls_everything_is_as_without_and_an_unknown_certificate_is_refused(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate
    config = tmp_path / "tls.conf"
    config.write_text(f'tls {{ cert_file: "{cert}", key_file: "{key}" }}\n')
    server = EmbeddedServer(tmp_path / "data", arguments=("--config", str(config)))
    await server.start()
    try:
        with pytest.raises(Unreachable, match="certificate"):
            await connect(server.url, name="test", timeout=0.5)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        for url in (server.url, server.url.replace("nats://", "tls://")):
            store = await connect(url, name="test")
            await store.ensure_stream(StreamSpec(name="s", subjects=("s.>",)))
            assert isinstance(await (await store.publish("s.a", b"x" * 100_000)), Stored)
            message = await store.last("s", "s.a")
            assert message is not None
            assert message.data == b"x" * 100_000
            await store.close()
    finally:
        await server.stop()
