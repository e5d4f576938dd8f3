"""Committed cells that the table may not have yet, and what is known of the table.

Checked rules: a cell leaves the overlay when the write of its newest version was acknowledged, or was found in
the table; at most one answer is awaited per cell; S, the sequence that a replica must have reached for its answer
to count, is the largest of the mark, our own acknowledged writes and the sequences found equal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgpack

from starling.core import limits
from starling.core.record import Cell, CellRef
from starling.core.reference import MARK, cell_reference
from starling.errors import DecodeError, Fenced


class TableValue(NamedTuple):
    """A cell as the table has it. journal: sequence of the record that made it; data None: destroyed."""

    journal: int
    version: int
    data: bytes | None

    def encode(self) -> bytes:
        return msgpack.packb((limits.WIRE_VERSION, self.journal, self.version, self.data))  # type: ignore[no-any-return]

    @classmethod
    def decode(cls, data: bytes) -> TableValue:
        """Raises DecodeError."""
        try:
            wire, journal, version, value = msgpack.unpackb(data)
        except Exception as error:
            raise DecodeError(f"table value: {error!r}") from error
        if wire > limits.WIRE_VERSION:
            raise DecodeError(f"table value: version {wire} is newer than {limits.WIRE_VERSION}; upgrade this worker")
        return cls(journal, version, value)


MISSING: Final = 0


class Entry:
    """One cell of the overlay: its newest committed version, and whether an answer of the table is awaited.

    since, changed: when it first differed from the table, and when it was last committed (the loop's time).
    """

    __slots__ = ("awaited", "cell", "changed", "journal", "since")

    def __init__(self, journal: int, cell: Cell, now: float) -> None:
        self.journal = journal
        self.cell = cell
        self.awaited = False
        self.since = now
        self.changed = now


class Overlay:
    """The cells of one shard on their way to the table."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.known: dict[str, int] = {}
        """Sequence of the last message that the table has of a cell, MISSING: none; last heard of, last."""
        self.mark = 0
        """Sequence of our mark in the table."""
        self.newest = 0
        """Sequence of the newest record of ours: the table cannot have a version beyond it. 0: not known."""
        self.reached = 0
        """S: what a replica must have seen for its answer to count."""
        self._objects: dict[str, dict[int, str]] = {}
        """Of cells whose content is in the object store: journal sequence to object, for versions not yet replaced."""
        self.gone: deque[str] = deque()
        """Objects of cells whose successor the table has acknowledged: nothing needs them any more."""

    def commit(self, key: str, journal: int, cell: Cell, now: float) -> None:
        """Note a committed version; newest last."""
        entry = self.entries.pop(key, None)
        if entry is None:
            entry = Entry(journal, cell, now)
        else:
            entry.journal, entry.cell, entry.changed = journal, cell, now
        self.entries[key] = entry
        if cell.data is not None and cell.data.startswith(MARK):
            self._holds(key, journal, cell.data)

    def _holds(self, key: str, journal: int, data: bytes) -> None:
        reference = cell_reference(data)
        if reference is not None:
            self._objects.setdefault(key, {})[journal] = reference.name

    def _replaced(self, key: str, journal: int) -> None:
        """The table has this version of a cell: the objects of older ones are needed no more."""
        held = self._objects.get(key)
        if held is None:
            return
        for older in [version for version in held if version < journal]:
            self.gone.append(held.pop(older))
        if not held:
            del self._objects[key]

    def forget(self) -> None:
        """Forget cells that are in the table, those last heard of longest ago, beyond a bound; they are read before a
        write."""
        excess = len(self.known) - len(self.entries) - limits.KNOWN_CELLS
        if excess > 0:
            for key in [key for key in self.known if key not in self.entries][: excess + limits.KNOWN_CELLS // 4]:
                del self.known[key]
                self._objects.pop(key, None)  # read again before the next write

    def _heard(self, key: str, revision: int) -> None:
        self.known.pop(key, None)
        self.known[key] = revision

    def drop(self, key: str, journal: int, now: float) -> None:
        """Note that a cell whose key never comes back was removed.

        What the table has never heard of it need not hear of now; otherwise it gets a tombstone.
        """
        entry = self.entries.get(key)
        if entry is not None and not entry.awaited and key not in self.known:
            del self.entries[key]
            self._replaced(key, journal)
        elif entry is not None or key in self.known:
            self.commit(key, journal, Cell(0, None), now)

    def marked(self, sequence: int) -> None:
        """Note that our mark was stored."""
        self.mark = sequence
        self.reached = max(self.reached, sequence)

    def found(self, key: str, revision: int, value: TableValue | None) -> None:
        """Note what a counting read says of a cell. Raises Fenced when the table is ahead of what we committed."""
        entry = self.entries.get(key)
        ours = entry.journal if entry is not None else self.newest
        if value is not None and ours and value.journal > ours:
            raise Fenced(f"the table has version {value.journal} of {key}, we have {ours}")
        self._heard(key, revision)
        if value is not None and value.data is not None and value.data.startswith(MARK):
            self._holds(key, value.journal, value.data)
        if entry is None or value is None:
            return
        if value.journal == entry.journal:
            del self.entries[key]
            self.reached = max(self.reached, revision)
            self._replaced(key, value.journal)

    def acknowledged(self, key: str, journal: int, revision: int) -> None:
        """Note that our write of version `journal` was stored at `revision`."""
        self._heard(key, revision)
        self.reached = max(self.reached, revision)
        entry = self.entries.get(key)
        if entry is not None:
            entry.awaited = False
            self._replaced(key, journal)
            if entry.journal == journal:
                del self.entries[key]
            else:
                entry.since = entry.changed

    def unanswered(self, key: str, *, forget: bool) -> None:
        """Note that a write had no answer or was refused; forget: what we knew of the table is not true any more."""
        if forget:
            self.known.pop(key, None)
        entry = self.entries.get(key)
        if entry is not None:
            entry.awaited = False

    def due(self, now: float, *, quiet: float, patience: float) -> Iterator[tuple[str, Entry]]:
        """Cells to write now, oldest version first: unchanged for `quiet` seconds, or waiting for `patience` seconds.

        So a hot agent costs one write every `patience` seconds, however often it is committed.
        """
        for key, entry in self.entries.items():
            if not entry.awaited and (now - entry.changed >= quiet or now - entry.since >= patience):
                yield key, entry

    def refs(self) -> Iterable[CellRef]:
        """References to all versions that the table may not have."""
        return [CellRef(entry.journal, key) for key, entry in self.entries.items()]

    def oldest(self) -> int | None:
        """Journal sequence of the oldest version that the table may not have."""
        return next((entry.journal for entry in self.entries.values()), None)


def purge_bound(*, own_last: int, snapshot: int, needed: Iterable[int | None]) -> int:
    """Return the sequence below which no journal record is needed; acknowledged facts only.

    own_last: our last acknowledged record; snapshot: the newest acknowledged one, 0 for none; needed: the oldest
    records that hold a cell, a change of a bucket or a frame that is nowhere else yet; None for none.
    """
    if not snapshot:
        return 0
    return min(own_last, snapshot, *(sequence for sequence in needed if sequence is not None))
