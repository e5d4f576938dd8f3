"""Who may take a shard, and whether its owner should let it go: pure rules over what one pod has seen.

Any take is safe at any time, because it fences. These rules keep takes rare: by map, in place, free, adopt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from starling.core import limits
from starling.core.ids import PodName, ShardId
from starling.core.membership import Member, ShardMap


class Right(StrEnum):
    """By what right a shard may be taken."""

    BY_MAP = "by-map"
    IN_PLACE = "in-place"
    FREE = "free"
    ADOPT = "adopt"


@dataclass(frozen=True, slots=True)
class Presence:
    """What we know of a pod. Times are seconds of our own clock.

    member: as it describes itself, None when its key has expired or never was; absent_since: since when it has
    been so on this unbroken connection; silent: its liveness subject had no responders twice in a row, or its
    process is known to have ended.
    """

    member: Member | None = None
    absent_since: float | None = None
    silent: bool = False


@dataclass(frozen=True, slots=True)
class LastRecord:
    """The shard's last journal record. owner_pod and owner_start are "" when nobody owns it."""

    owner_pod: PodName
    owner_start: str
    map_rev: int


@dataclass(frozen=True, slots=True)
class TakeView:
    """What one pod knows when it asks for one shard.

    owner: presence of the pod that the last record names, mapped: of the pod that the map names;
    wanted_since: since when the map has named us; present: ready members of the pool that are not draining;
    fenced: whether somebody took the shard from this process since the map last began to name it.
    """

    shard: ShardId
    pod: PodName
    start: str
    map: ShardMap
    last: LastRecord
    owner: Presence
    mapped: Presence
    wanted_since: float
    present: tuple[PodName, ...]
    drain_seconds: float
    fenced: bool = False


def right_to_take(view: TakeView, now: float) -> Right | None:
    """Return the right by which this pod may take the shard now; None when it may not, or not yet."""
    last, named = view.last, view.map.shards.get(view.shard)
    if view.pod in view.map.draining or _is_replaced(view):
        return None
    if last.owner_pod == view.pod and (named in (None, view.pod) or last.map_rev >= view.map.rev):
        return Right.IN_PLACE
    if named == view.pod:
        if not last.owner_pod:
            return Right.FREE
        ended = is_gone(last, view.owner, now) or _has_dropped(view, now) or _overdue(view, now)
        if last.map_rev < view.map.rev and ended:
            return Right.BY_MAP
    return Right.ADOPT if is_orphan(view, now) else None


def is_next(view: TakeView) -> bool:
    """Whether this pod is to take the shard as soon as its owner, another pod, hands it over: it may prepare."""
    return (
        view.map.shards.get(view.shard) == view.pod
        and view.pod not in view.map.draining
        and view.last.owner_pod not in ("", view.pod)
        and view.last.map_rev < view.map.rev
    )


def _is_replaced(view: TakeView) -> bool:
    """Whether a newer process of our own pod has the shard: we were fenced, and the record names another start."""
    return view.fenced and view.last.owner_pod == view.pod and view.last.owner_start != view.start


def is_gone(last: LastRecord, owner: Presence, now: float) -> bool:
    """Whether the process that the last record names is known to be gone.

    It was restarted, nobody listens to its signs of life, or its key has expired: a frozen process or a cut network.
    """
    if owner.member is not None and owner.member.start != last.owner_start:
        return True
    return owner.silent or (owner.member is None and owner.absent_since is not None and now >= owner.absent_since)


def _has_dropped(view: TakeView, now: float) -> bool:
    """Whether the owner lives, but has not said for a while that it runs the shard: it dropped it without a release,
    as when its store did not answer, and the newer map keeps it from taking it again."""
    member = view.owner.member
    if member is None or view.shard in member.shards:
        return False
    return now - view.wanted_since >= limits.MEMBER_GRACE


def _overdue(view: TakeView, now: float) -> bool:
    return now - view.wanted_since >= view.drain_seconds + 5


def is_orphan(view: TakeView, now: float) -> bool:
    """Whether owner and map's pod are long absent and silent, us aside, and we are the one to adopt the shard.

    Where one of the two is us, nobody else can see both absent: then there is no choice by rendezvous.
    """
    pods = {view.last.owner_pod: view.owner, view.map.shards.get(view.shard) or PodName(""): view.mapped}
    pods.pop(PodName(""), None)
    named_us = pods.pop(view.pod, None) is not None
    if not pods or not all(_long_absent(presence, now) for presence in pods.values()):
        return False
    able = [pod for pod in view.present if pod not in view.map.draining]
    return named_us or heir(view.shard, able) == view.pod


def _long_absent(presence: Presence, now: float) -> bool:
    if presence.member is not None or not presence.silent or presence.absent_since is None:
        return False
    return now - presence.absent_since >= limits.ORPHAN_AFTER


def heir(shard: ShardId, pods: Iterable[PodName]) -> PodName | None:
    """Return the pod that adopts an orphan; all pods that see the same members agree.

    Rendezvous hashing (Thaler and Ravishankar, 1998).
    """
    return max(pods, key=lambda pod: hashlib.sha256(f"{pod}/{shard}".encode()).digest(), default=None)


def should_release(shard: ShardId, pod: PodName, acted_on: int, current: ShardMap) -> bool:
    """Whether the owner is to hand the shard over: a newer map than it acted on names another pod, or empties ours."""
    named = current.shards.get(shard)
    if current.rev <= acted_on or named == pod:
        return False
    return named is not None or pod in current.draining
