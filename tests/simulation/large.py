"""Large values of a run: which bodies, answers and states go to the object store, and what became of their objects."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from starling.adapters.memory import MemoryServer
from starling.adapters.memory.replica import Removed
from starling.core import limits
from starling.core.ids import PoolName
from starling.core.names import MeshNames, described_object, object_chunks, object_stream, parse_cell_key
from starling.core.record import Record
from starling.core.reference import CELL, cell_reference
from starling.engine.sweep import kind_of, references
from starling.ports.store import Message

BODY, ANSWER, STATE = "body", "answer", "state"
SHARE = 0.15
"""Of the seeds that have large values."""
LIKELY = 0.4

Held = tuple[PoolName, str]
"""Pool and name of an object."""


def has_large(seed: int) -> bool:
    """Whether a seed has large values."""
    return random.Random(f"large {seed}").random() < SHARE


class Padding:
    """What makes some values of a run larger than the limit of what is stored in place."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._known: dict[tuple[str, str], str] = {}

    def of(self, tag: str, what: str) -> str:
        """Return the padding of a tag's body, answer or state: always the same one, of its own; none for most."""
        key = tag, what
        if key not in self._known:
            chance = random.Random(f"{what} {tag} {self._seed}")
            size = limits.MAX_BODY + chance.randrange(50, 200)
            word = f"{what} {tag} {chance.getrandbits(64):016x} "
            self._known[key] = (word * (size // len(word) + 1))[:size] if chance.random() < LIKELY else ""
        return self._known[key]


@dataclass(slots=True)
class Kept:
    """One object. put, gone: when its description was stored first, and removed last; None: it is there."""

    pool: PoolName
    name: str
    put: float
    data: bytes
    gone: float | None = None
    last: int = 0

    def covers(self, since: float, until: float | None) -> bool:
        """Whether it was there all this time; until: None for ever."""
        return self.put <= since and (self.gone is None or (until is not None and until <= self.gone))


def objects_of(server: MemoryServer, pools: Iterable[PoolName], mesh: str) -> dict[Held, Kept]:
    """Read all objects that ever were, from the history of their stores."""
    found: dict[Held, Kept] = {}
    for pool in pools:
        bucket = MeshNames(mesh).pool(pool).objects
        replicas = server.streams[object_stream(bucket)].replicas
        assert replicas is not None
        chunks: dict[str, list[bytes]] = {}
        for change in replicas.changes:
            name = described_object(bucket, change.subject) if isinstance(change, Message | Removed) else None
            if isinstance(change, Message):
                if name is None:
                    chunks.setdefault(change.subject, []).append(change.data)
                else:
                    subject = object_chunks(bucket, json.loads(change.data)["nuid"])
                    kept = found.setdefault((pool, name), Kept(pool, name, change.time, b"".join(chunks[subject])))
                    kept.last, kept.gone = change.sequence, None
            elif isinstance(change, Removed) and (pool, name) in found:
                kept = found[pool, name]  # type: ignore[index]
                if kept.gone is None and change.below > kept.last:
                    kept.gone = change.time
    return found


Timed = Sequence[tuple[float, Record]]
"""Records of a journal, each with the time at which it was stored."""


def lasting(objects: Mapping[Held, Kept], pool: PoolName, journal: Timed) -> Iterator[str]:
    """What a committed cell refers to is there before its commit, and until a later one replaces or removes it."""
    versions: dict[str, list[tuple[float, bytes | None]]] = {}
    for time, record in journal:
        for key, cell in record.cells.items():
            versions.setdefault(key, []).append((time, cell.data))
    for key, told in versions.items():
        for index, (since, data) in enumerate(told):
            until = told[index + 1][0] if index + 1 < len(told) else None
            for held in _referred(pool, key, data):
                kept = objects.get(held)
                if kept is None:
                    yield f"large: {key} refers to object {held}, which never was"
                elif not kept.covers(since, until):
                    yield (
                        f"large: {key} refers to object {held} from {since:.3f} to {until}, which was there from "
                        f"{kept.put:.3f} to {kept.gone}"
                    )


def _referred(pool: PoolName, key: str, data: bytes | None) -> Iterator[Held]:
    """What a cell's object must be there for: an agent's content, and the body of a message that waits."""
    if data is None:
        return
    if parse_cell_key(key) is not None:
        reference = cell_reference(data)
        if reference is not None:
            yield pool, reference.name
    elif key.split(".", 2)[1] == "d":
        yield from references([data])


def announced(objects: Mapping[Held, Kept], messages: Iterable[Message]) -> Iterator[str]:
    """A stored message refers to objects that were there before."""
    for message in messages:
        for held in references([message.data]):
            kept = objects.get(held)
            if kept is None or kept.put > message.time:
                yield f"large: {message.subject} {message.sequence} was stored before its object {held}"


def remaining(
    objects: Mapping[Held, Kept], journals: Iterable[tuple[PoolName, Timed]], letters: Iterable[bytes]
) -> Iterator[str]:
    """At the end of all days there are the objects of cells and of dead letters, whole, and no others."""
    needed = set(references(letters))
    for pool, journal in journals:
        newest = {key: cell.data for _, record in journal for key, cell in record.cells.items()}
        needed.update(held for key, data in newest.items() for held in _referred(pool, key, data))
    there = {held for held, kept in objects.items() if kept.gone is None}
    yield from (f"large: object {held} is an orphan, and is still there" for held in sorted(there - needed))
    yield from (f"large: object {held} is needed, and is gone" for held in sorted(needed - there))


def leftovers(server: MemoryServer, pools: Iterable[PoolName], mesh: str) -> Iterator[str]:
    """Whatever is in an object store belongs to an object that is there, which is whole."""
    for pool in pools:
        bucket = MeshNames(mesh).pool(pool).objects
        subjects = server.streams[object_stream(bucket)].contents.by_subject
        names = {name for subject in subjects if (name := described_object(bucket, subject)) is not None}
        for subject in subjects:
            owner = subject.rpartition(".")[2].rpartition("-")[0] if subject.startswith(f"$O.{bucket}.C.") else ""
            if subject.startswith(f"$O.{bucket}.D."):
                owner = subject.split(".")[3]
            if owner and owner not in names:
                yield f"large: {subject} is left of an object that is gone"


def content(objects: Mapping[Held, Kept], pool: PoolName, data: bytes) -> bytes:
    """Return what a cell holds, wherever that is."""
    reference = cell_reference(data)
    if reference is None:
        return data
    kept = objects[pool, reference.name]
    assert kind_of(kept.name) == CELL
    assert hashlib.sha256(kept.data).digest() == reference.digest
    return kept.data
