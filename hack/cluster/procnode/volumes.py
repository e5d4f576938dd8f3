"""Volumes as folders: where their contents come from, and how the folders follow them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.api import Json
from hack.cluster.errors import BadPod

CONFIG_MAPS = "configmaps"
SECRETS = "secrets"
TOKEN_VOLUME = "kube-api-access-"  # the service account's: on this node KUBECONFIG stands for it


@dataclass(frozen=True, slots=True)
class Source:
    """One ConfigMap or Secret behind a volume.

    kind: the API's plural; items: keys to file names, None for all keys under their own; optional: may be missing.
    """

    kind: str
    name: str
    items: tuple[tuple[str, str], ...] | None = None
    optional: bool = False


def sources_of(volume: Json) -> tuple[Source, ...]:
    """Return where the volume's files come from; nothing for an emptyDir.

    Raises BadPod for a kind of volume that a folder cannot stand for.
    """
    if "emptyDir" in volume:
        return ()
    if "projected" in volume:
        return tuple(_source(each, volume["name"]) for each in volume["projected"].get("sources", []))
    return (_source(volume, volume["name"]),)


def _source(holder: Json, volume: str) -> Source:
    if (given := holder.get("configMap")) is not None:
        kind, name = CONFIG_MAPS, given.get("name")
    elif (given := holder.get("secret")) is not None:
        kind, name = SECRETS, given.get("secretName") or given.get("name")
    else:
        raise BadPod(f"volume {volume}: a process node has configMap, secret, projected of these, and emptyDir only")
    if not name:
        raise BadPod(f"volume {volume}: it names no {kind}")
    items = tuple((item["key"], item["path"]) for item in given["items"]) if given.get("items") else None
    return Source(kind, name, items, bool(given.get("optional")))


def data_of(obj: Json | None, kind: str) -> dict[str, bytes]:
    """Return keys to contents of a ConfigMap or Secret; empty for None."""
    if obj is None:
        return {}
    plain, encoded = ("data", "binaryData") if kind == CONFIG_MAPS else ("", "data")
    texts = {key: text.encode() for key, text in (obj.get(plain) or {}).items()}
    return texts | {key: base64.b64decode(text) for key, text in (obj.get(encoded) or {}).items()}


def files_of(source: Source, data: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return file names to contents. Raises BadPod when a key that `items` names is missing."""
    if source.items is None:
        return dict(data)
    files = {}
    for key, path in source.items:
        if key in data:
            files[path] = data[key]
        elif not source.optional:
            raise BadPod(f"{source.kind} {source.name}: no key {key}")
    return files


def fill(folder: Path, files: Mapping[str, bytes], before: Mapping[str, bytes] | None = None) -> None:
    """Make the folder hold these files, each replaced as a whole; what was there `before` and is not now goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if before is not None and before.get(name) == content:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(content)
        temporary.replace(path)
    for name in set(before or {}) - set(files):
        (folder / name).unlink(missing_ok=True)


def folders_of(container: Json, below: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (volume name, mount path, folder that stands for it) for each mount of a container."""
    for mount in container.get("volumeMounts", []):
        if not mount["name"].startswith(TOKEN_VOLUME):
            yield mount["name"], mount["mountPath"].rstrip("/"), below / mount["name"] / mount.get("subPath", "")


def nest(mounts: Mapping[str, str]) -> None:
    """Show a mount below another one there too: ``/etc/app/code`` as a link ``code`` in the folder of ``/etc/app``."""
    for path, folder in mounts.items():
        outer, _, name = path.rpartition("/")
        if outer in mounts and not (link := Path(mounts[outer]) / name).exists():
            link.symlink_to(folder)
