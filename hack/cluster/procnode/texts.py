"""What a manifest's texts mean on a node without containers: variables, paths of mounts, fields."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from hack.cluster.api import Json
from hack.cluster.errors import BadPod

VARIABLE = re.compile(r"\$\$|\$\(([A-Za-z_][\w.-]*)\)")
KEYED = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


def expand(text: str, env: Mapping[str, str]) -> str:
    """Return the text with each ``$(NAME)`` replaced by its value; unknown ones stay, ``$$`` is a dollar sign."""
    return VARIABLE.sub(lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]), text)


def rewrite(text: str, mounts: Mapping[str, str]) -> str:
    """Return the text with each mount path in it replaced by the folder that stands for it.

    mounts: mount paths to folders. The longest path wins; ``/etc/app`` is not found in ``/etc/apples``.
    """
    if not mounts:
        return text
    paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])(?:{paths})(?![\w.-])", lambda found: mounts[found[0]], text)


def field_of(pod: Json, path: str, *, pod_ip: str, host_ip: str) -> str:
    """Return what a fieldRef's path names; empty when the pod has no such label or annotation.

    Raises BadPod for a path that Kubernetes does not know either.
    """
    if keyed := KEYED.fullmatch(path):
        return str(pod["metadata"].get(keyed[1], {}).get(keyed[2], ""))
    addresses = {"status.podIP": pod_ip, "status.podIPs": pod_ip, "status.hostIP": host_ip, "status.hostIPs": host_ip}
    if path in addresses:
        return addresses[path]
    top, _, key = path.partition(".")
    if top not in ("metadata", "spec") or not key or "." in key:
        raise BadPod(f"fieldRef {path}: not a field that a pod can ask for")
    return str(pod[top].get(key, ""))


def port_of(port: int | str, container: Json) -> int:
    """Return a probe's port as a number. Raises BadPod for a name that the container does not give."""
    if isinstance(port, int) or port.isdecimal():
        return int(port)
    for given in container.get("ports", []):
        if given.get("name") == port:
            return int(given["containerPort"])
    raise BadPod(f"container {container['name']}: no port is named {port}")


def entrypoint_of(image: str, entrypoints: Mapping[str, str]) -> list[str]:
    """Return the command of an image, found by its full name, without its tag, or by its last part.

    Raises BadPod when `entrypoints`, images to commands, has none of these.
    """
    bare = image.partition("@")[0]
    untagged = bare if "/" in bare.rpartition(":")[2] else bare.rpartition(":")[0] or bare
    for name in (image, untagged, untagged.rpartition("/")[2]):
        if name in entrypoints:
            return shlex.split(entrypoints[name])
    raise BadPod(f"no command, and no --entrypoint for image {image}")
