"""One thin module over the Kubernetes client: requests by path, server-side apply, errors as ours."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from starling.errors import RetryLater, SpecError, Unreachable

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
JSON: Final = "application/json"
TIMEOUT: Final = 15.0

Json = dict[str, Any]


class Conflict(RetryLater):
    """The object changed since it was read, or another manager owns the field."""


class NotFound(RetryLater):
    """There is no such object (any more)."""


class _Api(Protocol):
    """What we use of the library's ApiClient, whose own types differ from version to version."""

    async def param_serialize(self, method: str, resource_path: str, **options: Any) -> tuple[Any, ...]: ...

    async def call_api(self, *parts: Any, _request_timeout: float) -> Any: ...

    async def close(self) -> None: ...


class KubeClient:
    """The API server. Every request has a time limit; Unreachable, Conflict, NotFound, SpecError come out of it."""

    def __init__(self, api: _Api) -> None:
        self._api = api

    @classmethod
    async def connect(cls) -> KubeClient:
        """Use the pod's service account, else the kubeconfig (KUBECONFIG or the usual place)."""
        untyped = cast(Any, config)
        if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            untyped.load_incluster_config()
        else:
            await untyped.load_kube_config()
        return cls(cast(_Api, client.ApiClient()))

    async def close(self) -> None:
        await self._api.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        query: Sequence[tuple[str, str]] = (),
    ) -> Json:
        """Return the answer's JSON."""
        headers = {"Accept": JSON, "Content-Type": content_type}
        parts = await self._api.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            answer = await self._api.call_api(*parts, _request_timeout=TIMEOUT)
            data = await answer.read()
        except ApiException as error:
            raise _translated(error, method, path) from error
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"{method} {path}: {error!r}") from error
        if answer.status >= 400:
            raise _translated(ApiException(status=answer.status, body=data), method, path)
        return json.loads(data) if data else {}

    async def get(self, path: str) -> Json | None:
        """Return the object, None when there is none."""
        try:
            return await self.request("GET", path)
        except NotFound:
            return None

    async def list(self, path: str, *, labels: str = "") -> list[Json]:
        """Return the objects under a path."""
        answer = await self.request("GET", path, query=[("labelSelector", labels)] if labels else ())
        items: list[Json] = answer.get("items", [])
        return items

    async def apply(self, path: str, body: Mapping[str, Any], *, manager: str, subresource: str = "") -> Json:
        """Apply the full intent on the server, as one field manager, taking over what others own of it."""
        query = [("fieldManager", manager), ("force", "true"), ("fieldValidation", "Strict")]
        return await self.request("PATCH", path + subresource, body=body, content_type=APPLY, query=query)

    async def delete(self, path: str, *, uid: str = "", grace: int | None = None) -> None:
        """Delete an object, if it is still the one with this uid; nothing happens when there is none."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            await self.request("DELETE", path, body=body)
        except NotFound:
            return


def _translated(error: ApiException, method: str, path: str) -> Exception:
    raw = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or error.reason)
    try:
        message = str(json.loads(raw).get("message", raw))
    except ValueError:
        message = raw
    text = f"{method} {path}: {error.status}: {message[:500]}"
    if error.status == 404:
        return NotFound(text)
    if error.status == 409:
        return Conflict(text)
    if error.status in (400, 403, 422):
        return SpecError(f"{method} {path}", message[:1000])
    return Unreachable(text)
