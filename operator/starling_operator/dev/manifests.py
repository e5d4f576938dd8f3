"""Manifests in a folder: read as the API server would take them, and read again when they change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from starling.errors import SpecError

from starling_operator.api import (
    GROUP,
    KINDS,
    AgentPool,
    AgentScalingTarget,
    AgentSubscription,
    Resource,
    check_change,
    parse,
)

R = TypeVar("R", bound=Resource)

OURS: Final = tuple(model.resource_kind.name for model in KINDS)
"""With another `apiVersion` they are a mistake; documents of all other kinds are somebody else's."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """The objects of a folder. config_maps: name to file name to text."""

    pools: Mapping[str, AgentPool] = field(default_factory=dict)
    subscriptions: Mapping[str, AgentSubscription] = field(default_factory=dict)
    targets: Mapping[str, AgentScalingTarget] = field(default_factory=dict)
    """By the pool that they speak of."""
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def code_of(self, pool: AgentPool) -> Mapping[str, str]:
        """Return the pool's code files. Raises SpecError."""
        if pool.spec.code is None:
            return {}
        name = pool.spec.code.config_map
        if name not in self.config_maps:
            raise SpecError(
                f"AgentPool {pool.metadata.name}: spec.code.configMap",
                f"there is no ConfigMap {name!r} in these manifests; add it, or a configMapGenerator of this name to "
                "their kustomization.yaml",
            )
        return self.config_maps[name]

    def loose_ends(self) -> Iterator[str]:
        """Yield what is no error, since the rest may come later, and yet does nothing as it stands."""
        if not self.pools:
            yield "there is no AgentPool in these manifests: nothing runs"
        for pool, target in self.targets.items():
            if pool not in self.pools:
                yield f"AgentScalingTarget {target.metadata.name}: spec.poolRef.name: there is no AgentPool {pool!r}"


def files_of(folder: Path) -> list[Path]:
    """The manifest files of a folder, or the file itself. Raises SpecError when there is none."""
    if folder.is_file():
        return [folder]
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if not files:
        raise SpecError("-f", f"{folder} has no .yaml files")
    return files


def stamp(folder: Path) -> tuple[tuple[str, int], ...]:
    """A value that changes when a manifest, or code beside it, does."""
    if folder.is_file():
        return ((str(folder), folder.stat().st_mtime_ns),)
    watched = (path for pattern in ("*.yaml", "*.yml", "*.py") for path in folder.glob(pattern))
    return tuple(sorted((str(path), path.stat().st_mtime_ns) for path in watched))


def read(folder: Path, before: Manifests | None = None) -> Manifests:
    """Read all manifests. before: what was read last, for rules on changes. Raises SpecError naming file and field."""
    pools: dict[str, AgentPool] = {}
    subscriptions: dict[str, AgentSubscription] = {}
    targets: dict[str, AgentScalingTarget] = {}
    config_maps: dict[str, Mapping[str, str]] = {}
    for path in files_of(folder):
        for document in _documents(path):
            kind, name = document.get("kind"), ""
            try:
                name = str(_object(document.get("metadata"), "metadata").get("name", ""))
                if kind == "ConfigMap":
                    data = _object(document.get("data"), "data")
                    config_maps[name] = {str(key): str(text) for key, text in data.items()}
                elif kind == "Kustomization":
                    config_maps.update(_generated(path, document))
                elif kind in OURS or str(document.get("apiVersion", "")).startswith(f"{GROUP}/"):
                    made = parse(document, refuse_unknown=True)
                    if (old := _old(before, str(kind), name)) is not None:
                        check_change(made, old)
                    match made:
                        case AgentPool():
                            _once(pools, name, made)
                        case AgentSubscription():
                            _once(subscriptions, name, made)
                        case AgentScalingTarget():
                            _once(targets, made.spec.pool_ref.name, made, "spec.poolRef.name", "has a scaling target")
            except SpecError as error:
                raise SpecError(f"{path.name}: {kind} {name}: {error.field}", error.problem) from None
    return Manifests(pools, subscriptions, targets, config_maps)


def _once(
    known: dict[str, R], name: str, made: R, field: str = "metadata.name", problem: str = "is the name of another one"
) -> None:
    if name in known:
        raise SpecError(field, f"{name!r} {problem} already; give each one once")
    known[name] = made


def _documents(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        for document in yaml.safe_load_all(_text(path)):
            if isinstance(document, dict):
                yield document
            elif document is not None:
                raise SpecError(path.name, "holds a document that is no object")
    except yaml.YAMLError as error:
        raise SpecError(path.name, f"is no YAML: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(path.name, f"is no UTF-8 text: {error.reason} at byte {error.start}") from error


def _object(value: object, field: str) -> Mapping[str, Any]:
    """Return an object of a document, an empty one where it is left out. Raises SpecError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SpecError(field, f"is {value!r}, not an object of names and values")
    return value


def _list(value: object, field: str) -> Sequence[Any]:
    """Return a list of a document, an empty one where it is left out. Raises SpecError."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise SpecError(field, f"is {value!r}, not a list")
    return value


def _generated(path: Path, document: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """The ConfigMaps that a kustomization makes from files."""
    made: dict[str, Mapping[str, str]] = {}
    for index, item in enumerate(_list(document.get("configMapGenerator"), "configMapGenerator")):
        generator = _object(item, f"configMapGenerator[{index}]")
        data: dict[str, str] = {}
        for entry in _list(generator.get("files"), f"configMapGenerator[{index}].files"):
            key, equals, source = str(entry).partition("=")
            file = path.parent / (source if equals else key)
            try:
                data[key if equals else file.name] = _text(file)
            except OSError as error:
                raise SpecError(
                    f"configMapGenerator[{index}].files", f"cannot read {entry}: {error.strerror}"
                ) from error
        made[str(generator.get("name", ""))] = data
    return made


def _old(before: Manifests | None, kind: str, name: str) -> Resource | None:
    if before is None:
        return None
    if kind == "AgentPool":
        return before.pools.get(name)
    return before.subscriptions.get(name) if kind == "AgentSubscription" else None
