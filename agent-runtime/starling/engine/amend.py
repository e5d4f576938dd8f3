"""Changes of cells that no turn made: a shard is taken, its cells are committed, and it is free again.

It is the engine's own protocol: the take fences the owner, which takes the shard again once it is free; turns that
ran meanwhile run again. So it works with pods and without, and an old owner can do no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from starling.core import limits
from starling.core.ids import ShardId
from starling.core.names import PoolNames
from starling.core.record import Cell, Kind, Record, Source
from starling.core.replay import Replay
from starling.engine.journal import Journal, last_record, take
from starling.engine.reading import Reading
from starling.errors import RetryLater, TooLarge, Unreachable
from starling.ports.store import Store

log = logging.getLogger(__name__)

_PAUSE: Final = 0.002


async def amend(
    store: Store,
    names: PoolNames,
    shard: ShardId,
    groups: Sequence[Mapping[str, Cell]],
    *,
    incarnation: str,
    who: str,
    seen: Mapping[Source, int] | None = None,
    timeout: float = 20.0,
) -> None:
    """Commit cells over whatever the shard's owner has committed. who: names us in the journal.

    groups: cells by table key; a group is committed whole if it fits into one record. Cells without data are
    destroyed. seen: numbers of frames that count as accepted from now on, for a mailbox that was made anew.
    The shard's pause is about a second. Raises TooLarge before anything is changed, JournalLost, Fenced and
    OutcomeUnknown when somebody took the shard before all was committed (do it again), Unreachable.
    """
    records = _cut(groups) or [{}]
    if not groups and not seen:
        return
    try:
        async with asyncio.timeout(timeout):
            journal, taken = await _take(store, names, shard, who)
    except TimeoutError:
        raise Unreachable(f"shard {shard} of {names.pool} could not be taken within {timeout:g} s") from None
    await store.signal(names.taken(shard), str(journal.last).encode())
    fold = await Reading(store, names, shard).up_to(journal.last, incarnation=incarnation)
    for cells in records:
        await journal.append(_record(Kind.COMMIT, journal, taken, fold, cells, owner=taken.owner, seen=seen or {}))
    await journal.append(_record(Kind.FREE, journal, taken, fold, {}, owner="", seen={}))
    await store.signal(names.free(shard), str(journal.last).encode())
    log.info("shard amended", extra={"shard": shard, "epoch": taken.epoch, "cells": sum(map(len, records))})


async def _take(store: Store, names: PoolNames, shard: ShardId, who: str) -> tuple[Journal, Record]:
    """Take over the owner, who goes on committing: it takes a few tries to come between two of its records."""
    while True:
        over = await last_record(store, names, shard)
        try:
            return await take(store, names, shard, owner=who, map_rev=over[1].map_rev, over=over)
        except RetryLater:
            await asyncio.sleep(_PAUSE)


def _record(
    kind: Kind,
    journal: Journal,
    taken: Record,
    fold: Replay,
    cells: Mapping[str, Cell],
    *,
    owner: str,
    seen: Mapping[Source, int],
) -> Record:
    """A record that changes the cells and leaves all else as it was; the last replies are sent again by who takes."""
    return Record(
        kind=kind,
        previous=journal.last,
        epoch=taken.epoch,
        owner=owner,
        map_rev=taken.map_rev,
        snapshot=fold.snapshot,
        floors=fold.floors,
        done=fold.done,
        seen=seen,
        replies=fold.replies,
        cells=cells,
        owed=kind is Kind.FREE and bool(fold.frames),
    )


def _cut(groups: Sequence[Mapping[str, Cell]]) -> list[dict[str, Cell]]:
    """Gather groups into records of the usual size; a group that is larger gets records of its own."""
    records: list[dict[str, Cell]] = []
    room = 0
    for group in groups:
        size_bytes = sum(_size(key, cell) for key, cell in group.items())
        if size_bytes > room:
            records.append({})
            room = limits.MAX_COMMIT
        for key, cell in group.items():
            one = _size(key, cell)
            if one > limits.MAX_RECORD:
                raise TooLarge(f"cell {key} has {one} bytes, at most {limits.MAX_RECORD} fit into a record")
            if one > room and records[-1]:
                records.append({})
                room = limits.MAX_COMMIT
            records[-1][key] = cell
            room -= one
    return [record for record in records if record]


def _size(key: str, cell: Cell) -> int:
    return len(key) + len(cell.data or b"") + 32
