"""The journal record: the one durable end of a group of turns, and its wire form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgpack

from starling.core.due import Due, pack_rows, unpack_rows
from starling.core.ids import PoolName, ShardId
from starling.core.names import Inlet, Lane
from starling.errors import DecodeError

RECORD_VERSION: Final = 1


class Kind(StrEnum):
    """What a record is."""

    BORN = "born"
    TAKE = "take"
    COMMIT = "commit"
    SNAPSHOT = "snap"
    FREE = "free"


class Target(NamedTuple):
    """A lane of another shard's mailbox, or of the pool's dead letters (`DEAD`): a chain of frames goes there."""

    pool: PoolName
    incarnation: str
    shard: ShardId
    lane: str


DEAD: Final = "dead"


class Source(NamedTuple):
    """A chain of frames as its receiver knows it: "incarnation.shard" of the sender, and the lane."""

    shard: str
    lane: Lane


class Frame(NamedTuple):
    """A committed frame of the outbox. Its number follows `previous` in the chain to its target.

    message_id: for dead letters only; frames between shards carry none.
    """

    target: Target
    number: int
    previous: int
    body: bytes
    message_id: str = ""


class Cell(NamedTuple):
    """A committed value of a cell. data: None says that it was destroyed."""

    version: int
    """State version of the agent's code, not the journal sequence."""
    data: bytes | None


class FrameRef(NamedTuple):
    """Where in the journal an unconfirmed frame stands."""

    sequence: int
    slot: int


class CellRef(NamedTuple):
    """Where in the journal a cell's newest version stands that the table may not have yet."""

    sequence: int
    key: str


class Done(NamedTuple):
    """Finished work above the floor of an inlet: whole positions as ranges, and frames that are finished in part."""

    ranges: tuple[tuple[int, int], ...] = ()
    partly: Mapping[int, tuple[int, ...]] = {}


class ReplyRecord(NamedTuple):
    """A reply that a commit promises: its subject and its packed body."""

    subject: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One journal record.

    previous: sequence in its condition; epoch, owner ("pod/start", "" when free), map_rev, barren: as of this record;
    snapshot: sequence of the newest snapshot that the writer knew to be stored, 0 for none.
    floors and done are whole; seen, counters and confirmed hold what changed (in a snapshot all of it).
    due_added and due_removed: what it changes in the buckets of due records (rows; keys and buckets).
    frame_refs, cell_refs and due_buckets (those in use) stand in snapshots only.
    owed, wakes_at: whether a released shard has work without a further message, and when (ms since 1970; 0: at once,
    since it has sent what no mailbox has taken); due_at: when it has work beside that, 0 for none.
    """

    kind: Kind
    previous: int
    epoch: int
    owner: str = ""
    map_rev: int = 0
    barren: int = 0
    snapshot: int = 0
    incarnation: str = ""
    floors: Mapping[Inlet, int] = field(default_factory=dict)
    done: Mapping[Inlet, Done] = field(default_factory=dict)
    seen: Mapping[Source, int] = field(default_factory=dict)
    counters: Mapping[Target, int] = field(default_factory=dict)
    frames: Sequence[Frame] = ()
    confirmed: Mapping[Target, int] = field(default_factory=dict)
    cells: Mapping[str, Cell] = field(default_factory=dict)
    replies: Sequence[ReplyRecord] = ()
    frame_refs: Sequence[FrameRef] = ()
    cell_refs: Sequence[CellRef] = ()
    due_added: Sequence[Due] = ()
    due_removed: Sequence[tuple[str, str]] = ()
    due_buckets: Sequence[str] = ()
    owed: bool = False
    wakes_at: int = 0
    due_at: int = 0

    def encode(self) -> bytes:
        value: dict[str, Any] = {"v": RECORD_VERSION, "pv": self.previous, "k": self.kind.value, "e": self.epoch}
        if self.owner:
            value["o"] = self.owner
        if self.map_rev:
            value["m"] = self.map_rev
        if self.barren:
            value["ba"] = self.barren
        if self.snapshot:
            value["sn"] = self.snapshot
        if self.incarnation:
            value["in"] = self.incarnation
        if self.floors:
            value["f"] = {str(inlet): floor for inlet, floor in self.floors.items()}
        if self.done:
            value["d"] = {str(inlet): (done.ranges, dict(done.partly)) for inlet, done in self.done.items()}
        if self.seen:
            value["s"] = [(*source, number) for source, number in self.seen.items()]
        if self.counters:
            value["n"] = [(*target, number) for target, number in self.counters.items()]
        if self.frames:
            value["x"] = [(*f.target, f.number, f.previous, f.body, f.message_id) for f in self.frames]
        if self.confirmed:
            value["y"] = [(*target, number) for target, number in self.confirmed.items()]
        if self.cells:
            value["c"] = self.cells
        if self.replies:
            value["rp"] = self.replies
        if self.frame_refs:
            value["xr"] = self.frame_refs
        if self.cell_refs:
            value["cr"] = self.cell_refs
        if self.due_added:
            value["du"] = pack_rows(self.due_added)
        if self.due_removed:
            value["dd"] = self.due_removed
        if self.due_buckets:
            value["db"] = self.due_buckets
        if self.owed:
            value["ow"] = True
        if self.wakes_at:
            value["wa"] = self.wakes_at
        if self.due_at:
            value["da"] = self.due_at
        return msgpack.packb(value)  # type: ignore[no-any-return]

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Raises DecodeError, by name for a version that this code does not know."""
        try:
            value = msgpack.unpackb(data, strict_map_key=False, use_list=False)
            version = value["v"]
        except Exception as error:
            raise DecodeError(f"journal record: {error!r}") from error
        if version > RECORD_VERSION:
            raise DecodeError(f"journal record: version {version} is newer than {RECORD_VERSION}; upgrade this worker")
        try:
            return cls(
                kind=Kind(value["k"]),
                previous=value["pv"],
                epoch=value["e"],
                owner=value.get("o", ""),
                map_rev=value.get("m", 0),
                barren=value.get("ba", 0),
                snapshot=value.get("sn", 0),
                incarnation=value.get("in", ""),
                floors={Inlet.parse(inlet): floor for inlet, floor in value.get("f", {}).items()},
                done={Inlet.parse(i): Done(ranges, partly) for i, (ranges, partly) in value.get("d", {}).items()},
                seen={Source(shard, Lane(lane)): number for shard, lane, number in value.get("s", ())},
                counters=_by_target(value.get("n", ())),
                frames=tuple(Frame(Target(*item[:4]), *item[4:]) for item in value.get("x", ())),
                confirmed=_by_target(value.get("y", ())),
                cells={key: Cell(*cell) for key, cell in value.get("c", {}).items()},
                replies=tuple(ReplyRecord(*reply) for reply in value.get("rp", ())),
                frame_refs=tuple(FrameRef(*ref) for ref in value.get("xr", ())),
                cell_refs=tuple(CellRef(*ref) for ref in value.get("cr", ())),
                due_added=tuple(unpack_rows(value.get("du", ()))),
                due_removed=tuple((key, bucket) for key, bucket in value.get("dd", ())),
                due_buckets=tuple(value.get("db", ())),
                owed=bool(value.get("ow", False)),
                wakes_at=value.get("wa", 0),
                due_at=value.get("da", 0),
            )
        except Exception as error:
            raise DecodeError(f"journal record: {error!r}") from error


def _by_target(items: Sequence[Any]) -> dict[Target, int]:
    return {Target(*item[:4]): item[4] for item in items}


def born(incarnation: str) -> Record:
    """Return record 0 of a journal: the shard exists, nobody has owned it."""
    return Record(kind=Kind.BORN, previous=0, epoch=0, incarnation=incarnation)
