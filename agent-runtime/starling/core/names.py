"""Every name on the message store: streams, buckets, subjects, headers, table keys. Nothing else spells one out."""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import Final, NamedTuple

from starling.core.ids import AgentId, PodName, PoolName, ShardId, TopicId, token, untoken

VERSION: Final = "St-V"
SOURCE: Final = "St-Src"
NUMBER: Final = "St-No"
PREVIOUS: Final = "St-Prev"
SETTLED: Final = "St-Settled"
MESSAGE_ID: Final = "Nats-Msg-Id"
TTL: Final = "Nats-TTL"

INCARNATION_METADATA: Final = "starlingmesh.dev/incarnation"


class Origin(StrEnum):
    """Where a mailbox message came from."""

    OUTSIDE = "o"
    FRAMES = "f"


class Lane(StrEnum):
    """The two lanes of a mailbox: order holds within one."""

    URGENT = "u"
    NORMAL = "n"


NORMAL_LANE: Final = Lane.NORMAL
"""By this name: to look a member up in its class takes 70 ns."""


class Inlet(NamedTuple):
    """One origin and lane of a mailbox: a subject, read by one reader."""

    origin: Origin
    lane: Lane

    def __str__(self) -> str:
        return f"{self.origin}.{self.lane}"

    @classmethod
    def parse(cls, text: str) -> Inlet:
        origin, _, lane = text.partition(".")
        return cls(Origin(origin), Lane(lane))


INLETS: Final = tuple(Inlet(origin, lane) for lane in (Lane.URGENT, Lane.NORMAL) for origin in Origin)


class MeshNames(NamedTuple):
    """The names of one mesh."""

    mesh: str

    @property
    def maps(self) -> str:
        """Bucket of shard maps, a key per pool; written by the control plane only."""
        return f"st_{self.mesh}_maps"

    @property
    def members(self) -> str:
        """Bucket of members, a key ``pool.pod`` per pod, expiring."""
        return f"st_{self.mesh}_members"

    @property
    def routes(self) -> str:
        """Bucket with the one key `routes`: agent types, pools, subscriptions."""
        return f"st_{self.mesh}_routes"

    def pool(self, pool: PoolName) -> PoolNames:
        return PoolNames(self.mesh, pool)

    def replies(self, client: str) -> str:
        """Subject on which one client hears its replies, a token per call behind it."""
        return f"st.{self.mesh}.r.{client}"


class PoolNames(NamedTuple):
    """The names of one pool of a mesh."""

    mesh: str
    pool: PoolName

    def mailbox(self, shard: ShardId) -> str:
        return f"st_{self.mesh}_{self.pool}_m_{shard}"

    def journal(self, shard: ShardId) -> str:
        return f"st_{self.mesh}_{self.pool}_j_{shard}"

    @property
    def table(self) -> str:
        """Bucket of the pool's cells."""
        return f"st_{self.mesh}_{self.pool}_table"

    @property
    def objects(self) -> str:
        """Object store of the pool: bodies, replies and cells that are too large for a message."""
        return f"st_{self.mesh}_{self.pool}_big"

    @property
    def dead_letters(self) -> str:
        return f"st_{self.mesh}_{self.pool}_dead"

    def inlet_subject(self, shard: ShardId, inlet: Inlet) -> str:
        return f"st.{self.mesh}.{self.pool}.m.{shard}.{inlet}"

    def mailbox_subjects(self, shard: ShardId) -> str:
        return f"st.{self.mesh}.{self.pool}.m.{shard}.>"

    def journal_subject(self, shard: ShardId) -> str:
        return f"st.{self.mesh}.{self.pool}.j.{shard}"

    @property
    def dead_subject(self) -> str:
        return f"st.{self.mesh}.{self.pool}.dead"

    def replay_subject(self, sequence: int) -> str:
        """Where it is noted, in the same stream, that a dead letter is being put back at its target."""
        return f"{self.dead_subject}.replay.{sequence}"

    @property
    def replay_subjects(self) -> str:
        return f"{self.dead_subject}.replay.*"

    def taken(self, shard: ShardId | str) -> str:
        """Core message after each take; its body is the journal sequence of the take record."""
        return f"st.{self.mesh}.{self.pool}.taken.{shard}"

    def free(self, shard: ShardId | str) -> str:
        """Core message after a release."""
        return f"st.{self.mesh}.{self.pool}.free.{shard}"

    def prepared(self, shard: ShardId | str) -> str:
        """Core message: the pod in its body, which the map names, has read the journal and waits for the release."""
        return f"st.{self.mesh}.{self.pool}.prepared.{shard}"

    def queries(self, shard: ShardId) -> str:
        """Subject on which the owner of a shard answers queries."""
        return f"st.{self.mesh}.{self.pool}.q.{shard}"

    def cancel(self, shard: ShardId) -> str:
        """Core message: nobody waits any more for the call whose id is its body."""
        return f"st.{self.mesh}.{self.pool}.cancel.{shard}"

    def again(self, shard: ShardId) -> str:
        """Subject on which a caller asks for a reply that it waits for and may have missed; the body is its address."""
        return f"st.{self.mesh}.{self.pool}.again.{shard}"

    def alive(self, pod: PodName | str) -> str:
        """Liveness subject of a pod: it answers; without responders the process is gone."""
        return f"st.{self.mesh}.{self.pool}.alive.{pod}"

    def drain(self, pod: PodName | str) -> str:
        """A person asks the pod to be emptied (`b""`), or not to be any more (`b"undo"`); it answers."""
        return f"st.{self.mesh}.{self.pool}.drain.{pod}"

    @property
    def wake(self) -> str:
        return f"st.{self.mesh}.{self.pool}.wake"


def bucket_stream(bucket: str) -> str:
    """Stream behind a KV bucket."""
    return f"KV_{bucket}"


def bucket_subject(bucket: str, key: str) -> str:
    """Subject of one key of a bucket; `>` for all."""
    return f"$KV.{bucket}.{key}"


def bucket_key(bucket: str, subject: str) -> str:
    """Key behind a subject of the bucket."""
    return subject.removeprefix(f"$KV.{bucket}.")


def object_stream(bucket: str) -> str:
    """Stream behind an object store."""
    return f"OBJ_{bucket}"


def object_chunks(bucket: str, nuid: str) -> str:
    """Subject of the chunks of one object; `>` for all."""
    return f"$O.{bucket}.C.{nuid}"


def object_description(bucket: str, name: str) -> str:
    """Subject of the description of one object."""
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def object_descriptions(bucket: str) -> str:
    """Subjects of the descriptions of all objects."""
    return f"$O.{bucket}.M.>"


def object_mark(bucket: str, name: str, who: str) -> str:
    """Subject under which one of those that share an object says that it is done with it; `*` for any."""
    return f"$O.{bucket}.D.{name}.{who}"


def described_object(bucket: str, subject: str) -> str | None:
    """Return the name of the object that a subject describes; None when it is no description."""
    prefix = f"$O.{bucket}.M."
    if not subject.startswith(prefix):
        return None
    return base64.urlsafe_b64decode(subject.removeprefix(prefix)).decode()


def cell_key(shard: ShardId, agent: AgentId, cell: str) -> str:
    """Table key of one state cell."""
    return f"{shard}.a.{token(agent.type)}.{token(agent.key)}.{token(cell)}"


def parse_cell_key(key: str) -> tuple[ShardId, AgentId, str] | None:
    """Return shard, agent and cell of a table key; None when it is no state cell."""
    parts = key.split(".")
    if len(parts) != 5 or parts[1] != "a":
        return None
    return ShardId(int(parts[0])), AgentId(untoken(parts[2]), untoken(parts[3])), untoken(parts[4])


def mark_key(shard: ShardId) -> str:
    """Table key of the owner's mark."""
    return f"{shard}.mark"


def member_key(pool: PoolName, pod: PodName) -> str:
    return f"{pool}.{pod}"


def agents_key(pool: PoolName) -> str:
    """Key of the routes' bucket under which the pods of a pool describe their agents."""
    return f"agents.{pool}"


def topic_subject(mesh: str, topic: TopicId) -> str:
    return f"st.{mesh}.t.{token(topic.type)}"
