"""Many messages in one call: each mailbox gets its share in one frame, or in a few, and every message its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from starling.core.envelope import Envelope
from starling.core.ids import AgentId, PoolName, ShardId, TopicId
from starling.core.limits import KIB
from starling.core.reference import check_inline
from starling.core.routes import Routes, Target
from starling.engine.producer import FRAME_BYTES, FRAME_MESSAGES, Accepted, Producer
from starling.errors import BatchRefused, MeshError, TooLarge
from starling.messages import encode

WHOLE_FRAME_BYTES: Final = 900 * KIB
"""The most that one mailbox takes whole: NATS refuses messages over 1 MiB."""


class Published(NamedTuple):
    """What became of one message of a batch. accepted: one for each agent that got it; error: why it was not stored."""

    accepted: tuple[Accepted, ...] = ()
    error: Exception | None = None


@dataclass(slots=True)
class _Share:
    """What one shard gets: packed messages, and which message of the batch each of them is."""

    packed: list[bytes] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)

    def frames(self) -> Iterable[tuple[list[bytes], list[int]]]:
        """Cut the share into frames of a usual size; the same share is always cut in the same way."""
        start = size_bytes = 0
        for end, packed in enumerate(self.packed):
            if end > start and (size_bytes + len(packed) > FRAME_BYTES or end - start >= FRAME_MESSAGES):
                yield self.packed[start:end], self.indices[start:end]
                start, size_bytes = end, 0
            size_bytes += len(packed)
        yield self.packed[start:], self.indices[start:]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.packed))


class Batch:
    """Messages that are published together. new_id: makes message ids; batch_id: the caller's, or None."""

    def __init__(
        self,
        routes: Routes,
        *,
        batch_id: str | None,
        new_id: Callable[[], str],
        created: int,
        headers: Mapping[str, str],
    ) -> None:
        self._routes = routes
        self._batch_id = batch_id
        self._new_id = new_id
        self._created = created
        self._headers = headers
        self._shares: dict[tuple[PoolName, ShardId], _Share] = {}
        self._count = 0
        self.errors: dict[int, Exception] = {}
        """Messages that cannot be sent as they are: position in the batch to the reason."""

    def add(self, to: TopicId | AgentId, message: object) -> None:
        """Encode and address the next message. What is wrong with it is in `errors`, nothing is raised."""
        index = self._count
        self._count += 1
        try:
            type_name, body = encode(message)
            check_inline(body, f"{type_name} in a batch; publish it by itself: it")
            targets = [self._routes.target(to)] if isinstance(to, AgentId) else list(self._routes.targets(to))
        except MeshError as error:
            self.errors[index] = error
            return
        message_id = self._new_id() if self._batch_id is None else f"{self._batch_id}.{index}"
        for target in targets:
            share = self._shares.setdefault((target.pool.pool, target.shard), _Share())
            share.packed.append(self._pack(target, to, message_id, type_name, body))
            share.indices.append(index)

    def _pack(self, target: Target, to: TopicId | AgentId, message_id: str, type_name: str, body: bytes) -> bytes:
        return Envelope(
            id=message_id,
            type=type_name,
            body=body,
            target=target.agent,
            topic=to if isinstance(to, TopicId) else None,
            created=self._created,
            headers=self._headers,
        ).pack()

    def check_whole(self) -> None:
        """Raise BatchRefused unless all of it can be stored, each shard's share as one frame."""
        for (pool, shard), share in self._shares.items():
            if share.size_bytes > WHOLE_FRAME_BYTES:
                text = (
                    f"shard {shard} of {pool} would get {share.size_bytes} bytes at once, at most {WHOLE_FRAME_BYTES}"
                )
                self.errors.update((index, TooLarge(text)) for index in share.indices)
        if self.errors:
            raise BatchRefused(self.errors, stored=0)

    async def send(self, producer: Producer, *, whole: bool, patient: bool) -> list[Published]:
        """Store it and return a result per message. whole: each shard's share as one frame."""
        sent: list[tuple[asyncio.Future[Accepted], list[int]]] = []
        for (pool, shard), share in self._shares.items():
            frames = [(share.packed, share.indices)] if whole else share.frames()
            for number, (packed, indices) in enumerate(frames):
                frame_id = None if self._batch_id is None else f"{self._batch_id}/{number}"
                future = producer.put_frame(pool, shard, packed, frame_id=frame_id, patient=patient)
                sent.append((future, indices))
        accepted: list[list[Accepted]] = [[] for _ in range(self._count)]
        errors = dict(self.errors)
        try:
            for future, indices in sent:
                try:
                    one = await future
                except MeshError as error:
                    errors.update(dict.fromkeys(indices, error))
                else:
                    for index in indices:
                        accepted[index].append(one)
        finally:
            for future, _ in sent:
                future.cancel()
        return [Published(tuple(accepted[index]), errors.get(index)) for index in range(self._count)]


def check_stored(results: Sequence[Published]) -> None:
    """Raise BatchRefused when a message was not stored."""
    errors = {index: result.error for index, result in enumerate(results) if result.error is not None}
    if errors:
        raise BatchRefused(errors, stored=sum(bool(result.accepted) for result in results))
