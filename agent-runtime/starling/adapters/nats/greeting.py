"""How a connection begins: address, TLS, who we are."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from starling.adapters.nats.link import Link
from starling.errors import SpecError

_PORT: Final = 4222
_SCHEMES: Final = ("nats", "tls")


class Address:
    """One server's address, parsed. Raises SpecError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in _SCHEMES or not parts.hostname or port == 0:
            raise SpecError("nats url", f"{_without_password(url)!r} is none; give nats://host:port or tls://host:port")
        self.host = parts.hostname
        self.port = port or _PORT
        self.wants_tls = parts.scheme == "tls"
        self.user = None if parts.username is None else unquote(parts.username)
        self.password = None if parts.password is None else unquote(parts.password)


async def greet(address: Address, *, name: str, credentials: str | None, changed: Callable[[], None]) -> Link:
    """Connect and be accepted. Raises OSError and ssl.SSLError, also for a server that does not take us.

    Bound the wait. Cancelled or failed, nothing is left open.
    """
    loop = asyncio.get_running_loop()
    made = Link(changed)
    try:
        await loop.create_connection(lambda: made, address.host, address.port)
        info = await made.greeting
        if address.wants_tls or info.get("tls_required"):
            await _encrypt(made, address.host)
        made.command(b"CONNECT %b\r\n" % json.dumps(_options(info, address, name, credentials)).encode())
        await made.ping()
    except BaseException:
        made.abort("not accepted")
        raise
    made.opened()
    return made


async def _encrypt(made: Link, host: str) -> None:
    plain = made.transport
    assert plain is not None
    context = ssl.create_default_context()
    encrypted = await asyncio.get_running_loop().start_tls(plain, made, context, server_hostname=host)
    assert encrypted is not None
    made.use(encrypted)


def _options(info: dict[str, Any], address: Address, name: str, credentials: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "verbose": False,
        "pedantic": False,
        "lang": "python",
        "version": "starling",
        "name": name,
        "protocol": 1,
        "echo": True,
        "headers": True,
        "no_responders": True,
    }
    if credentials is not None:
        options |= _signed(Path(credentials), info.get("nonce", ""))
    elif address.password is not None:
        options |= {"user": address.user, "pass": address.password}
    elif address.user is not None:
        options["auth_token"] = address.user
    return options


def _signed(credentials: Path, nonce: str) -> dict[str, str]:
    """Return a user's claim and the server's challenge under the user's signature. Raises OSError, SpecError."""
    import nkeys

    text = credentials.read_text()
    try:
        keys = nkeys.from_seed(bytearray(_block(text, "USER NKEY SEED").encode()))
        signature = keys.sign(nonce.encode())
        keys.wipe()
        return {"jwt": _block(text, "NATS USER JWT"), "sig": base64.b64encode(signature).decode()}
    except (ValueError, IndexError, nkeys.NkeysError) as error:
        raise SpecError("nats credentials", f"{credentials} is no credentials file of NATS") from error


def _block(text: str, title: str) -> str:
    """Return what stands between the lines that begin and end a block."""
    lines = text.partition(f"BEGIN {title}")[2].splitlines()
    return lines[1].strip()


def _without_password(url: str) -> str:
    return url.rpartition("@")[2]
