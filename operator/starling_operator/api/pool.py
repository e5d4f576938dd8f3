"""AgentPool: agents of some types, the shards that hold them and the pods that run them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from starling.core import limits

from starling_operator.api.common import Conditions, DeliveryPolicy
from starling_operator.api.fields import (
    ENTRYPOINT_PATTERN,
    HINTS,
    MAX_POOL_NAME,
    POOL_NAME_PATTERN,
    AgentType,
    Count,
    Image,
    ObjectName,
    Ratio,
    Replicas,
    Seconds,
    Serial,
    SizeQuantity,
    SomeSeconds,
    StreamReplicas,
    Timestamp,
    distinct,
    list_map,
    size_bytes,
)
from starling_operator.api.model import ChangeRule, Model, Rule
from starling_operator.api.names import ConditionType
from starling_operator.api.resource import AGE, Column, Kind, Resource, condition_column


class Durability(StrEnum):
    """What an agent type promises about its turns."""

    COMMITTED = "committed"
    NONE = "none"


class DeletionPolicy(StrEnum):
    """What becomes of a deleted pool's data."""

    KEEP = "Keep"
    DELETE = "Delete"


class Storage(StrEnum):
    """Where streams keep their messages."""

    FILE = "file"
    MEMORY = "memory"


class Compression(StrEnum):
    """How JetStream packs what it writes to files."""

    NONE = "none"
    S2 = "s2"


class LargeCompression(StrEnum):
    """How bodies, answers and cells of state in the object store are packed."""

    NONE = "none"
    ZSTD = "zstd"


class Code(Model):
    """Python modules from a ConfigMap, put on the import path of the workers."""

    config_map: ObjectName
    """ConfigMap of the same namespace; each key is a file such as flights.py."""
    image: Image | None = None
    """Image that runs the code, when it needs more libraries than the operator's own worker image has."""


class Passivation(Model):
    """When an idle agent leaves memory; its state stays in the table."""

    idle_seconds: SomeSeconds | None = None
    """Seconds without a message after which the agent is saved and dropped; without it as its class says, else 600."""
    max_active: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many agents of this type a pod keeps in memory; the one that has been idle longest leaves for a new one."""


class AgentSpec(Model):
    """One agent type that the pool runs."""

    type: AgentType
    """Name in addresses and subscriptions; it belongs to one pool of a mesh."""
    entrypoint: Annotated[str, Field(pattern=ENTRYPOINT_PATTERN, max_length=256)] | None = None
    """Where its class is: module:Class. Without it a package in the image registers the type."""
    durability: Durability | None = None
    """committed: each turn is one durable commit. none: nothing is recorded, replies go out at once. Without it as the
    class says, else committed."""
    passivation: Passivation = Passivation()
    """When an idle agent leaves memory."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """How many agents of this type may run a turn at once in one pod; without it only the pod's own limit holds."""


class Streams(Model):
    """The pool's streams on JetStream."""

    replicas: StreamReplicas = 1
    """Copies of each stream, on as many servers."""
    mailbox_limit: Annotated[int, Field(ge=1, le=10_000_000)] = limits.MAILBOX_LIMIT
    """Messages that may wait in one lane of a shard; after that senders are refused."""
    max_bytes: SizeQuantity = "1Gi"
    """Bytes that may wait in one shard's mailbox."""
    storage: Storage = Storage.FILE
    """Where messages are kept. Fixed for the life of the pool."""

    compression: Compression = Compression.NONE
    """s2: the server packs what it writes to the streams' files. Costs CPU of the server, saves disk."""
    large_compression: LargeCompression = LargeCompression.NONE
    """zstd: bodies, answers and cells of state over 256 KiB are packed by whoever writes them, where that makes them
    smaller. Whoever reads them needs the extra starling-mesh[zstd]."""

    change_rules = (
        ChangeRule(
            "self.storage == oldSelf.storage",
            "is fixed for the life of the pool; make a new pool",
            ".storage",
            lambda new, old: new.storage == old.storage,
        ),
    )

    @property
    def mailbox_bytes(self) -> int:
        """`maxBytes` as a number."""
        return size_bytes(self.max_bytes)


class AgentPoolSpec(Model):
    """What the pool should be."""

    replicas: Replicas | None = None
    """Pods. Without it the operator starts one, and whoever scales the pool says how many. With an
    AgentScalingTarget it is the start value only."""
    shards: Annotated[int, Field(ge=1, le=limits.MAX_SHARDS)] = limits.DEFAULT_SHARDS
    """Fixed slices of the pool's agents; rule of thumb: four to ten times the most pods. Fixed for the life of the
    pool, since an agent's shard is a hash over it."""
    image: Image | None = None
    """Image that holds the agents' code and Starling. Give either image or code."""
    code: Code | None = None
    """Agents' code from a ConfigMap. Give either image or code."""
    agents: Annotated[
        tuple[AgentSpec, ...],
        Field(min_length=1, max_length=64, json_schema_extra=list_map("type")),
        AfterValidator(distinct("type")),
    ]
    """The agent types that the pool runs."""
    delivery: DeliveryPolicy = DeliveryPolicy()
    """What happens to a message whose handler failed."""
    streams: Streams = Streams()
    """The pool's streams on JetStream."""
    drain_seconds: Seconds = int(limits.DRAIN)
    """For how long a pod that ends may finish turns and hand its shards off."""
    move_wait_seconds: Seconds = int(limits.MOVE_WAIT)
    """For how long a shard that moves waits for its running turns."""
    member_grace_seconds: Seconds = int(limits.MEMBER_GRACE)
    """For how long the shards of a lost pod wait for its restart before they move."""
    deletion_policy: DeletionPolicy = DeletionPolicy.KEEP
    """Whether streams, states and messages go when the pool is deleted. Keep: a pool of the same name and number of
    shards finds them again."""
    dry_run: bool = False
    """Write the plan to status and change nothing."""
    template: (
        Annotated[
            dict[str, Any],
            Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
        ]
        | None
    ) = None
    """Laid over the pod template: metadata and spec as in a StatefulSet's template."""

    rules = (
        Rule(
            "has(self.image) != has(self.code)",
            "give exactly one of image and code",
            ".code",
            lambda it: (it.image is None) != (it.code is None),
        ),
    )
    change_rules = (
        ChangeRule(
            "self.shards == oldSelf.shards",
            "is fixed for the life of the pool; make a new pool",
            ".shards",
            lambda new, old: new.shards == old.shards,
        ),
    )


class LastMove(Model):
    """The newest move of a shard."""

    shard: Count
    """Which shard."""
    source: Annotated[str, Field(alias="from", max_length=253)]
    """Pod that it left."""
    target: Annotated[str, Field(alias="to", max_length=253)]
    """Pod that it went to."""
    time: Timestamp
    """When the map said so."""


class AgentPoolStatus(Model):
    """What the pool is."""

    observed_generation: Serial | None = None
    """Generation of the spec that this status speaks of."""
    replicas: Count | None = None
    """Pods that exist."""
    ready_replicas: Count | None = None
    """Pods that are ready."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the pods, for the scale subresource."""
    shards_owned: Count | None = None
    """Shards that a pod runs."""
    shards_total: Count | None = None
    """Shards that the pool has."""
    moves: Count | None = None
    """Moves because of load since the pool was made."""
    last_move: LastMove | None = None
    """The newest of them."""
    map_revision: Serial | None = None
    """Revision of the shard map."""
    load: Ratio | None = None
    """Busy seconds per second of the most loaded pod."""
    imbalance: Ratio | None = None
    """Load of the most loaded pod over the mean; 1 is even."""
    plan: Annotated[str, Field(max_length=32_768)] | None = None
    """What would be done, with dryRun."""
    conditions: Conditions = ()
    """Ready, Progressing, Degraded, MetricsAvailable; AgentsParked, Undelivered while there are any."""


class AgentPool(Resource):
    """Agents of some types, the shards that hold them and the pods that run them."""

    resource_kind = Kind(
        name="AgentPool",
        plural="agentpools",
        short="apool",
        columns=(
            condition_column("Ready", ConditionType.READY),
            Column("Replicas", ".status.replicas", "integer"),
            Column("Shards", ".spec.shards", "integer"),
            Column("Owned", ".status.shardsOwned", "integer"),
            Column("Load", ".status.load", "number"),
            Column("Imbalance", ".status.imbalance", "number"),
            Column("Moves", ".status.moves", "integer"),
            AGE,
            Column("Pods-Ready", ".status.readyReplicas", "integer", priority=1),
            condition_column("Reason", ConditionType.READY, "reason", priority=1),
        ),
        scalable=True,
    )
    rules = (
        Rule(
            f"self.metadata.name.matches('{POOL_NAME_PATTERN}') && size(self.metadata.name) <= {MAX_POOL_NAME}",
            f"metadata.name of a pool {HINTS[POOL_NAME_PATTERN]}, and have at most {MAX_POOL_NAME} characters",
            ".metadata.name",
            lambda it: is_pool_name(it.metadata.name),
        ),
    )

    kind: Literal["AgentPool"] = "AgentPool"
    spec: AgentPoolSpec
    status: AgentPoolStatus = AgentPoolStatus()


def is_pool_name(name: str) -> bool:
    """Whether an object's name, which Kubernetes accepts, will do for a pool: no dots, a letter first, not long."""
    return len(name) <= MAX_POOL_NAME and name[:1].isalpha() and "." not in name
