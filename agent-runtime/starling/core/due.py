"""Due records: work to do at or after a time, added and removed by commits only.

A failed turn that is tried again, a delayed message, a timer, a parked message, a piece of a large fan-out, and the
end of a recorded reply are all one kind of record. Its body is a cell of the shard, found by its key alone. The keys
of all live records are kept in buckets, one or more an hour of due time. A bucket is a cell as well, but derived: the
journal carries what changes in it (`added`, `removed`), the table gets it whole, behind the journal, and a new owner
puts both together. So the table is never listed to find a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack

from starling.core.ids import AgentId, ShardId, token, untoken
from starling.core.names import Lane
from starling.errors import DecodeError

BUCKET_BYTES: Final = 128 * 1024
_HOUR_MS: Final = 3_600_000


class DueKind(IntEnum):
    """What is to be done when the time has come."""

    RETRY = 0
    """A failed turn: again, before later messages of its agent unless the agent is not ordered."""
    PARKED = 1
    """A message that waits for its turn outside the mailbox's window; before later messages of its agent."""
    DELAYED = 2
    """A message that is handed to its agent at a time."""
    TIMER = 3
    """A named timer of an agent, perhaps recurring."""
    PIECE = 4
    """A part of what one turn sent; its agent starts no turn until all parts are in the outbox."""
    REPLY = 5
    """A recorded reply that may be forgotten then."""


class Due(NamedTuple):
    """One live record as its bucket has it. at: milliseconds since 1970; name: message id or timer, for look-up."""

    key: str
    at: int
    kind: DueKind
    bucket: str
    name: str = ""
    lane: str = Lane.NORMAL.value


class Place(NamedTuple):
    """Where in the mailbox a record's message stood. slot: its index in the frame."""

    position: int
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DueBody:
    """What a record's cell holds. attempt: failed attempts so far; every: seconds between two occurrences of a timer,
    cron: its rule, one of the two or none; stored: when the message was stored, seconds since 1970."""

    envelope: bytes
    attempt: int = 0
    every: float = 0.0
    cron: str = ""
    stored: float = 0.0

    def encode(self) -> bytes:
        value = (self.envelope, self.attempt, self.every, self.cron, self.stored)
        return msgpack.packb(value)  # type: ignore[no-any-return]

    @classmethod
    def decode(cls, data: bytes) -> DueBody:
        """Raises DecodeError."""
        try:
            envelope, attempt, every, cron, stored = msgpack.unpackb(data)
        except Exception as error:
            raise DecodeError(f"due record: {error!r}") from error
        return cls(envelope=envelope, attempt=attempt, every=every, cron=cron, stored=stored)


def due_key(shard: ShardId, agent: AgentId, place: Place) -> str:
    """Table key of the record of one message of the mailbox."""
    return f"{shard}.d.{token(agent.type)}.{token(agent.key)}.{place.position}-{place.slot}"


def piece_key(shard: ShardId, agent: AgentId, message_id: str, piece: int) -> str:
    """Table key of one part of what a turn sent."""
    return f"{shard}.p.{token(agent.type)}.{token(agent.key)}.{token(message_id)}.{piece:06d}"


def timer_key(shard: ShardId, agent: AgentId, timer: str, unique: str) -> str:
    """Table key of a timer. unique: of this setting, so that a key never comes back."""
    return f"{shard}.t.{token(agent.type)}.{token(agent.key)}.{token(timer)}.{token(unique)}"


def reply_key(shard: ShardId, call: str) -> str:
    """Table key of a recorded reply."""
    return f"{shard}.r.{token(call)}"


def step_key(shard: ShardId, agent: AgentId, message_id: str, step: str) -> str:
    """Table key of a saved step or call of a turn that has not ended."""
    return f"{shard}.s.{token(agent.type)}.{token(agent.key)}.{token(message_id)}.{token(step)}"


def bucket_key(shard: ShardId, bucket: str) -> str:
    """Table key of a bucket of due keys."""
    return f"{shard}.h.{bucket}"


TRANSIENT: Final = frozenset("dptrs")


def is_transient(key: str) -> bool:
    """Whether a cell's key never comes back once it was removed: so nobody is misled by a late write of it."""
    return key.split(".", 2)[1] in TRANSIENT


def agent_of(due: Due) -> AgentId:
    """Return the agent whose record this is; of a recorded reply there is none to name. Raises DecodeError."""
    parts = due.key.split(".")
    if len(parts) < 5:
        raise DecodeError(f"due record {due.key} names no agent")
    return AgentId(untoken(parts[2]), untoken(parts[3]))


def place_of(due: Due) -> Place:
    """Return the place in the mailbox of a retried, parked or delayed message; Place(0, 0) for other kinds."""
    position, dash, index = due.key.rpartition(".")[2].partition("-")
    return Place(int(position), int(index)) if dash and position.isdigit() else Place(0, 0)


class DueChange(NamedTuple):
    """What one journal record changes in the buckets. added: a row a key, the last; removed: key and bucket."""

    sequence: int
    added: Sequence[Due]
    removed: Sequence[tuple[str, str]]


class _Bucket:
    __slots__ = ("dirty_since", "newest", "rows", "writing")

    def __init__(self) -> None:
        self.rows: dict[str, Due] = {}
        self.newest = 0
        """Sequence of the newest record that changed it."""
        self.dirty_since = 0
        """Sequence of the oldest record whose change the table may not have; 0: it has all."""
        self.writing = False


class DueIndex:
    """All live due records of a shard: by key, and as the buckets that the table gets.

    `add` and `remove` say what the record that is being built changes; `committed`, that it is stored. What a turn has
    set is found by `later` and `named` from the turn's end on, before it is in a record: `coming`.
    """

    def __init__(self) -> None:
        self.live: dict[str, Due] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._open: dict[int, str] = {}
        self._filling: dict[str, int] = {}
        """Bytes of each bucket, changes that are not committed yet among them."""
        self.counts = [0] * len(DueKind)
        self._later: dict[AgentId, set[str]] = {}
        """Keys of each agent's timers and delayed messages: a shard may have a million, no turn looks through all."""
        self._names: dict[tuple[AgentId, DueKind, str], tuple[str, ...]] = {}
        """The same by agent and name: the newest timer, and all delayed messages, whose ids their senders choose."""
        self._coming: set[str] = set()
        """Those that no record has yet."""

    def __len__(self) -> int:
        return len(self.live)

    def later(self, agent: AgentId) -> list[str]:
        """Return the keys of an agent's timers and delayed messages; one that is tried again is none any more."""
        return sorted(self._later.get(agent, ()))

    def named(self, agent: AgentId, kind: DueKind, name: str) -> tuple[str, ...]:
        """Return the key of an agent's newest timer of that name, or those of all delayed messages of that id; one that
        is tried again is none any more."""
        return self._names.get((agent, kind, name), ())

    def coming(self, agent: AgentId, key: str, kind: DueKind, name: str) -> None:
        """Note a timer or delayed message that one of the next records adds."""
        self._coming.add(key)
        self._note(agent, key, kind, name)

    def has(self, key: str) -> bool:
        """Whether it is live, or will be by one of the next records."""
        return key in self.live or key in self._coming

    # -- what the next record changes

    def add(
        self, key: str, at: int, kind: DueKind, *, name: str = "", lane: str = Lane.NORMAL.value
    ) -> tuple[Due, tuple[str, str] | None]:
        """Note a new record, or a new time of one that is live.

        Its row comes back for the journal, with what has to be removed elsewhere because it moved to another bucket.
        """
        before = self.live.get(key)
        due = Due(key, at, kind, self._bucket_for(key, at), name, lane)
        self._enter(due)
        return due, (key, before.bucket) if before is not None and before.bucket != due.bucket else None

    def remove(self, key: str) -> tuple[str, str] | None:
        """Forget a record; return key and bucket for the journal, None when it is not live."""
        due = self.live.pop(key, None)
        if due is None:
            return None
        self.counts[due.kind] -= 1
        if due.kind in _LATER:
            self._not_later(due)
        return key, due.bucket

    def _enter(self, due: Due) -> None:
        before = self.live.get(due.key)
        if before is not None:
            self.counts[before.kind] -= 1
            if before.kind in _LATER and due.kind not in _LATER:  # it is tried again: nobody takes it back any more
                self._not_later(before)
        self.live[due.key] = due
        self.counts[due.kind] += 1
        if due.key in self._coming:
            self._coming.remove(due.key)
        elif due.kind in _LATER and (before is None or before.kind not in _LATER):
            self._note(agent_of(due), due.key, due.kind, due.name)

    def _note(self, agent: AgentId, key: str, kind: DueKind, name: str) -> None:
        self._later.setdefault(agent, set()).add(key)
        named = agent, kind, name
        self._names[named] = (*self._names.get(named, ()), key) if kind is DueKind.DELAYED else (key,)

    def _not_later(self, due: Due) -> None:
        agent = agent_of(due)
        own = self._later[agent]
        own.discard(due.key)
        if not own:
            del self._later[agent]
        named = agent, due.kind, due.name
        if others := tuple(key for key in self._names.get(named, ()) if key != due.key):
            self._names[named] = others
        else:
            self._names.pop(named, None)

    def _bucket_for(self, key: str, at: int) -> str:
        hour = max(at, 0) // _HOUR_MS
        bucket = self._open.get(hour, str(hour))
        if self._filling.get(bucket, 0) > BUCKET_BYTES:
            bucket = f"{hour}-{int(bucket.partition('-')[2] or 0) + 1}"
        self._open[hour] = bucket
        self._filling[bucket] = self._filling.get(bucket, 0) + _size(key)
        return bucket

    # -- what is stored

    def committed(self, change: DueChange) -> None:
        """Note that a record is stored: what it changes is to be seen in the table in time."""
        for key, name in change.removed:
            if self._touch(name, change.sequence).rows.pop(key, None) is not None:
                self._filling[name] = max(0, self._filling.get(name, 0) - _size(key))
        for due in change.added:
            self._touch(due.bucket, change.sequence).rows[due.key] = due

    def _touch(self, name: str, sequence: int) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket()
        bucket.newest = sequence
        bucket.dirty_since = bucket.dirty_since or sequence
        return bucket

    def buckets(self) -> list[str]:
        """Return the buckets that a snapshot has to name: those with rows, and those that the table lags behind in."""
        return [name for name, bucket in self._buckets.items() if bucket.rows or bucket.dirty_since]

    def owed(self) -> bool:
        """Whether there is anything that has to happen even if no further message comes."""
        return len(self.live) > self.counts[DueKind.REPLY]

    def next_at(self) -> int | None:
        """When the first of that is due, milliseconds since 1970; None: there is none."""
        return min((due.at for due in self.live.values() if due.kind is not DueKind.REPLY), default=None)

    def oldest_change(self) -> int | None:
        """Sequence of the oldest record whose change the table may not have."""
        return min((b.dirty_since for b in self._buckets.values() if b.dirty_since), default=None)

    def to_write(self) -> Iterator[tuple[str, int, bytes | None]]:
        """Buckets that the table lags behind in: name, version, and content (None: nothing is left in it)."""
        for name, bucket in self._buckets.items():
            if bucket.dirty_since and not bucket.writing:
                rows = [(d.key, d.at, int(d.kind), d.name, d.lane) for d in bucket.rows.values()]
                yield name, bucket.newest, msgpack.packb(rows) if rows else None

    def writing(self, name: str) -> None:
        """Note that a write of the bucket is under way."""
        self._buckets[name].writing = True

    def written(self, name: str, version: int | None) -> None:
        """Note the answer: the version that the table has now, or None when nobody can say."""
        bucket = self._buckets[name]
        bucket.writing = False
        if version is None:
            return
        bucket.dirty_since = 0 if bucket.newest <= version else version + 1
        if not bucket.rows and not bucket.dirty_since:
            del self._buckets[name]
            self._filling.pop(name, None)

    # -- after a take

    def restore(self, tables: Mapping[str, tuple[int, bytes | None]], changes: Iterable[DueChange]) -> None:
        """Put together what the table has (bucket to version and content) and what the journal changed since."""
        for name, (version, data) in tables.items():
            bucket = self._buckets[name] = _Bucket()
            bucket.newest = version
            if data is not None:
                bucket.rows = {due.key: due for due in _rows(name, data)}
        versions = {name: version for name, (version, _) in tables.items()}
        for change in changes:
            self.committed(
                DueChange(
                    change.sequence,
                    [due for due in change.added if change.sequence > versions.get(due.bucket, 0)],
                    [row for row in change.removed if change.sequence > versions.get(row[1], 0)],
                )
            )
        for name, bucket in self._buckets.items():
            self._filling[name] = sum(_size(key) for key in bucket.rows)
            for due in bucket.rows.values():
                self._enter(due)


_LATER: Final = (DueKind.DELAYED, DueKind.TIMER)


def row_bytes(key: str) -> int:
    """Return what a record has of a due record beside its body: its row, and the key of its cell."""
    return 2 * _size(key)


def _size(key: str) -> int:
    return len(key) + 32


def _rows(bucket: str, data: bytes) -> Iterator[Due]:
    try:
        for key, at, kind, name, lane in msgpack.unpackb(data):
            yield Due(key, at, DueKind(kind), bucket, name, lane)
    except Exception as error:
        raise DecodeError(f"bucket {bucket} of due records: {error!r}") from error


def pack_rows(rows: Sequence[Due]) -> list[Any]:
    """Return rows as they stand in a journal record."""
    return [(d.key, d.at, int(d.kind), d.bucket, d.name, d.lane) for d in rows]


def unpack_rows(rows: Iterable[Any]) -> list[Due]:
    """Return the rows of a journal record."""
    return [Due(key, at, DueKind(kind), bucket, name, lane) for key, at, kind, bucket, name, lane in rows]
