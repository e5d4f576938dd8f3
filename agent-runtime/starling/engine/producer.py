"""Messages from outside a shard's chain into mailboxes: of clients, and calls of agents.

One frame is in flight per shard and lane; what comes meanwhile is gathered into the next. A frame is repeated
with the same id until it is stored or refused for good: that keeps the order, and makes frames by itself. Once a try
may have been stored, it is repeated only as long as the server's window still knows its id.
A message with an id of the user's travels in a frame of its own, so that the server's window knows it; of those some
are in flight together, but never two to one agent.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

from starling.core import limits
from starling.core.envelope import Envelope, frame_body
from starling.core.ids import AgentId, PoolName, ShardId
from starling.core.names import MESSAGE_ID, VERSION, Inlet, Lane, MeshNames, Origin
from starling.core.routes import Target
from starling.engine.at_once import started
from starling.errors import MailboxFull, OutcomeUnknown, TooLarge, UnknownPool, Unreachable
from starling.ports.store import Answer, Refused, Store, Stored, Unknown
from starling.tracing import Sending, Tracing

FRAME_BYTES = 256 * limits.KIB
FRAME_MESSAGES = 1024
ALONE_AT_ONCE = 64
"""Messages with ids of the user's that are under way to one lane of a shard, each to another agent."""
_WIRE = str(limits.WIRE_VERSION)


class Accepted(NamedTuple):
    """A message is in its mailbox. duplicate: it was there already, by its id, within the dedupe window."""

    sequence: int
    duplicate: bool


class _Waiting(NamedTuple):
    packed: Sequence[bytes]
    size_bytes: int
    message_id: str
    future: asyncio.Future[Accepted]
    patient: bool
    sending: Sending | None = None
    agent: AgentId | None = None
    """Of a message with an id of the user's: it travels alone, beside those to other agents."""


class _Lane:
    """What goes to one lane of a shard. subject: of its mailbox."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.waiting: deque[_Waiting] = deque()
        self.under_way: list[_Waiting] | None = None
        """The frame that was sent without a task and has no answer yet; empty: it is about to be made."""
        self.shared = False
        """The last frame held several messages: the next one waits for what else this turn of the loop brings."""
        self.task: asyncio.Task[None] | None = None
        """Sends what waits, as long as something needs a repeat or a frame of its own."""
        self.alone: dict[AgentId, _Waiting] = {}
        """Messages that are under way in frames of their own: one to an agent, so that its order holds."""
        self.changed = asyncio.Event()

    @property
    def is_clear(self) -> bool:
        """Whether nothing waits or is under way."""
        return self.under_way is None and self.task is None and not self.waiting and not self.alone


class Producer:
    """Sends envelopes to mailboxes from outside. name: of the producer, part of what makes an id unique."""

    def __init__(self, store: Store, mesh: str, name: str, chance: random.Random) -> None:
        self._store = store
        self._names = MeshNames(mesh)
        self._name = name
        self._chance = chance
        self._lanes: dict[tuple[PoolName, ShardId, Lane], _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.tracing: Tracing | None = None
        """Makes a span of each message that has none yet; None without an SDK."""

    def put(
        self,
        target: Target,
        envelope: Envelope,
        *,
        user_id: str | None,
        lane: Lane = Lane.NORMAL,
        patient: bool = False,
        sending: Sending | None = None,
    ) -> asyncio.Future[Accepted]:
        """Queue one envelope behind those to the same shard; the future ends when it is stored.

        user_id: makes a repeat within the dedupe window count once. patient: while the mailbox is full it waits for
        room, and what is behind it waits too. The future raises MailboxFull, UnknownPool, TooLarge (nothing was stored)
        and OutcomeUnknown when nobody can say by the end of the dedupe window. Bound the wait: while the store is
        away it goes on. sending: the message's span, which the caller ends.
        """
        message_id = "" if user_id is None else self._unique(envelope, user_id)
        key = (target.pool.pool, target.shard, lane)
        if self.tracing is not None and sending is None and not envelope.trace:
            sending = self.tracing.sending(envelope, target)
            future = self._queue(key, [envelope.pack()], message_id, patient, sending, envelope.target)
            future.add_done_callback(sending.stored)
            return future
        return self._queue(key, [envelope.pack()], message_id, patient, sending, envelope.target)

    def put_frame(
        self,
        pool: PoolName,
        shard: ShardId,
        packed: Sequence[bytes],
        *,
        frame_id: str | None,
        lane: Lane = Lane.NORMAL,
        patient: bool = False,
    ) -> asyncio.Future[Accepted]:
        """As `put`, for packed envelopes that are stored whole, as one frame, or not at all.

        frame_id: makes a repeat within the dedupe window count once.
        """
        message_id = "" if frame_id is None else _short_hash(msgid_text(self._name, "frame", str(shard), frame_id))
        return self._queue((pool, shard, lane), packed, message_id, patient)

    def _queue(
        self,
        key: tuple[PoolName, ShardId, Lane],
        packed: Sequence[bytes],
        message_id: str,
        patient: bool,
        sending: Sending | None = None,
        agent: AgentId | None = None,
    ) -> asyncio.Future[Accepted]:
        entry = self._lanes.get(key)
        if entry is None:
            pool, shard, lane = key
            entry = self._lanes[key] = _Lane(self._names.pool(pool).inlet_subject(shard, Inlet(Origin.OUTSIDE, lane)))
        future: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        alone = agent if message_id else None
        entry.waiting.append(_Waiting(packed, sum(map(len, packed)), message_id, future, patient, sending, alone))
        if entry.task is None and entry.under_way is None:
            if entry.shared:
                entry.under_way = []
                future.get_loop().call_soon(self._next, entry)
            else:
                self._next(entry)
        return future

    def is_clear(self, pool: PoolName, shard: ShardId) -> bool:
        """Whether all that went from here to a shard is stored, or refused."""
        lanes = (self._lanes.get((pool, shard, lane)) for lane in Lane)
        return all(lane is None or lane.is_clear for lane in lanes)

    def call_id(self, target: AgentId, user_id: str) -> str:
        """Return the id of a call that this producer may repeat."""
        return _short_hash(msgid_text(self._name, "", str(target), user_id))

    def _unique(self, envelope: Envelope, user_id: str) -> str:
        topic = str(envelope.topic) if envelope.topic else ""
        return _short_hash(msgid_text(self._name, topic, str(envelope.target), user_id))

    def _next(self, lane: _Lane) -> None:
        """Send the next frame from here: a task would cost a turn of the loop before it even starts.

        What needs waiting between two tries, and messages with ids of the user's, are for a task.
        """
        lane.under_way = None
        if self._closed or not lane.waiting:
            return
        if lane.alone or lane.waiting[0].message_id:
            self._in_task(lane, self._drain(lane))
            return
        batch = self._batch(lane.waiting)
        if not batch:
            return
        lane.shared = len(batch) > 1
        frame_id = self._frame_id()
        _told(batch)
        sent = batch[0].future.get_loop().time()
        publish = self._store.publish(lane.subject, _body(batch), {MESSAGE_ID: frame_id, VERSION: _WIRE})
        lane.under_way = batch
        try:
            answer = asyncio.ensure_future(started(publish))
        except Unreachable:
            lane.under_way = None
            self._in_task(lane, self._recover(lane, batch, frame_id, None))
            return
        # of one that is there at once as well, in the next turn of the loop: what is put meanwhile shares a frame
        answer.add_done_callback(lambda done: self._answered(lane, batch, frame_id, sent, done))

    def _answered(
        self, lane: _Lane, batch: list[_Waiting], frame_id: str, sent: float, done: asyncio.Future[Answer]
    ) -> None:
        if self._closed:
            return
        lane.under_way = None
        nothing_sent = not done.cancelled() and done.exception() is not None
        outcome = None if done.cancelled() or nothing_sent else done.result()
        if isinstance(outcome, Stored):
            _stored(batch, Accepted(outcome.sequence, duplicate=False))
        elif isinstance(outcome, Refused) and not _is_passing(outcome, batch[0].patient, 0.0):
            _end(batch, _refusal(lane.subject, outcome))
        elif not all(item.future.done() for item in batch):
            maybe_stored = sent if isinstance(outcome, Unknown | None) and not nothing_sent else None
            self._in_task(lane, self._recover(lane, batch, frame_id, maybe_stored))
            return
        self._next(lane)

    def _in_task(self, lane: _Lane, job: Coroutine[Any, Any, None]) -> None:
        task = lane.task = asyncio.get_running_loop().create_task(job, name=f"produce to {lane.subject}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _recover(self, lane: _Lane, batch: list[_Waiting], frame_id: str, maybe_stored: float | None) -> None:
        """Repeat a frame under its id, then send what has come meanwhile."""
        try:
            await self._send(batch, subject=lane.subject, maybe_stored=maybe_stored, frame_id=frame_id)
        except BaseException:
            lane.task = None
            raise
        await self._drain(lane)

    def _frame_id(self) -> str:
        return f"{self._chance.getrandbits(128):032x}"

    async def _drain(self, lane: _Lane) -> None:
        subject = lane.subject
        try:
            while lane.waiting:
                agent = lane.waiting[0].agent
                if lane.alone and (agent is None or agent in lane.alone or len(lane.alone) >= ALONE_AT_ONCE):
                    lane.changed.clear()
                    await lane.changed.wait()
                    continue
                batch = self._batch(lane.waiting)
                if batch and agent is not None:
                    await self._send_alone(subject, lane, batch[0])
                elif batch:
                    await self._send(batch, subject=subject)
        finally:
            lane.task = None

    async def _send_alone(self, subject: str, lane: _Lane, item: _Waiting) -> None:
        """Send a frame of one message without waiting for the answer; what goes wrong is repeated by a task."""
        assert item.agent is not None
        agent = item.agent
        if item.sending is not None:
            item.sending.happened("sent")
        lane.alone[agent] = item
        sent = asyncio.get_running_loop().time()
        headers = {MESSAGE_ID: item.message_id, VERSION: _WIRE}
        try:
            answer = asyncio.ensure_future(await self._store.publish(subject, frame_body(item.packed), headers))
        except Unreachable:
            self._repeat_alone(subject, lane, item, None)
            return

        def answered(future: asyncio.Future[Answer]) -> None:
            outcome = None if future.cancelled() else future.result()
            if isinstance(outcome, Stored):
                _stored([item], Accepted(outcome.sequence, outcome.duplicate))
                self._passed_alone(lane, agent)
            elif not item.future.done():
                self._repeat_alone(subject, lane, item, sent if isinstance(outcome, Unknown | None) else None)
            else:
                self._passed_alone(lane, agent)

        answer.add_done_callback(answered)

    def _repeat_alone(self, subject: str, lane: _Lane, item: _Waiting, maybe_stored: float | None) -> None:
        assert item.agent is not None
        agent = item.agent
        task = asyncio.get_running_loop().create_task(
            self._send([item], subject=subject, maybe_stored=maybe_stored), name=f"repeats to {subject}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._passed_alone(lane, agent))

    @staticmethod
    def _passed_alone(lane: _Lane, agent: AgentId) -> None:
        lane.alone.pop(agent, None)
        lane.changed.set()

    def _batch(self, waiting: deque[_Waiting]) -> list[_Waiting]:
        """Take the next frame's messages; those whose caller has gone are left out."""
        batch: list[_Waiting] = []
        size_bytes = messages = 0
        while waiting:
            head = waiting[0]
            if head.future.done():
                waiting.popleft()
                continue
            size_bytes += head.size_bytes
            messages += len(head.packed)
            if batch and (
                head.message_id
                or size_bytes > FRAME_BYTES
                or messages > FRAME_MESSAGES
                or head.patient != batch[0].patient
            ):
                break
            batch.append(waiting.popleft())
            if head.message_id:
                break
        return batch

    async def _send(
        self, batch: list[_Waiting], *, subject: str, maybe_stored: float | None = None, frame_id: str = ""
    ) -> None:
        """Repeat one frame until its outcome is known, nobody waits for it any more, or a repeat could count twice.

        maybe_stored: when the first try was sent whose outcome is unknown, by the loop's clock; frame_id: of that try.
        """
        try:
            await self._repeat(batch, subject, maybe_stored, frame_id)
        except asyncio.CancelledError:
            _end(batch, OutcomeUnknown(f"closed before {subject} said whether it stored the message"))
            raise

    async def _repeat(self, batch: list[_Waiting], subject: str, maybe_stored: float | None, frame_id: str) -> None:
        message_id = batch[0].message_id or frame_id or self._frame_id()
        headers = {MESSAGE_ID: message_id, VERSION: _WIRE}
        body = _body(batch)
        if not frame_id:
            _told(batch)
        loop = asyncio.get_running_loop()
        pause = 0.02
        missing: float | None = None  # since when the server says that there is no mailbox
        while not all(item.future.done() for item in batch):
            sent = loop.time()
            if maybe_stored is not None and sent - maybe_stored > limits.REPEAT_WITHIN:
                _end(batch, OutcomeUnknown(f"nobody can say whether {subject} stored it; a repeat might count twice"))
                return
            try:
                answer = await (await self._store.publish(subject, body, headers))
            except Unreachable:
                answer = None  # nothing was sent
            if isinstance(answer, Stored):
                # of a frame with an id of ours only our own repeat can be there already
                _stored(batch, Accepted(answer.sequence, answer.duplicate and bool(batch[0].message_id)))
                return
            if isinstance(answer, Unknown) and maybe_stored is None:
                maybe_stored = sent
            if isinstance(answer, Refused):
                if answer.why == "no-stream" and missing is None:
                    missing = sent
                if not _is_passing(answer, batch[0].patient, 0.0 if missing is None else sent - missing):
                    _end(batch, _refusal(subject, answer, unsure=maybe_stored is not None))
                    return
            await asyncio.sleep(pause * (0.5 + self._chance.random() / 2))
            pause = min(pause * 2, 1.0)

    async def close(self) -> None:
        """Stop; what was not sent yet ends with Unreachable, what is under way with OutcomeUnknown."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes.values():
            for sent in (lane.under_way or (), lane.alone.values()):
                _end(sent, OutcomeUnknown("closed before the store said whether it has the message"))
            _end(lane.waiting, Unreachable("the connection was closed before the message was stored"))


def msgid_text(producer: str, topic: str, target: str, user_id: str) -> bytes:
    """Return the text whose hash is the message id; lengths in front keep different ids apart."""
    parts = (producer, topic, target, user_id)
    return b"".join(b"%d:%s," % (len(part.encode()), part.encode()) for part in parts)


def _short_hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:32]


def _body(batch: list[_Waiting]) -> bytes:
    return frame_body([packed for item in batch for packed in item.packed])


def _told(batch: list[_Waiting]) -> None:
    """Note in the spans of these messages that they are sent."""
    for item in batch:
        if item.sending is not None:
            item.sending.happened("sent")


def _stored(batch: list[_Waiting], accepted: Accepted) -> None:
    for item in batch:
        if not item.future.done():
            item.future.set_result(accepted)


def _end(batch: Iterable[_Waiting], error: Exception) -> None:
    for item in batch:
        if not item.future.done():
            item.future.set_exception(error)
            item.future.exception()  # nobody has to ask: a caller that has gone is no mistake


def _is_passing(answer: Refused, patient: bool, missing_for: float) -> bool:
    if answer.why == "no-stream":
        return missing_for < limits.NO_STREAM_PATIENCE
    return answer.why == "conflict" or (patient and answer.why == "full")


def _refusal(subject: str, answer: Refused, *, unsure: bool = False) -> Exception:
    """unsure: an earlier try had no answer, and may arrive yet."""
    if answer.why == "full" and unsure:
        return OutcomeUnknown(f"mailbox {subject} is full now; an earlier try had no answer and may be stored yet")
    if answer.why == "full":
        return MailboxFull(f"mailbox {subject} is full: {answer.text}")
    if answer.why == "no-stream":
        return UnknownPool(f"no mailbox takes {subject}; is the pool applied?")
    return TooLarge(f"{subject}: {answer.text}")
