"""A small client of the API server: enough to wait and to test."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hack.cluster.errors import ApiError, NotReady, Unreachable

Json = dict[str, Any]
T = TypeVar("T")

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
NOT_NOW = (429, 503)
"""Answers that ask for another try, as while a new kind's storage is set up."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a kubeconfig of this kit says: where the server is and who we are."""

    server: str
    token: str
    authority: Path

    @classmethod
    def read(cls, kubeconfig: Path) -> Access:
        """Read a kubeconfig that this kit has written (JSON, one cluster, one user with a token)."""
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        return cls(cluster["server"], config["users"][0]["user"]["token"], Path(cluster["certificate-authority"]))

    def tls(self) -> ssl.SSLContext:
        """Return a context that trusts this server's authority only."""
        return ssl.create_default_context(cafile=str(self.authority))


class Api:
    """Blocking calls, a connection for each; 200 a second or so."""

    def __init__(self, kubeconfig: Path) -> None:
        self._access = Access.read(kubeconfig)
        self._tls = self._access.tls()

    def __call__(
        self, method: str, path: str, body: object = None, *, content_type: str = JSON, timeout: float = 10.0
    ) -> Any:
        """Return the decoded answer, or its text when it is not JSON.

        Raises ApiError for an answer of 400 or more; Unreachable when there is none within `timeout` seconds, or when
        it asks for another try.
        """
        request = urllib.request.Request(
            self._access.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._access.token}", "Content-Type": content_type},
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=timeout) as answer:
                raw: bytes = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                refused = ApiError(error.code, error.read().decode(), where=f"{method} {path}")
            raise (Unreachable(str(refused)) if error.code in NOT_NOW else refused) from None
        except OSError as error:
            raise Unreachable(f"{method} {path}: {error}") from error
        return json.loads(raw) if raw[:1] in (b"{", b"[") else raw.decode()

    def apply(self, path: str, body: Json, *, manager: str = "kit", force: bool = True) -> Any:
        """Apply server-side; without `force` a field of another manager is an ApiError with status 409."""
        query = f"?fieldManager={manager}&force={'true' if force else 'false'}"
        return self("PATCH", path + query, body, content_type=APPLY)

    def find(self, path: str) -> Any:
        """Return the object, or None when there is none."""
        try:
            return self("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise


def wait_until(what: str, look: Callable[[], T | None], *, seconds: float = 30.0, pause: float = 0.05) -> T:
    """Return the first answer of `look` that is neither None nor False.

    Raises NotReady naming `what` after `seconds`; an Unreachable server is asked again until then.
    """
    end, last = time.monotonic() + seconds, ""
    while True:
        try:
            answer = look()
        except Unreachable as error:
            answer, last = None, f" ({error})"
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > end:
            raise NotReady(f"not within {seconds:g} s: {what}{last}")
        time.sleep(pause)
