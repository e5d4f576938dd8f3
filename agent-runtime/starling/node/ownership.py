"""Which shards this pod runs: it takes what it may, hands over what it must, and runs what it owns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from starling.core import limits
from starling.core.ids import PodName, ShardId
from starling.core.membership import ShardMap
from starling.core.names import MeshNames, bucket_stream, bucket_subject
from starling.core.record import Record
from starling.core.takes import LastRecord, Presence, Right, TakeView, is_next, right_to_take, should_release
from starling.engine.calls import Calls
from starling.engine.journal import last_record
from starling.engine.passivation import Passivation
from starling.engine.routes_view import RoutesView
from starling.engine.shard import OwnedShard
from starling.engine.shard_info import Owner, PoolSettings
from starling.errors import DecodeError, Fenced, JournalLost, MailboxLost, MeshError, RetryLater
from starling.node.members import Members
from starling.node.reading_ahead import ReadingAhead
from starling.ports.store import Signal, Store, is_removal

log = logging.getLogger(__name__)

LOOK: Final = 0.5
"""Seconds between looks at shards that are not ours, when nothing has happened."""
LOST_LOOK: Final = 5.0
"""Seconds between looks at a journal that is not there."""


@dataclass(slots=True)
class _Slot:
    """One shard of the pool as this pod deals with it."""

    shard: ShardId
    running: OwnedShard | None = None
    task: asyncio.Task[None] | None = None
    taking_by: int | None = None
    """By which map a take is under way."""
    wanted_since: float = 0.0
    wanted: bool = False
    last: tuple[int, Record] | None = None
    pause_until: float = 0.0
    fenced: int = 0
    held: bool = False
    """Whether this process has ever run it."""
    perhaps_ours: bool = True
    """Whether its last record may name our pod: not read yet, or run by us since."""
    lost: str = ""
    stopped: bool = False
    """Its data was found wrong after a take: it is not taken again by this process."""
    ahead: ReadingAhead | None = None
    """While the map gives it to us and another pod still runs it."""
    prepared: str = ""
    """Which pod says that it has read the journal and waits for our release."""
    leaving_since: float = 0.0
    """Since when the map gives it to another pod; 0: it does not."""


class Ownership:
    """Takes, runs and releases the shards of one pool in this process."""

    def __init__(
        self,
        store: Store,
        settings: PoolSettings,
        owner: Owner,
        *,
        members: Members,
        routes: RoutesView,
        calls: Calls,
        passivation: Passivation | None = None,
        drain_seconds: float = limits.DRAIN,
    ) -> None:
        self._store = store
        self._settings = settings
        self._owner = owner
        self._members = members
        self._routes = routes
        self._calls = calls
        self._passivation = passivation
        self.at_once = False
        """Whether a release at the end gives turns hardly any time."""
        self.drain_seconds = drain_seconds
        self._slots = {ShardId(n): _Slot(ShardId(n)) for n in range(settings.shards)}
        self.map = ShardMap(0)
        self._look = asyncio.Event()
        self._comparing: set[asyncio.Task[None]] = set()
        self._one_reads = asyncio.Lock()
        self._prepared_at = 0.0
        """When a next owner last said that it has read a journal."""
        self._draining = False
        self.takes = 0
        self.fenced = 0
        self.on_take: Callable[[ShardId, Right], None] = lambda shard, right: None
        """Told of each take; metrics and tests listen."""

    # -- what is seen from outside

    @property
    def owned(self) -> Mapping[ShardId, OwnedShard]:
        """The shards that this process owns."""
        return {slot.shard: slot.running for slot in self._slots.values() if slot.running is not None}

    def running(self, shard: ShardId) -> OwnedShard | None:
        """Return a shard if this process owns it."""
        return self._slots[shard].running

    @property
    def lost(self) -> Mapping[ShardId, str]:
        """Shards whose data is not what it should be: a person has to look."""
        return {slot.shard: slot.lost for slot in self._slots.values() if slot.lost}

    def look(self) -> None:
        """Say that something has changed."""
        self._look.set()

    def asked_about(self) -> set[PodName]:
        """Pods whose signs of life matter now: owners and map's pods of shards that are not theirs to lose."""
        pods: set[PodName] = set()
        for slot in self._slots.values():
            if slot.running is not None:
                continue
            named = self.map.shards.get(slot.shard)
            if named is not None and (named == self._owner.pod or self._members.presence(named).member is None):
                pods.add(named)
            if slot.last is not None and (owner := Owner.parse(slot.last[1].owner)) is not None:
                pods.add(owner.pod)
        return pods

    # -- tasks

    async def watch_map(self) -> None:
        """Follow the pool's shard map until cancelled."""
        bucket = MeshNames(self._settings.mesh).maps
        subject = bucket_subject(bucket, self._settings.pool)
        reader = await self._store.reader(bucket_stream(bucket), subject, after=None)
        try:
            while True:
                for message in await reader.read(64, limits.MIB):
                    if not is_removal(message):
                        self._new_map(message.data)
        finally:
            await reader.close()

    def _new_map(self, data: bytes) -> None:
        try:
            new = ShardMap.decode(data)
        except DecodeError:
            log.exception("shard map cannot be read; the last one stays")
            return
        if new.rev < self.map.rev:
            return
        self.map = new
        self._report()
        now = asyncio.get_running_loop().time()
        for slot in self._slots.values():
            wanted = new.shards.get(slot.shard) == self._owner.pod
            if wanted and not slot.wanted:
                slot.wanted_since = now
                slot.fenced = 0
                slot.pause_until = 0.0
            slot.wanted = wanted
            if not wanted:
                self._stop_reading(slot)
        self.look()

    def heard_free(self, signal: Signal) -> None:
        """A shard was released somewhere: look at it now."""
        slot = self._slot_of(signal)
        if slot is not None:
            slot.lost, slot.stopped = "", False  # somebody may have repaired it: that ends in a release
        self._changed_elsewhere(signal)

    def heard_taken(self, signal: Signal) -> None:
        """A shard was taken: if it is one of ours by somebody else, we are fenced."""
        self._changed_elsewhere(signal)

    def heard_prepared(self, signal: Signal) -> None:
        """The next owner of a shard has read its journal: it need not wait for us any longer, nor we for it."""
        slot = self._slot_of(signal)
        if slot is not None and slot.running is not None:
            slot.prepared = signal.data.decode(errors="replace")
            self._prepared_at = asyncio.get_running_loop().time()
            self.look()

    def _changed_elsewhere(self, signal: Signal) -> None:
        slot = self._slot_of(signal)
        if slot is None:
            return
        slot.last = None
        running = slot.running
        if running is not None and slot.task is not None and _sequence(signal.data) > running.journal_last:
            # anybody may say so: the journal decides
            comparing = asyncio.get_running_loop().create_task(self._compare(slot), name=f"journal {slot.shard}")
            self._comparing.add(comparing)
            comparing.add_done_callback(self._comparing.discard)
        self.look()

    def _slot_of(self, signal: Signal) -> _Slot | None:
        last = signal.subject.rpartition(".")[2]
        return self._slots.get(ShardId(int(last))) if last.isdigit() else None

    async def run(self) -> None:
        """Take, run and release shards until cancelled; then every shard is dropped where it stands."""
        try:
            while True:
                self._look.clear()
                await self._look_at_all()
                try:
                    async with asyncio.timeout(LOOK):
                        await self._look.wait()
                except TimeoutError:
                    continue
        finally:
            tasks = [slot.task for slot in self._slots.values() if slot.task is not None]
            for task in tasks:
                task.cancel()
            for slot in self._slots.values():
                self._stop_reading(slot)
            if tasks:
                await asyncio.wait(tasks, timeout=limits.STORE_TIMEOUT)

    async def check_current(self) -> None:
        """Compare each owned journal with what we appended, at every renewal: an idle stale owner learns it here."""
        while True:
            await asyncio.sleep(limits.MEMBER_RENEWAL)
            for slot in self._slots.values():
                await self._compare(slot)

    async def _compare(self, slot: _Slot) -> None:
        running = slot.running
        if running is None or slot.task is None:
            return
        try:
            if not await running.is_current() and slot.running is running:
                self._replaced(slot)
        except MeshError as error:
            log.debug("journal not compared", extra={"error": str(error)})

    # -- decisions

    async def _look_at_all(self) -> None:
        now = asyncio.get_running_loop().time()
        for slot in self._slots.values():
            if slot.running is not None:
                self._let_go(slot, slot.running, now)
                continue
            if slot.task is None and now >= slot.pause_until and not slot.stopped and self._may_matter(slot):
                await self._consider(slot, now)

    def _let_go(self, slot: _Slot, running: OwnedShard, now: float) -> None:
        """Hand over what the map gives to another pod, once that one has read the journal: it is away for less long.

        Many that go together are read one by one: as long as that goes on we wait, up to the time of a move.
        """
        if not should_release(slot.shard, self._owner.pod, running.map_rev, self.map):
            slot.leaving_since = 0.0
            return
        slot.leaving_since = slot.leaving_since or now
        named = self.map.shards.get(slot.shard)
        somebody_reads = named is not None and self._members.presence(named).member is not None
        quiet, waited = now - max(slot.leaving_since, self._prepared_at), now - slot.leaving_since
        is_late = quiet >= limits.PREPARE_WAIT or waited >= self._settings.move_wait
        if is_late or slot.prepared == named or not somebody_reads:
            running.release()

    def _may_matter(self, slot: _Slot) -> bool:
        """Whether the shard could be ours to take; keeps us from reading journals of shards in good hands."""
        if self._draining or not self._routes.heard.is_set():
            return False  # without routes a turn that sends would end as a dead letter
        named = self.map.shards.get(slot.shard)
        if named == self._owner.pod or slot.perhaps_ours:
            return True
        return named is None or self._members.presence(named).member is None

    async def _consider(self, slot: _Slot, now: float) -> None:
        try:
            slot.last = await last_record(self._store, self._settings.names, slot.shard)
        except JournalLost as error:  # not there yet, or gone: somebody may bring it back
            self._lost(slot, error)
            slot.pause_until = now + LOST_LOOK
            return
        except MeshError as error:
            log.debug("journal not readable", extra={"shard": slot.shard, "error": str(error)})
            return
        view = self._view(slot, slot.last[1])
        slot.perhaps_ours = view.last.owner_pod == self._owner.pod
        right = right_to_take(view, now)
        if right is not None:
            slot.taking_by = view.map.rev
            slot.task = asyncio.get_running_loop().create_task(
                self._hold(slot, slot.last, right, slot.taking_by), name=f"shard {slot.shard}"
            )
            return
        slot.lost = ""  # whoever has it knows
        if is_next(view):
            self._read_ahead(slot)
        else:
            self._stop_reading(slot)

    def _read_ahead(self, slot: _Slot) -> None:
        if slot.ahead is None:
            names = self._settings.names
            slot.ahead = ReadingAhead(self._store, names, slot.shard, self._owner.pod, self._one_reads)
        slot.ahead.go_on()

    def _stop_reading(self, slot: _Slot) -> None:
        ahead, slot.ahead = slot.ahead, None
        if ahead is not None:
            ahead.cancel()

    def _view(self, slot: _Slot, record: Record) -> TakeView:
        owner = Owner.parse(record.owner)
        named = self.map.shards.get(slot.shard)
        return TakeView(
            shard=slot.shard,
            pod=self._owner.pod,
            start=self._owner.start,
            map=self.map,
            last=LastRecord(owner.pod if owner else PodName(""), owner.start if owner else "", record.map_rev),
            owner=self._members.presence(owner.pod) if owner else Presence(),
            mapped=self._members.presence(named) if named else Presence(),
            wanted_since=slot.wanted_since,
            present=self._members.present,
            drain_seconds=self.drain_seconds,
            # a late record of the process before us also refuses a take: then nobody has taken the shard from us
            fenced=slot.fenced > 0 and slot.held,
        )

    # -- one shard

    async def _hold(self, slot: _Slot, over: tuple[int, Record], right: Right, map_rev: int) -> None:
        """Take the shard, run it, and note how it ended.

        map_rev: of the map by which the right was found. A later one may name another pod, which takes over by it.
        """
        ahead, slot.ahead = slot.ahead, None
        try:
            running = await OwnedShard.take(
                self._store,
                self._settings,
                slot.shard,
                owner=self._owner,
                map_rev=map_rev,
                over=over,
                routes=self._routes,
                calls=self._calls,
                passivation=self._passivation,
                reading=await ahead.end() if ahead is not None else None,
            )
            self.takes += 1
            slot.running = running
            slot.taking_by = None
            slot.held = True
            slot.lost = ""
            self.on_take(slot.shard, right)
            self._report()
            await running.run()
            slot.fenced = 0
        except* MailboxLost as group:  # a server that starts may not know it yet
            self._lost(slot, group)
            self._pause(slot, _text(group))
        except* JournalLost as group:
            self._lost(slot, group)
            slot.stopped = True
        except* Fenced as group:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # otherwise `_replaced` has counted it
                self._pause(slot, _text(group))
        except* (RetryLater, MeshError) as group:
            log.warning("shard dropped, to be taken again", extra={"shard": slot.shard, "error": _text(group)})
            slot.pause_until = asyncio.get_running_loop().time() + 0.2
        except* Exception as group:
            # a mistake of ours: the other shards go on, and this one is tried again, but not in a hot loop
            log.exception("shard dropped", exc_info=group, extra={"shard": slot.shard})
            slot.pause_until = asyncio.get_running_loop().time() + limits.FENCED_PAUSE_FIRST
        finally:
            slot.running = None
            slot.task = None
            slot.taking_by = None
            slot.last = None
            slot.prepared, slot.leaving_since = "", 0.0
            slot.perhaps_ours = True
            self._report()
            self.look()

    def _replaced(self, slot: _Slot) -> None:
        """Somebody else has taken the shard: stop at once, without another word to the store."""
        if slot.task is not None and not slot.task.cancelling():
            slot.task.cancel("taken by somebody else")
            self._pause(slot, "taken by somebody else")

    def _pause(self, slot: _Slot, why: str) -> None:
        self.fenced += 1
        pause = min(limits.FENCED_PAUSE_FIRST * 2**slot.fenced, limits.FENCED_PAUSE_CAP)
        slot.fenced += 1
        slot.pause_until = asyncio.get_running_loop().time() + pause
        log.info("fenced", extra={"shard": slot.shard, "error": why, "pause": pause})

    def _lost(self, slot: _Slot, error: BaseException) -> None:
        text = _text(error)
        if text != slot.lost:
            slot.lost = text
            log.error("shard stopped: its data is not what it should be", extra={"shard": slot.shard, "error": text})

    def _report(self) -> None:
        """Say what we own, and the map that all of it follows: not one that is newer than a take under way.

        A pod that owns nothing by the newest map may be told to go: the take would be forgotten.
        """
        taking = (slot.taking_by for slot in self._slots.values() if slot.taking_by is not None)
        self._members.describe(
            shards={shard: running.epoch for shard, running in self.owned.items()},
            map_rev=min(taking, default=self.map.rev),
        )

    # -- the end

    async def drain(self) -> None:
        """Leave: no further takes; wait for the map to move our shards, then release what is left.

        Ends within drain_seconds plus the time of one hand-off.
        """
        self._draining = True
        start = asyncio.get_running_loop().time()
        while (tasks := self._tasks()) and asyncio.get_running_loop().time() < start + self.drain_seconds:
            await asyncio.wait(tasks, timeout=0.2)
        for slot in self._slots.values():
            if slot.running is not None:
                slot.running.release(at_once=self.at_once)
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=self._settings.move_wait + 5)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [slot.task for slot in self._slots.values() if slot.task is not None]


def _sequence(data: bytes) -> int:
    """The journal sequence that a core message says; 0 when it says none."""
    return int(data) if data.isdigit() and len(data) < 20 else 0


def _text(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_text(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"
