"""The shard map and the members, as they stand in their buckets (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from starling.core.ids import Epoch, PodName, ShardId
from starling.errors import DecodeError


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Which pod should run each shard of a pool: an order, not a route. Written by the control plane only.

    rev: grows by one with each change (the bucket's own revision guards the write).
    draining: pods that are to be emptied; they neither take nor adopt.
    """

    rev: int
    shards: Mapping[ShardId, PodName] = field(default_factory=dict)
    draining: tuple[PodName, ...] = ()

    def encode(self) -> bytes:
        shards = {str(shard): pod for shard, pod in sorted(self.shards.items())}
        return json.dumps({"rev": self.rev, "shards": shards, "draining": list(self.draining)}).encode()

    @classmethod
    def decode(cls, data: bytes) -> ShardMap:
        """Raises DecodeError."""
        try:
            value = json.loads(data)
            return cls(
                rev=int(value["rev"]),
                shards={ShardId(int(shard)): PodName(pod) for shard, pod in value["shards"].items()},
                draining=tuple(PodName(pod) for pod in value.get("draining", ())),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DecodeError(f"shard map: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Member:
    """One pod of a pool, as it describes itself every few seconds.

    start: id of the process; incarnation: of the pool's data, as the pod read it; version: hash of code and
    configuration; shards: those that it owns, with their epochs; metrics: "ip:port" of its HTTP server;
    map_rev: revision of the newest map that it has read; parked: agents whose state does not load, and one of them.
    """

    pod: PodName
    start: str
    incarnation: str
    version: str
    ready: bool
    draining: bool
    shards: Mapping[ShardId, Epoch]
    metrics: str = ""
    map_rev: int = 0
    parked: int = 0
    parked_agent: str = ""

    def encode(self) -> bytes:
        value: dict[str, object] = {
            "pod": self.pod,
            "start": self.start,
            "incarnation": self.incarnation,
            "version": self.version,
            "ready": self.ready,
            "draining": self.draining,
            "shards": {str(shard): epoch for shard, epoch in sorted(self.shards.items())},
            "metrics": self.metrics,
            "mapRev": self.map_rev,
        }
        if self.parked:
            value["parked"] = {"count": self.parked, "agent": self.parked_agent}
        return json.dumps(value).encode()

    @classmethod
    def decode(cls, data: bytes) -> Member:
        """Raises DecodeError."""
        try:
            value = json.loads(data)
            parked = value.get("parked", {})
            return cls(
                pod=PodName(value["pod"]),
                start=str(value["start"]),
                incarnation=str(value["incarnation"]),
                version=str(value["version"]),
                ready=bool(value["ready"]),
                draining=bool(value["draining"]),
                shards={ShardId(int(shard)): Epoch(int(epoch)) for shard, epoch in value["shards"].items()},
                metrics=str(value.get("metrics", "")),
                map_rev=int(value.get("mapRev", 0)),
                parked=int(parked.get("count", 0)),
                parked_agent=str(parked.get("agent", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DecodeError(f"member: {error!r}") from error
