"""The node's side of the API: asynchronous calls and watches."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from hack.cluster.api import APPLY, JSON, STRATEGIC, Access, Json
from hack.cluster.errors import ApiError, BadPod, Unreachable

log = logging.getLogger(__name__)

CALL = aiohttp.ClientTimeout(total=10)
WATCH_SECONDS = 300
WATCH = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, sock_connect=10)
GONE = (404, 409, 422)  # not there any more, or another object's name by now


class Client:
    """One session with the API server, within the running loop."""

    def __init__(self, kubeconfig: Path) -> None:
        access = Access.read(kubeconfig)
        self.kubeconfig = kubeconfig
        self._server = access.server
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {access.token}"},
            connector=aiohttp.TCPConnector(ssl=access.tls()),
        )
        self._seen: dict[str, tuple[float, Json | None]] = {}

    async def call(self, method: str, path: str, body: Json | None = None, *, content_type: str = JSON) -> Any:
        """Return the decoded answer. Raises ApiError and Unreachable as the blocking client does."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        try:
            async with self._session.request(
                method, self._server + path, data=data, headers=headers, timeout=CALL
            ) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(f"{method} {path}: {error!r}") from error
        if answer.status >= 400:
            raise ApiError(answer.status, text, where=f"{method} {path}")
        return json.loads(text)

    async def apply(self, path: str, body: Json) -> None:
        """Apply server-side as the field manager ``procnode``."""
        await self.call("PATCH", f"{path}?fieldManager=procnode&force=true", body, content_type=APPLY)

    async def settle(self, method: str, path: str, body: Json) -> bool:
        """Return True when it is done or no longer needed, False when it has to be tried again."""
        try:
            await self.call(method, path, body, content_type=STRATEGIC if method == "PATCH" else JSON)
        except Unreachable:
            return False
        except ApiError as error:
            if error.status not in GONE or (error.status == 422 and "metadata.uid" not in error.message):
                log.warning("refused: %s", error)
            return error.status in GONE
        return True

    async def read(
        self, namespace: str, kind: str, name: str, *, optional: bool = False, max_age: float = 0.0
    ) -> Json | None:
        """Return a ConfigMap or Secret; a copy up to `max_age` seconds old will do, so that pods share what they ask.

        None when it is missing and `optional`; else BadPod then.
        """
        path = f"/api/v1/namespaces/{namespace}/{kind}/{name}"
        at, obj = self._seen.get(path, (-max_age, None))
        if obj is None or time.monotonic() - at >= max_age:
            obj = await self._find(path)
            self._seen[path] = (time.monotonic(), obj)
        if obj is None and not optional:
            raise BadPod(f"no {kind} {name} in namespace {namespace}")
        return obj

    async def watch(self, path: str, revision: str) -> AsyncIterator[tuple[str, Json]]:
        """Yield (event type, object) after `revision`, until the server ends the watch (then list again)."""
        address = f"{self._server}{path}&watch=1&resourceVersion={revision}&timeoutSeconds={WATCH_SECONDS}"
        try:
            async with self._session.get(address, timeout=WATCH) as answer:
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            return
                        yield event["type"], event["object"]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(f"watch {path}: {error!r}") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        await asyncio.sleep(0)  # transports close on the next turn of the loop

    async def _find(self, path: str) -> Json | None:
        try:
            found: Json = await self.call("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found
