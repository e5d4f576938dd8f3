"""Messages from outside a shard's chain into mailboxes: of clients, and calls of agents.

One frame is in flight per shard and lane; what comes meanwhile is gathered into the next. A frame is repeated
with the same id until it is stored or refused for good: that keeps the order, and makes frames by itself.
A message with an id of the user's travels in a frame of its own, so that the server's window knows it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections import deque
from typing import NamedTuple

from starling.core import limits
from starling.core.envelope import Envelope, frame_body
from starling.core.ids import PoolName, ShardId
from starling.core.names import MESSAGE_ID, VERSION, Inlet, Lane, MeshNames, Origin
from starling.core.routes import Target
from starling.errors import MailboxFull, TooLarge, UnknownPool, Unreachable
from starling.ports.store import Refused, Store, Stored

FRAME_BYTES = 256 * limits.KIB
FRAME_MESSAGES = 1024


class Accepted(NamedTuple):
    """A message is in its mailbox. duplicate: it was there already, by its id, within the dedupe window."""

    sequence: int
    duplicate: bool


class _Waiting(NamedTuple):
    packed: bytes
    message_id: str
    future: asyncio.Future[Accepted]
    patient: bool


class _Lane:
    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.task: asyncio.Task[None] | None = None


class Producer:
    """Sends envelopes to mailboxes from outside. name: of the producer, part of what makes an id unique."""

    def __init__(self, store: Store, mesh: str, name: str, chance: random.Random) -> None:
        self._store = store
        self._names = MeshNames(mesh)
        self._name = name
        self._chance = chance
        self._lanes: dict[tuple[PoolName, ShardId, Lane], _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def put(
        self,
        target: Target,
        envelope: Envelope,
        *,
        user_id: str | None,
        lane: Lane = Lane.NORMAL,
        patient: bool = False,
    ) -> asyncio.Future[Accepted]:
        """Queue one envelope behind those to the same shard; the future ends when it is stored.

        user_id: makes a repeat within the dedupe window count once. patient: while the mailbox is full it waits for
        room, and what is behind it waits too. The future raises MailboxFull, UnknownPool, TooLarge. Bound the wait:
        while the store is away it goes on.
        """
        key = (target.pool.pool, target.shard, lane)
        entry = self._lanes.get(key)
        if entry is None:
            entry = self._lanes[key] = _Lane()
        future: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        message_id = "" if user_id is None else self._unique(envelope, user_id)
        entry.waiting.append(_Waiting(envelope.pack(), message_id, future, patient))
        if entry.task is None:
            entry.task = asyncio.get_running_loop().create_task(self._drain(key, entry), name=f"produce to {key}")
            self._tasks.add(entry.task)
            entry.task.add_done_callback(self._tasks.discard)
        return future

    def _unique(self, envelope: Envelope, user_id: str) -> str:
        topic = str(envelope.topic) if envelope.topic else ""
        digest = hashlib.sha256(msgid_text(self._name, topic, str(envelope.target), user_id)).digest()
        return base64.b32encode(digest)[:26].decode().lower()

    async def _drain(self, key: tuple[PoolName, ShardId, Lane], lane: _Lane) -> None:
        pool, shard, which = key
        subject = self._names.pool(pool).inlet_subject(shard, Inlet(Origin.OUTSIDE, which))
        try:
            while lane.waiting:
                batch = self._batch(lane.waiting)
                if batch:
                    await self._send(subject, batch)
        finally:
            lane.task = None

    def _batch(self, waiting: deque[_Waiting]) -> list[_Waiting]:
        """Take the next frame's messages; those whose caller has gone are left out."""
        batch: list[_Waiting] = []
        size_bytes = 0
        while waiting and len(batch) < FRAME_MESSAGES:
            head = waiting[0]
            if head.future.done():
                waiting.popleft()
                continue
            if batch and (head.message_id or size_bytes + len(head.packed) > FRAME_BYTES):
                break
            if batch and head.patient != batch[0].patient:
                break
            batch.append(waiting.popleft())
            size_bytes += len(head.packed)
            if head.message_id:
                break
        return batch

    async def _send(self, subject: str, batch: list[_Waiting]) -> None:
        message_id = batch[0].message_id or f"{self._chance.getrandbits(128):032x}"
        headers = {MESSAGE_ID: message_id, VERSION: str(limits.WIRE_VERSION)}
        body = frame_body(item.packed for item in batch)
        pause = 0.02
        while not all(item.future.done() for item in batch):
            try:
                answer = await (await self._store.publish(subject, body, headers))
            except Unreachable:
                answer = None
            if isinstance(answer, Stored):
                accepted = Accepted(answer.sequence, answer.duplicate)
                for item in batch:
                    if not item.future.done():
                        item.future.set_result(accepted)
                return
            if isinstance(answer, Refused) and not _is_passing(answer, batch[0].patient):
                for item in batch:
                    if not item.future.done():
                        item.future.set_exception(_refusal(subject, answer))
                return
            await asyncio.sleep(pause * (0.5 + self._chance.random() / 2))
            pause = min(pause * 2, 1.0)

    async def close(self) -> None:
        """Stop; messages not stored yet end with Unreachable."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes.values():
            for item in lane.waiting:
                if not item.future.done():
                    item.future.set_exception(Unreachable("the connection was closed before the message was stored"))


def msgid_text(producer: str, topic: str, target: str, user_id: str) -> bytes:
    """Return the text whose hash is the message id; lengths in front keep different ids apart."""
    parts = (producer, topic, target, user_id)
    return b"".join(b"%d:%s," % (len(part.encode()), part.encode()) for part in parts)


def _is_passing(answer: Refused, patient: bool) -> bool:
    return answer.why == "conflict" or (patient and answer.why == "full")


def _refusal(subject: str, answer: Refused) -> Exception:
    if answer.why == "full":
        return MailboxFull(f"mailbox {subject} is full: {answer.text}")
    if answer.why == "no-stream":
        return UnknownPool(f"no mailbox takes {subject}; is the pool applied?")
    return TooLarge(f"{subject}: {answer.text}")
