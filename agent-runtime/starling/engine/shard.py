"""A shard in the hands of its owner: from the take record to the release."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from starling.core import limits
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, Epoch, ShardId
from starling.core.names import INLETS, Inlet
from starling.core.outbox import Outbox
from starling.core.overlay import Overlay
from starling.core.positions import Position
from starling.core.record import Record
from starling.core.replay import Replay
from starling.engine.calls import Calls
from starling.engine.commit import Committer
from starling.engine.dead import unreadable
from starling.engine.deliver import Delivery
from starling.engine.faults import Point
from starling.engine.intake import Intake, positions_of
from starling.engine.janitor import Janitor
from starling.engine.journal import Journal, replay, take
from starling.engine.routes_view import RoutesView
from starling.engine.shard_info import Owner, PoolSettings, ShardStats
from starling.engine.table import Table
from starling.engine.turns import Outcome, Turns, Work
from starling.errors import DecodeError, Fenced
from starling.ports.store import Store

log = logging.getLogger(__name__)

SHORT_TURN: Final = 1.0


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
        routes: RoutesView,
        calls: Calls,
    ) -> None:
        self.shard = shard
        self.epoch = Epoch(taken.epoch)
        self.map_rev = taken.map_rev
        self.stats = ShardStats()
        self._store = store
        self._settings = settings
        self._names = settings.names
        self._journal = journal
        self._fold = fold
        self._release = asyncio.Event()
        self.serving = asyncio.Event()
        """Set once turns may run."""
        self._overlay = Overlay()
        self._overlay.newest = journal.last
        self._outbox = Outbox()
        self.table = Table(store, self._names, shard, self.epoch, self._overlay, journal, settings.passed)
        self._turns = Turns(settings, shard, routes, calls, self.stats, self.table)
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
            )
            for inlet in INLETS
        }
        self._delivery = Delivery(store, settings, f"{fold.incarnation}.{shard}", self._outbox, self.stats)
        self._committer = Committer(
            store,
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
            stats=self.stats,
        )
        self._janitor = Janitor(
            store,
            settings,
            shard,
            journal=journal,
            committer=self._committer,
            oldest=lambda: (self._overlay.oldest(), self._outbox.oldest_record()),
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
    ) -> OwnedShard:
        """Take the shard over its last record as it was read, read the journal, and write the mark.

        Raises Fenced when somebody else was faster or came later, OutcomeUnknown or Unreachable (decide again
        from a fresh read), JournalLost.
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
        fold = await replay(store, settings.names, shard, own=journal.last, incarnation=settings.incarnation)
        self = cls(
            store,
            settings,
            shard,
            owner=owner,
            journal=journal,
            taken=taken,
            fold=fold,
            routes=routes,
            calls=calls,
        )
        now = asyncio.get_running_loop().time()
        for key, (sequence, cell) in sorted(fold.overlay.items(), key=lambda item: item[1][0]):
            self._overlay.commit(key, sequence, cell, now)
        for ref, frame in fold.frames.items():
            self._outbox.add(frame, ref)
        await self.table.mark()
        await self._check_mailbox()
        log.info("shard taken", extra={"shard": shard, "epoch": self.epoch, "records": fold.records})
        return self

    async def _check_mailbox(self) -> None:
        info = await self._store.stream_info(self._names.mailbox(self.shard))
        floor = max(self._fold.floors.values(), default=0)
        if info is None or info.last_sequence < floor:
            raise Fenced(f"mailbox {self._names.mailbox(self.shard)} is not the one that floor {floor} speaks of")

    async def run(self) -> None:
        """Serve until released (returns) or cancelled.

        Raises an ExceptionGroup of Fenced (drop everything, do not take again by the same right),
        OutcomeUnknown or Unreachable (drop everything; it may be taken again).
        """
        for reply in self._fold.replies:
            await self._store.signal(reply.subject, reply.body)
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
                        ("delivery", self._delivery.run()),
                        ("table", self.table.write_behind()),
                        ("purge", self._janitor.run()),
                    )
                ]
                self.serving.set()
                await self._release.wait()
                await self._hand_off(jobs, keep)
        finally:
            self.serving.clear()
            await self._turns.cancel()

    def release(self) -> None:
        """Ask for the hand-off; `run` returns when it is done."""
        self._release.set()

    async def _hand_off(self, intakes: list[asyncio.Task[None]], others: list[asyncio.Task[None]]) -> None:
        """Go on until turns are short, stop intake, let turns end, commit, deliver, and free the shard."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + self._settings.move_wait
        while self._turns.oldest_turn(loop.time()) > SHORT_TURN and loop.time() < patience:
            await asyncio.sleep(0.05)
        self._turns.stop()
        for job in intakes:
            job.cancel()
        await self._turns.wait_idle(limits.TURN_END_GRACE)
        await self._turns.cancel()
        commits = others[2]
        while self._turns.outcomes and not commits.done():
            self._committer.committed.clear()
            await self._committer.committed.wait()
        end = loop.time() + limits.RELEASE_DELIVERY
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
        return await self._journal.latest() <= self._journal.last

    @property
    def journal_last(self) -> int:
        """Sequence of our last acknowledged record."""
        return self._journal.last

    @property
    def lags(self) -> dict[Inlet, int]:
        """Messages that are not finished, by inlet."""
        return {inlet: intake.lag for inlet, intake in self._intakes.items()}

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits: all that was stored is handled, committed and delivered."""
        return (
            self.serving.is_set()
            and all(intake.is_idle for intake in self._intakes.values())
            and self._turns.is_idle
            and not self._outbox.frames
            and not self._committer.has_work
        )

    async def state(self, agent: AgentId) -> bytes | None:
        """Return the agent's state after its last good turn, encoded; None when it has none yet."""
        if (data := self._turns.state_of(agent)) is not None:
            return data
        key = self._turns.key_of(agent)
        cell = (await self.table.read([key]))[key]
        return cell.data if cell else None

    def _unreadable(self, inlet: Inlet, position: Position, index: int, raw: bytes, error: DecodeError) -> None:
        """Bytes that are no envelope are a failed turn of nobody: they become a dead letter."""
        where = f"{self._names.mailbox(self.shard)}-{position.sequence}-{index}"
        blank = Envelope(id=where, type="", body=b"", target=_NOBODY)
        outcome = Outcome(Work(blank, inlet, position, index, 0, 0.0))
        outcome.dead = unreadable(raw, error, where=where, now=self._settings.wall())
        outcome.size_bytes += len(raw) + 256
        self.stats.dead_letters["DecodeError"] += 1
        log.warning("message cannot be read", extra={"shard": self.shard, "position": position.sequence})
        self._turns.outcomes.append(outcome)
        self._turns.finished.set()


_NOBODY = AgentId("nobody", "nobody")
