"""A container's environment variables, read from the manifest and from what it refers to."""

from __future__ import annotations

from collections.abc import Mapping

from hack.cluster.api import Json
from hack.cluster.errors import BadPod
from hack.cluster.procnode.client import Client
from hack.cluster.procnode.texts import expand, field_of
from hack.cluster.procnode.volumes import CONFIG_MAPS, SECRETS, data_of


class Environment:
    """Reads the variables of one pod's containers."""

    def __init__(self, client: Client, pod: Json, *, pod_ip: str, host_ip: str) -> None:
        self._client = client
        self._pod = pod
        self._namespace = pod["metadata"]["namespace"]
        self._pod_ip, self._host_ip = pod_ip, host_ip

    async def of(self, container: Json, given: Mapping[str, str]) -> dict[str, str]:
        """Return names to values, on top of `given`; later entries see earlier ones as ``$(NAME)``.

        Raises BadPod naming the variable when what it refers to is missing and not optional.
        """
        env = dict(given)
        for each in container.get("envFrom", []):
            env |= await self._all_of(each)
        for each in container.get("env", []):
            value = await self._value(each, env)
            if value is not None:
                env[each["name"]] = value
        return env

    async def _all_of(self, each: Json) -> dict[str, str]:
        kind, reference = _reference(each, "configMapRef", "secretRef")
        data = await self._data(kind, reference)
        return {each.get("prefix", "") + key: value for key, value in data.items()}

    async def _value(self, each: Json, env: Mapping[str, str]) -> str | None:
        origin = each.get("valueFrom")
        if not origin:
            return expand(each.get("value", ""), env)
        if "fieldRef" in origin:
            path = origin["fieldRef"]["fieldPath"]
            return field_of(self._pod, path, pod_ip=self._pod_ip, host_ip=self._host_ip)
        if not {"configMapKeyRef", "secretKeyRef"} & set(origin):
            raise BadPod(f"env {each['name']}: a process node has no {', '.join(origin)}")
        kind, reference = _reference(origin, "configMapKeyRef", "secretKeyRef")
        data = await self._data(kind, reference)
        if reference["key"] not in data and not reference.get("optional"):
            raise BadPod(f"env {each['name']}: no key {reference['key']} in {kind} {reference['name']}")
        return data.get(reference["key"])

    async def _data(self, kind: str, reference: Json) -> dict[str, str]:
        optional = bool(reference.get("optional"))
        obj = await self._client.read(self._namespace, kind, reference["name"], optional=optional)
        return {key: content.decode() for key, content in data_of(obj, kind).items()}


def _reference(holder: Json, config_map: str, secret: str) -> tuple[str, Json]:
    if config_map in holder:
        return CONFIG_MAPS, holder[config_map]
    return SECRETS, holder[secret]
