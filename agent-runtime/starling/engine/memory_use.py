"""How much of its memory limit this process's container, or else the machine, has in use."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

MemoryUse = Callable[[], float | None]
"""Returns the share of the limit that is in use, 0 to 1; None when nothing says."""

_UNLIMITED: Final = 1 << 60
"""cgroup v1 writes a number near 2**63 for "no limit"."""


def memory_use(root: Path = Path("/")) -> float | None:
    """Return the share of the memory limit in use: of the control group, version 2 or 1, else of the machine.

    Page cache that the kernel gives back when asked does not count, as in Kubernetes' own measure.
    """
    groups = _own_groups(root)
    v2, v1 = root / "sys/fs/cgroup", root / "sys/fs/cgroup/memory"
    for directory in dict.fromkeys((v2 / groups.get("", ""), v2)):
        share = _share(directory, "memory.max", "memory.current", "inactive_file")
        if share is not None:
            return share
    for directory in dict.fromkeys((v1 / groups.get("memory", ""), v1)):
        share = _share(directory, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if share is not None:
            return share
    fields = _fields(root / "proc/meminfo")
    total, available = fields.get("MemTotal:"), fields.get("MemAvailable:")
    return None if not total or available is None else 1 - available / total


def _own_groups(root: Path) -> dict[str, str]:
    """Paths of our own control groups by controller; version 2 has the controller ""."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return {}
    groups: dict[str, str] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path.lstrip("/")
    return groups


def _share(directory: Path, limit: str, usage: str, cache: str) -> float | None:
    try:
        allowed = int((directory / limit).read_text())
        used = int((directory / usage).read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
    if not 0 < allowed < _UNLIMITED:
        return None
    return max(0, used - _fields(directory / "memory.stat").get(cache, 0)) / allowed


def _fields(path: Path) -> dict[str, int]:
    """Numbers by name, from lines such as "inactive_file 4096"."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) >= 2 and pair[1].isdigit()}


def give_back() -> None:
    """Hand memory that was freed back to the system, as far as the C library can; else dropping agents shows late."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        log.debug("the C library cannot give memory back")
