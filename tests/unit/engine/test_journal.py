"""The journal in its owner's hands: one owner at a time can append, and whoever takes reads what was committed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starling.adapters.memory import MemoryServer, MemoryStore, Trip, Weather
from starling.core.ids import PoolName, ShardId
from starling.core.names import MeshNames
from starling.core.record import Cell, Kind, Record, born
from starling.core.replay import Replay
from starling.engine.journal import Journal, last_record, take
from starling.engine.reading import Reading
from starling.errors import Fenced, JournalLost, OutcomeUnknown, RetryLater, TooLarge, Unreachable
from starling.ports.store import Message, StreamSpec

NAMES = MeshNames("m").pool(PoolName("p"))
SHARD = ShardId(0)
SUBJECT = NAMES.journal_subject(SHARD)
SPEC = StreamSpec(NAMES.journal(SHARD), (SUBJECT,))


async def journal_of(server: MemoryServer) -> MemoryStore:
    """Make the journal with its first record; return a connection."""
    store = server.connect("admin")
    await store.ensure_stream(SPEC)
    await (await store.publish(SUBJECT, born("inc").encode()))
    return store


async def taken(store: MemoryStore, owner: str, map_rev: int = 1) -> tuple[Journal, Record]:
    over = await last_record(store, NAMES, SHARD)
    return await take(store, NAMES, SHARD, owner=owner, map_rev=map_rev, over=over)


def commit(journal: Journal, epoch: int, text: bytes = b"x") -> Record:
    return Record(kind=Kind.COMMIT, previous=journal.last, epoch=epoch, cells={"k": Cell(1, text)})


async def records(store: MemoryStore) -> list[Record]:
    return [Record.decode(message.data) for message in await store.page(NAMES.journal(SHARD), SUBJECT, 1)]


async def test_a_take_is_the_next_epoch_over_the_last_record() -> None:
    store = await journal_of(MemoryServer())
    journal, record = await taken(store, "p-0/a", map_rev=7)
    assert (record.kind, record.epoch, record.owner, record.map_rev, record.barren) == (Kind.TAKE, 1, "p-0/a", 7, 1)
    assert journal.last == 2
    _, again = await taken(store, "p-1/b", map_rev=3)
    assert (again.epoch, again.map_rev, again.barren) == (2, 7, 2)


async def test_a_stale_owner_cannot_append_whatever_it_believes() -> None:
    store = await journal_of(MemoryServer())
    old, _ = await taken(store, "p-0/a")
    await old.append(commit(old, 1, b"one"))
    new, _ = await taken(store, "p-1/b")
    with pytest.raises(Fenced):
        await old.append(commit(old, 1, b"late"))
    await new.append(commit(new, 2, b"two"))
    assert [r.cells["k"].data for r in await records(store) if r.cells] == [b"one", b"two"]
    assert await new.is_ours()
    assert not await old.is_ours()


async def test_of_two_that_take_over_the_same_record_one_succeeds() -> None:
    server = MemoryServer()
    store = await journal_of(server)
    over = await last_record(store, NAMES, SHARD)

    async def attempt(name: str) -> str:
        try:
            await take(server.connect(name), NAMES, SHARD, owner=f"{name}/s", map_rev=1, over=over)
        except RetryLater:
            return "later"
        return "taken"

    assert sorted(await asyncio.gather(*(attempt(f"p-{n}") for n in range(5)))) == [*["later"] * 4, "taken"]
    assert [record.epoch for record in await records(store)] == [0, 1]


class Losing(Weather):
    """Loses messages, or only their answers."""

    def __init__(self) -> None:
        self.trips: list[Trip] = []

    def publish(self, client: str, subject: str) -> Trip:
        return self.trips.pop(0) if self.trips else Trip()


@pytest.mark.parametrize("arrives", [None, 0.0], ids=["lost", "answer-lost"])
async def test_after_a_record_of_unknown_outcome_nothing_more_is_appended(arrives: float | None) -> None:
    weather = Losing()
    store = await journal_of(MemoryServer(weather=weather))
    journal, _ = await taken(store, "p-0/a")
    loop = asyncio.get_running_loop()
    time, offset = loop.time, 0.0
    loop.time = lambda: time() + offset  # type: ignore[method-assign]
    weather.trips = [Trip(arrives, None)]
    appending = asyncio.ensure_future(journal.append(commit(journal, 1)))
    while not appending.done():
        offset += 0.5
        await asyncio.sleep(0)
    with pytest.raises(OutcomeUnknown):
        await appending
    with pytest.raises(OutcomeUnknown, match="the record before this one"):
        await journal.append(commit(journal, 1))
    assert len(await records(store)) == (2 if arrives is None else 3)


async def test_what_the_store_says_becomes_the_error_that_tells_what_to_do() -> None:
    server = MemoryServer()
    store = await journal_of(server)
    journal, _ = await taken(store, "p-0/a")
    with pytest.raises(TooLarge, match="refused a record"):
        await journal.append(commit(journal, 1, b"x" * 2_000_000))
    journal, _ = await taken(store, "p-0/a")
    store.cut()
    with pytest.raises(Unreachable):
        await journal.append(commit(journal, 2))
    store.mend()
    journal, _ = await taken(store, "p-0/a")
    await store.delete_stream(NAMES.journal(SHARD))
    with pytest.raises(JournalLost, match="there is no stream"):
        await journal.append(commit(journal, 3))
    with pytest.raises(JournalLost, match="there is no stream"):
        await last_record(store, NAMES, SHARD)
    await store.ensure_stream(SPEC)
    with pytest.raises(JournalLost, match="is empty"):
        await last_record(store, NAMES, SHARD)


async def test_a_replay_is_the_fold_of_all_records_up_to_the_own_one() -> None:
    store = await journal_of(MemoryServer())
    journal, _ = await taken(store, "p-0/a")
    for number in range(1500):  # more than a page
        await journal.append(commit(journal, 1, b"%d" % number))
    own, _ = await taken(store, "p-1/b")
    fold = await Reading(store, NAMES, SHARD).up_to(own.last, incarnation="inc")
    assert fold.overlay == {"k": (own.last - 1, Cell(1, b"1499"))}
    assert (fold.last, fold.owner, fold.records) == (own.last, "p-1/b", 1503)


async def test_a_replay_ends_when_a_later_owner_has_purged_our_record() -> None:
    store = await journal_of(MemoryServer())
    old, _ = await taken(store, "p-0/a")
    new, _ = await taken(store, "p-1/b")
    await new.append(Record(kind=Kind.SNAPSHOT, previous=new.last, epoch=2, incarnation="inc"))
    await new.purge(below=new.last)
    with pytest.raises(Fenced, match=r"our take at 2 is gone"):
        await Reading(store, NAMES, SHARD).up_to(old.last, incarnation="inc")


async def test_a_replay_ends_when_a_later_owner_has_purged_what_it_had_still_to_read() -> None:
    """Its snapshot lies behind our take, which is still there: nothing is lost, we only came late."""
    store = await journal_of(MemoryServer())
    old, _ = await taken(store, "p-0/a")
    new, _ = await taken(store, "p-1/b")
    await new.append(Record(kind=Kind.SNAPSHOT, previous=new.last, epoch=2, incarnation="inc"))
    await new.purge(below=old.last)
    with pytest.raises(Fenced, match="somebody took it over after our take at 2, and purged"):
        await Reading(store, NAMES, SHARD).up_to(old.last, incarnation="inc")


async def test_a_replay_of_another_incarnation_is_refused() -> None:
    store = await journal_of(MemoryServer())
    own, _ = await taken(store, "p-0/a")
    with pytest.raises(JournalLost, match="'another'"):
        await Reading(store, NAMES, SHARD).up_to(own.last, incarnation="another")


async def test_a_record_of_ours_that_is_under_way_is_not_taken_for_somebody_elses() -> None:
    weather = Losing()
    server = MemoryServer(weather=weather)
    store = await journal_of(server)
    ours, _ = await taken(store, "p-0/a")
    weather.trips = [Trip(0.0, 0.2)]
    answer = asyncio.ensure_future(ours.send(commit(ours, 1)))
    async with asyncio.timeout(10):
        while len(await records(store)) < 3:
            await asyncio.sleep(0.001)
    assert not answer.done()
    assert await ours.is_current()
    ours.ended(await answer)
    assert await ours.is_current()
    await taken(server.connect("other"), "p-1/b")
    assert not await ours.is_current()
    with pytest.raises(Fenced):  # and one that is under way then hears so itself
        await ours.append(commit(ours, 1))


class Behind(Weather):
    """Reads come from a follower that lags by so many changes."""

    def __init__(self) -> None:
        self.behind: list[int] = []

    def replica(self, client: str, stream: str) -> tuple[int, int] | None:
        return (0, self.behind.pop(0)) if self.behind else None


async def test_a_replica_that_lags_hides_neither_the_first_record_nor_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    weather = Behind()
    store = await journal_of(MemoryServer(weather=weather))
    weather.behind = [1]
    with pytest.raises(Unreachable, match="has no record yet"):
        await last_record(store, NAMES, SHARD)
    own, _ = await taken(store, "p-0/a")
    real = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: real(0))
    weather.behind = [1, 1, 0]
    assert (await Reading(store, NAMES, SHARD).up_to(own.last, incarnation="inc")).last == own.last


async def read_at_once(store: MemoryStore, own: int) -> Replay:
    return await Reading(store, NAMES, SHARD).up_to(own, incarnation="inc")


async def test_after_reading_ahead_only_what_came_since_is_read_and_it_says_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = await journal_of(MemoryServer())
    journal, _ = await taken(store, "p-0/a")
    for number in range(100):
        await journal.append(commit(journal, 1, b"%d" % number))
    reading = Reading(store, NAMES, SHARD)
    await reading.ahead()
    for number in range(10):
        await journal.append(commit(journal, 1, b"later %d" % number))
    await reading.ahead()
    read_to = journal.last
    await journal.append(commit(journal, 1, b"newest"))
    own, _ = await taken(store, "p-1/b")
    asked: list[int] = []
    page = store.page

    async def seen(stream: str, subject: str, first: int) -> Sequence[Message]:
        asked.append(first)
        return await page(stream, subject, first)

    monkeypatch.setattr(store, "page", seen)
    fold = await reading.up_to(own.last, incarnation="inc")
    assert asked == [read_to]
    assert vars(fold) == vars(await read_at_once(store, own.last))
    assert fold.overlay == {"k": (own.last - 1, Cell(1, b"newest"))}


async def test_what_was_read_ahead_and_purged_since_is_read_anew() -> None:
    store = await journal_of(MemoryServer())
    journal, _ = await taken(store, "p-0/a")
    await journal.append(commit(journal, 1, b"old"))
    reading = Reading(store, NAMES, SHARD)
    await reading.ahead()
    await journal.append(Record(kind=Kind.COMMIT, previous=journal.last, epoch=1, cells={"k": Cell(1, b"new")}))
    await journal.append(Record(kind=Kind.SNAPSHOT, previous=journal.last, epoch=1, incarnation="inc"))
    await journal.purge(below=journal.last)
    own, _ = await taken(store, "p-1/b")
    fold = await reading.up_to(own.last, incarnation="inc")
    assert fold.overlay == {}, "the table has it: the snapshot names no cell"
    assert vars(fold) == vars(await read_at_once(store, own.last))


@pytest.mark.parametrize("records_since", [0, 1, 5])
async def test_what_was_read_ahead_of_a_journal_that_was_made_anew_since_counts_for_nothing(records_since: int) -> None:
    """Its records have the same sequences, and each names the one before it: only their contents tell."""
    store = await journal_of(MemoryServer())
    journal, _ = await taken(store, "p-0/a")
    await journal.append(commit(journal, 1, b"of the journal before"))
    reading = Reading(store, NAMES, SHARD)
    await reading.ahead()
    await store.delete_stream(NAMES.journal(SHARD))
    await store.ensure_stream(SPEC)
    await (await store.publish(SUBJECT, born("inc").encode()))
    again, _ = await taken(store, "p-0/a")
    for _ in range(records_since):
        await again.append(Record(kind=Kind.COMMIT, previous=again.last, epoch=1))
    own, _ = await taken(store, "p-1/b")
    fold = await reading.up_to(own.last, incarnation="inc")
    assert fold.overlay == {}
    assert vars(fold) == vars(await read_at_once(store, own.last))
