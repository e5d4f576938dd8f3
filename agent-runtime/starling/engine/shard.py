"""A shard in the hands of its owner: from the take record to the release."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from starling.core import limits
from starling.core.due import DueIndex
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, Epoch, ShardId
from starling.core.names import INLETS, Inlet, Lane, Origin
from starling.core.outbox import Outbox
from starling.core.overlay import Overlay
from starling.core.positions import Position
from starling.core.record import Record
from starling.core.replay import Replay
from starling.engine.agenda import Agenda
from starling.engine.answers import Answers
from starling.engine.calls import Calls
from starling.engine.commit import Committer
from starling.engine.dead import unreadable
from starling.engine.deliver import Delivery
from starling.engine.faults import Point
from starling.engine.hand_off import hold_when_short
from starling.engine.intake import Intake, positions_of
from starling.engine.janitor import Janitor
from starling.engine.journal import Journal, take
from starling.engine.large import LargeValues
from starling.engine.missed import Missed
from starling.engine.objects import Objects
from starling.engine.overdue import Overdue
from starling.engine.passivation import Passivation
from starling.engine.queries import Queries
from starling.engine.reading import Reading
from starling.engine.records import Records
from starling.engine.repairs import CELLS, REPAIR, Repairs
from starling.engine.routes_view import RoutesView
from starling.engine.shard_info import Owner, PoolSettings, ShardStats
from starling.engine.sweep import Sweep
from starling.engine.table import Table, last_mark
from starling.engine.turns import Turns
from starling.engine.work import Outcome, Work
from starling.errors import DecodeError, MailboxLost
from starling.ports.store import Signal, Store, Subscription

log = logging.getLogger(__name__)

FORCED_GRACE: Final = 0.2
"""Seconds that turns have to end, and frames to be delivered, when a pod ends at once."""


class OwnedShard:
    """One shard that this process has taken. Make it with `OwnedShard.take`, then `run` it once."""

    def __init__(
        self,
        store: Store,
        settings: PoolSettings,
        shard: ShardId,
        *,
        owner: Owner,
        journal: Journal,
        taken: Record,
        fold: Replay,
        fresh_after: int,
        routes: RoutesView,
        calls: Calls,
        passivation: Passivation | None = None,
    ) -> None:
        self.shard = shard
        self.epoch = Epoch(taken.epoch)
        self.map_rev = taken.map_rev
        self.stats = ShardStats()
        self._store = store
        self._settings = settings
        self._names = settings.names
        self._clock = asyncio.get_running_loop().time  # to ask for the running loop is a system call
        self._journal = journal
        self._fold = fold
        self._release = asyncio.Event()
        self._at_once = False
        self.serving = asyncio.Event()
        """Set once turns may run."""
        self._overlay = Overlay()
        self._outbox = Outbox()
        self._due = DueIndex()
        self.table = Table(store, self._names, shard, self.epoch, self._overlay, self._due, journal, settings.passed)
        objects = Objects(store, settings.mesh, routes)
        self._large = LargeValues(objects, settings, shard, table=self.table, overlay=self._overlay)
        self._answers = Answers(store)
        self._turns = Turns(
            settings,
            shard,
            routes,
            calls,
            self.stats,
            self._large,
            self._due,
            self._large,
            passivation=passivation,
            answers=self._answers,
            stream_time=fold.time,
            careful=fold.barren >= limits.CAREFUL_FROM,
        )
        repairs = Repairs(shard, self._turns)
        self._queries = Queries(
            shard,
            self.epoch,
            settings,
            self._turns,
            self._answers,
            stats=self.stats,
            is_current=self._knows_itself,
            special={CELLS: repairs.cells, REPAIR: repairs.repair},
        )
        self._agenda = Agenda(
            settings, self._due, self._turns, self.table, outbox_bytes=lambda: self._outbox.size_bytes
        )
        seen = dict(fold.seen)
        self._intakes = {
            inlet: Intake(
                store,
                settings,
                shard,
                inlet,
                positions=positions_of(fold.floors.get(inlet, 0), fold.done.get(inlet)),
                seen=seen,
                turns=self._turns,
                stats=self.stats,
                unreadable=self._unreadable,
                fresh_after=fresh_after,
            )
            for inlet in INLETS
        }
        self._delivery = Delivery(store, settings, f"{fold.incarnation}.{shard}", self._outbox, self.stats)
        records = Records(
            settings,
            shard,
            journal=journal,
            epoch=self.epoch,
            owner=str(owner),
            map_rev=taken.map_rev,
            replay=fold,
            turns=self._turns,
            intakes=self._intakes,
            outbox=self._outbox,
            overlay=self._overlay,
            delivery=self._delivery,
            due=self._due,
        )
        self._committer = Committer(
            store,
            settings,
            journal=journal,
            records=records,
            replay=fold,
            turns=self._turns,
            intakes=self._intakes,
            outbox=self._outbox,
            overlay=self._overlay,
            delivery=self._delivery,
            due=self._due,
            large=self._large,
            stats=self.stats,
        )
        self._missed = Missed(self._committer.sent_replies, self._answers)
        self._sweep = Sweep(
            store,
            settings,
            shard,
            objects,
            outbox=self._outbox,
            due=self._due,
            table=self.table,
            overlay=self._overlay,
            floors=lambda: self._committer.committed_floors,
        )
        self._overdue = Overdue(self._turns.calling, self.stats, settings.wall)
        self._turns.on_ended = self._committer.begin
        self._committer.on_due = self._agenda.committed
        self.table.on_round = self._delivery.on_room = self._committer.pace
        self._janitor = Janitor(
            store,
            settings,
            shard,
            journal=journal,
            committer=self._committer,
            oldest=self._oldest_needed,
        )

    @classmethod
    async def take(
        cls,
        store: Store,
        settings: PoolSettings,
        shard: ShardId,
        *,
        owner: Owner,
        map_rev: int,
        over: tuple[int, Record],
        routes: RoutesView,
        calls: Calls,
        passivation: Passivation | None = None,
        reading: Reading | None = None,
    ) -> OwnedShard:
        """Take the shard over its last record as it was read, read the journal, and write the mark.

        reading: what is read of the journal already; it is ours from here on.

        Raises RetryLater when somebody else was faster or nobody can say (decide again from a fresh read), Fenced when
        a later owner came, JournalLost, MailboxLost.
        """
        journal, taken = await take(
            store,
            settings.names,
            shard,
            owner=str(owner),
            map_rev=map_rev,
            over=over,
            passed=settings.passed,
        )
        await store.signal(settings.names.taken(shard), str(journal.last).encode())
        reading = reading or Reading(store, settings.names, shard)
        async with asyncio.TaskGroup() as tasks:  # all of it after our take; each costs a round trip
            reads = tasks.create_task(reading.up_to(journal.last, incarnation=settings.incarnation))
            ends = tasks.create_task(_mailbox_end(store, settings.names.mailbox(shard)))
            marks = tasks.create_task(last_mark(store, settings.names, shard))
        fold = reads.result()
        fresh_after = _mailbox_of(fold, settings.names.mailbox(shard), ends.result())
        self = cls(
            store,
            settings,
            shard,
            owner=owner,
            journal=journal,
            taken=taken,
            fold=fold,
            fresh_after=fresh_after,
            routes=routes,
            calls=calls,
            passivation=passivation,
        )
        now = asyncio.get_running_loop().time()
        for key, (sequence, cell) in sorted(fold.overlay.items(), key=lambda item: item[1][0]):
            self._overlay.commit(key, sequence, cell, now)
        for ref, frame in fold.frames.items():
            self._outbox.add(frame, ref)
        await self.table.mark(marks.result())
        if fold.due_buckets:
            self._due.restore(await self.table.read_buckets(sorted(fold.due_buckets)), fold.due_changes)
            self._agenda.restore()
        log.info("shard taken", extra={"shard": shard, "epoch": self.epoch, "records": fold.records})
        return self

    def _oldest_needed(self) -> tuple[int | None, ...]:
        """Sequences of the oldest records that hold what is nowhere else yet."""
        return self._overlay.oldest(), self._due.oldest_change(), self._outbox.oldest_record()

    async def run(self) -> None:
        """Serve until released (returns) or cancelled.

        Raises an ExceptionGroup of Fenced (drop everything, do not take again by the same right),
        OutcomeUnknown or Unreachable (drop everything; it may be taken again).
        """
        for reply in self._fold.replies:
            self._committer.sent_replies.keep(reply.subject, reply.body)
            await self._store.signal(reply.subject, reply.body)
        cancels = await self._store.listen(self._names.cancel(self.shard), self._heard_cancel)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._delivery.offer_all()
                jobs = [
                    tasks.create_task(intake.run(), name=f"intake {inlet} of shard {self.shard}")
                    for inlet, intake in self._intakes.items()
                ]
                keep = [
                    tasks.create_task(job, name=f"{name} of shard {self.shard}")
                    for name, job in (
                        ("loading", self._turns.load()),
                        ("turns", self._turns.run()),
                        ("commits", self._committer.run()),
                        ("queries", self._answer()),
                        ("delivery", self._delivery.run()),
                        ("table", self.table.write_behind()),
                        ("due records", self._agenda.run()),
                        ("purge", self._janitor.run()),
                        ("large objects", self._large.run()),
                        ("sweep", self._sweep.run()),
                        ("overdue turns", self._overdue.run()),
                        ("missed replies", self._missed.run()),
                    )
                ]
                self.serving.set()
                await self._release.wait()
                await self._hand_off(jobs, keep)
        finally:
            self.serving.clear()
            await self._turns.cancel()
            await cancels.close()
            await self._turns.close()

    async def _answer(self) -> None:
        """Answer queries, and callers that have missed their replies, until cancelled."""
        listening: list[Subscription] = []
        try:
            listening.append(await self._store.listen(self._names.queries(self.shard), self._queries.heard))
            listening.append(await self._store.listen(self._names.again(self.shard), self._missed.heard))
            await self._answers.run()
        finally:
            for heard in listening:
                await heard.close()
            await self._queries.close()
            await self._answers.flush()

    def _knows_itself(self) -> bool:
        """Whether we were told lately that we are the owner."""
        return self._clock() - self._journal.confirmed <= limits.MEMBER_TTL

    def _heard_cancel(self, signal: Signal) -> None:
        self._turns.cancel_call(signal.data.decode(errors="replace"))

    def release(self, *, at_once: bool = False) -> None:
        """Ask for the hand-off; `run` returns when it is done.

        at_once: turns that run are cancelled nearly at once, they run again elsewhere; what is not delivered yet the
        next owner delivers.
        """
        self._at_once = at_once
        self._release.set()

    async def _hand_off(self, intakes: list[asyncio.Task[None]], others: list[asyncio.Task[None]]) -> None:
        """Go on while turns are long, stop intake, let turns end, commit, deliver, and free the shard."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + (0.0 if self._at_once else self._settings.move_wait)
        await hold_when_short(self._turns, patience)
        self._turns.stop()
        for job in intakes:
            job.cancel()
        await self._turns.wait_idle(FORCED_GRACE if self._at_once else limits.TURN_END_GRACE)
        await self._turns.cancel()
        commits = others[2]
        while self._turns.outcomes and not commits.done():
            self._committer.committed.clear()
            await self._committer.committed.wait()
        end = loop.time() + (FORCED_GRACE if self._at_once else limits.RELEASE_DELIVERY)
        while self._outbox.frames and loop.time() < end:
            self._delivery.progress.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._delivery.progress.wait()
            except TimeoutError:
                break
        await self._committer.between_records()
        for job in others:
            job.cancel()
        await self._committer.free()
        self._settings.passed(Point.RELEASED)
        await self._store.signal(self._names.free(self.shard), str(self._journal.last).encode())
        log.info("shard released", extra={"shard": self.shard, "epoch": self.epoch})

    async def is_current(self) -> bool:
        """Whether the journal's last record is still ours, as some replica has it; an idle stale owner learns it here.

        Raises Unreachable.
        """
        return await self._journal.is_current()

    @property
    def journal_last(self) -> int:
        """Sequence of our last acknowledged record."""
        return self._journal.last

    @property
    def oldest(self) -> dict[Inlet, float]:
        """When the oldest message that is not finished was stored, seconds since 1970, by inlet; 0 without any."""
        return {inlet: intake.oldest for inlet, intake in self._intakes.items()}

    @property
    def lags(self) -> dict[Inlet, int]:
        """Messages that are not finished, by inlet."""
        return {inlet: intake.lag for inlet, intake in self._intakes.items()}

    @property
    def parked(self) -> Collection[AgentId]:
        """Agents whose state does not load."""
        return self._turns.residents.parked.keys()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits: all that was stored is handled, committed and delivered."""
        return (
            self.serving.is_set()
            and all(intake.is_idle for intake in self._intakes.values())
            and self._turns.is_idle
            and not self._outbox.frames
            and not self._committer.has_work
            and not self._committer.is_storing
        )

    @property
    def is_settled(self) -> bool:
        """Whether all that was stored is read, and handled and committed as far as it can be now."""
        return (
            self.serving.is_set()
            and all(intake.has_read_all for intake in self._intakes.values())
            and self._turns.is_settled
            and not self._committer.is_storing
            and not self._outbox.frames
        )

    @property
    def turns(self) -> Turns | None:
        """Its turns while they may run."""
        return self._turns if self.serving.is_set() else None

    @property
    def has_read_all(self) -> bool:
        """Whether all that was stored from outside is read."""
        return all(intake.has_read_all for inlet, intake in self._intakes.items() if inlet.origin is Origin.OUTSIDE)

    def has_read(self, lane: Lane, sequence: int) -> bool:
        """Whether a message from outside is read: it waits for its turn, or has had it."""
        return self._intakes[Inlet(Origin.OUTSIDE, lane)].read_to >= sequence

    async def recorded(self) -> None:
        """Wait until the turns of all calls that were answered are in a record."""
        while self._turns.unrecorded:
            self._committer.committed.clear()
            await self._committer.committed.wait()

    async def state(self, agent: AgentId) -> bytes | None:
        """Return the agent's state after its last good turn, encoded; None when it has none yet."""
        if (data := self._turns.state_of(agent)) is not None:
            return data
        key = self._turns.key_of(agent)
        cell = (await self._large.read([key]))[key]
        return cell.data if cell else None

    def _unreadable(self, inlet: Inlet, position: Position, index: int, raw: bytes, error: DecodeError) -> None:
        """Bytes that are no envelope are a failed turn of nobody: they become a dead letter."""
        where = f"{self._names.mailbox(self.shard)}-{position.sequence}-{index}"
        blank = Envelope(id=where, type="", body=b"", target=_NOBODY)
        outcome = Outcome(Work(blank, inlet, position, index, 0, 0.0, lane=inlet.lane))
        outcome.dead = unreadable(raw, error, where=where, now=self._settings.wall())
        outcome.size_bytes += len(raw) + 256
        self.stats.dead_letters["DecodeError"] += 1
        log.warning("message cannot be read", extra={"shard": self.shard, "position": position.sequence})
        self._turns.add(outcome)


async def _mailbox_end(store: Store, mailbox: str) -> int | None:
    """Return the mailbox's last position, None when there is no such mailbox."""
    info = await store.stream_info(mailbox)
    return None if info is None else info.last_sequence


def _mailbox_of(fold: Replay, mailbox: str, end: int | None) -> int:
    """Return the end of the mailbox. Raises MailboxLost when it is another mailbox than the journal's."""
    floor = max(fold.floors.values(), default=0)
    if end is None:
        raise MailboxLost(f"there is no stream {mailbox}: restore it, or use `starling repair shard`")
    if end < floor:
        raise MailboxLost(
            f"{mailbox} ends at {end}, but {floor} was handled: restore it, or use `starling repair shard`"
        )
    return end


_NOBODY = AgentId("nobody", "nobody")
