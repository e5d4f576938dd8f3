"""Signing in with a credentials file at a real server whose accounts are JWTs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import nkeys
import pytest
from starling.adapters.nats import EmbeddedServer, connect
from starling.errors import Unreachable

UNLIMITED = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True, "conn": -1}
STORAGE = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


def pair(prefix: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix=prefix))


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, **claims: Any) -> str:
    """Return a signed claim of NATS, version 2."""
    body = {
        "jti": os.urandom(8).hex(),
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": kind,
        "nats": {**claims, "type": kind, "version": 2},
    }
    parts = [encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
    signature = encoded(issuer.sign(".".join(parts).encode()))
    return ".".join([*parts, signature])


def credentials(folder: Path, name: str, account: nkeys.KeyPair) -> Path:
    """Write the credentials file of a new user of an account."""
    user = pair(nkeys.PREFIX_BYTE_USER)
    file = folder / f"{name}.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt(account, user, 'user', subs=-1, data=-1, payload=-1)}\n"
        "------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n"
    )
    return file


@pytest.fixture
async def guarded(tmp_path: Path) -> Any:
    """A server that knows one account; yields its address, a user's file, and that of a user of another account."""
    operator, system, account, stranger = (
        pair(nkeys.PREFIX_BYTE_OPERATOR),
        pair(nkeys.PREFIX_BYTE_ACCOUNT),
        pair(nkeys.PREFIX_BYTE_ACCOUNT),
        pair(nkeys.PREFIX_BYTE_ACCOUNT),
    )
    preload = {
        system.public_key.decode(): jwt(operator, system, "account", limits=UNLIMITED),
        account.public_key.decode(): jwt(operator, account, "account", limits=UNLIMITED | STORAGE),
    }
    config = tmp_path / "server.conf"
    config.write_text(
        f"operator: {jwt(operator, operator, 'operator')}\nsystem_account: {system.public_key.decode()}\n"
        f"resolver: MEMORY\nresolver_preload: {json.dumps(preload)}\n"
    )
    server = EmbeddedServer(tmp_path / "nats", arguments=("--config", str(config)))
    await server.start()
    try:
        yield server.url, credentials(tmp_path, "ours", account), credentials(tmp_path, "stranger", stranger)
    finally:
        await server.stop()


async def test_a_user_with_a_credentials_file_is_let_in(guarded: tuple[str, Path, Path]) -> None:
    url, ours, _ = guarded
    store = await connect(url, name="test", credentials=ours)
    try:
        assert store.connected_since is not None
    finally:
        await store.close()


async def test_without_credentials_or_with_those_of_a_stranger_the_server_is_unreachable(
    guarded: tuple[str, Path, Path],
) -> None:
    url, _, stranger = guarded
    for given in (None, stranger):
        with pytest.raises(Unreachable, match=r"(?i)authorization"):
            await connect(url, name="test", credentials=given, timeout=2.0)


async def test_the_command_line_signs_in_with_the_file_that_it_is_given(guarded: tuple[str, Path, Path]) -> None:
    url, ours, stranger = guarded
    for options, said in (
        (("--creds", str(ours)), "there is no mesh 'dev' on this NATS server"),
        (("--creds", str(stranger)), "no NATS server at"),
        (("--creds", str(ours.parent / "nowhere")), "nats credentials: there is no file"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from starling.cli import main; main()", *options, "status", "--nats", url),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60.0):
            _, err = await process.communicate()
        assert err.decode().startswith(f"starling: {said}")
        assert process.returncode == (2 if "no file" in said else 3)
