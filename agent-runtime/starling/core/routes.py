"""The routes of a mesh: agent types, pools and subscriptions, as they stand in their bucket (JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from starling.core.ids import AgentId, PoolName, ShardId, TopicId, shard_of
from starling.core.priority import LANES
from starling.core.record import Target as Mailbox
from starling.core.retry import Backoff, RetryPolicy
from starling.core.subscriptions import Match, SubscriptionRoute, Subscriptions
from starling.errors import DecodeError, UnknownAgentType

ROUTES_KEY = "routes"
PLAIN: Final = "none"
ZSTD: Final = "zstd"
_KNOWN_TARGETS: Final = 65_536


@dataclass(frozen=True, slots=True)
class PoolRoute:
    """A pool as senders see it: how many shards, which incarnation of its data, how its large objects are packed."""

    pool: PoolName
    shards: int
    incarnation: str
    large_compression: str = PLAIN
    _mailboxes: dict[ShardId, tuple[Mailbox, ...]] = field(init=False, compare=False, repr=False, default_factory=dict)

    def mailboxes(self, shard: ShardId) -> tuple[Mailbox, ...]:
        """Where a shard's messages go, by their priority; the same objects each time."""
        found = self._mailboxes.get(shard)
        if found is None:
            made = tuple(Mailbox(self.pool, self.incarnation, shard, lane.value) for lane in LANES)
            found = self._mailboxes[shard] = made
        return found


@dataclass(frozen=True, slots=True)
class Target:
    """Where a message for one agent goes. mailboxes: by the message's priority."""

    agent: AgentId
    pool: PoolRoute
    shard: ShardId
    mailboxes: tuple[Mailbox, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mailboxes", self.pool.mailboxes(self.shard))


@dataclass(frozen=True, slots=True)
class Routes:
    """One version of the route table. agent_types: agent type to pool."""

    pools: Mapping[PoolName, PoolRoute] = field(default_factory=dict)
    agent_types: Mapping[str, PoolName] = field(default_factory=dict)
    subscriptions: tuple[SubscriptionRoute, ...] = ()
    _heard: Subscriptions = field(init=False, compare=False, repr=False)
    _targets: dict[AgentId, Target] = field(init=False, compare=False, repr=False, default_factory=dict)
    """Of agents that were sent to lately."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_heard", Subscriptions(self.subscriptions))

    def target(self, agent: AgentId) -> Target:
        """Return where the agent's messages go. Raises UnknownAgentType."""
        found = self._targets.get(agent)
        if found is None:
            try:
                pool = self.pools[self.agent_types[agent.type]]
            except KeyError:
                raise UnknownAgentType(f"no pool of this mesh runs agent type {agent.type!r}") from None
            if len(self._targets) >= _KNOWN_TARGETS:
                self._targets.clear()
            found = self._targets[agent] = Target(agent, pool, shard_of(agent.type, agent.key, pool.shards))
        return found

    def targets(self, topic: TopicId) -> Iterable[Target]:
        """Return one target for each agent that hears the topic; none is a fine answer."""
        return [self.target(agent) for agent in self._heard.hearers(topic)]

    def retry(self, topic: TopicId, agent_type: str) -> RetryPolicy | None:
        """Return when an agent type's messages of a topic are tried again; None: as its pool says."""
        return self._heard.retry(topic.type, agent_type)

    def encode(self) -> bytes:
        value = {
            "pools": {pool.pool: _written_pool(pool) for pool in self.pools.values()},
            "agentTypes": dict(self.agent_types),
            "subscriptions": [_written(row) for row in self.subscriptions],
        }
        return json.dumps(value).encode()

    @classmethod
    def decode(cls, data: bytes) -> Routes:
        """Raises DecodeError."""
        try:
            value = json.loads(data)
            pools = {
                PoolName(name): PoolRoute(
                    PoolName(name), int(pool["shards"]), str(pool["incarnation"]), pool.get("largeCompression", PLAIN)
                )
                for name, pool in value["pools"].items()
            }
            return cls(
                pools=pools,
                agent_types={kind: PoolName(pool) for kind, pool in value["agentTypes"].items() if pool in pools},
                subscriptions=tuple(_read(row) for row in value["subscriptions"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DecodeError(f"routes: {error!r}") from error


def _written_pool(pool: PoolRoute) -> dict[str, Any]:
    value: dict[str, Any] = {"shards": pool.shards, "incarnation": pool.incarnation}
    return value if pool.large_compression == PLAIN else {**value, "largeCompression": pool.large_compression}


def _written(row: SubscriptionRoute) -> dict[str, Any]:
    """A default is left out: that is how a table looked before there was anything else."""
    value: dict[str, Any] = {"topic": row.topic, "agentType": row.agent_type}
    if row.match is not Match.EXACT:
        value["match"] = row.match
    if row.retry is not None:
        value["retry"] = asdict(row.retry)
    return value if row.key is None else {**value, "key": row.key}


def _read(row: Mapping[str, Any]) -> SubscriptionRoute:
    key, retry = row.get("key"), row.get("retry")
    return SubscriptionRoute(
        str(row["topic"]),
        str(row["agentType"]),
        Match(row.get("match", "exact")),
        None if key is None else str(key),
        None if retry is None else _read_retry(retry),
    )


def _read_retry(value: Mapping[str, Any]) -> RetryPolicy:
    return RetryPolicy(
        int(value["attempts"]),
        Backoff(value["backoff"]),
        float(value["initial"]),
        float(value["cap"]),
        bool(value["jitter"]),
    )
