"""Delivery: committed frames to the mailboxes of their targets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from starling.core import limits
from starling.core.absence import has_been_long
from starling.core.envelope import FrameHeader
from starling.core.names import MESSAGE_ID, Inlet, Lane, MeshNames, Origin
from starling.core.outbox import Chain, Outbox, Sending
from starling.core.record import DEAD, Frame
from starling.engine.faults import Point
from starling.engine.shard_info import PoolSettings, ShardStats
from starling.errors import Unreachable
from starling.ports.store import Answer, Refused, Store, Stored

log = logging.getLogger(__name__)


class Delivery:
    """Sends the outbox: per target in order, pipelined; after a failure again from the first unconfirmed frame.

    given_up: frames whose target has had no mailbox for a minute; the next commit makes dead letters of them.
    """

    def __init__(self, store: Store, settings: PoolSettings, source: str, outbox: Outbox, stats: ShardStats) -> None:
        self._store = store
        self._mesh = MeshNames(settings.mesh)
        self._settings = settings
        self._source = source
        self._outbox = outbox
        self._stats = stats
        self._work = asyncio.Event()
        self._ready: set[Chain] = set()
        self._no_route_since: dict[Chain, float] = {}
        self._pauses: dict[Chain, float] = {}
        self.given_up: list[Frame] = []
        self.on_room: Callable[[], None] = lambda: None
        """Told when the outbox has come below its first limit."""
        self.progress = asyncio.Event()
        """Set whenever something was confirmed or given up."""

    def offer(self, chain: Chain) -> None:
        """Say that a chain has something to send."""
        self._ready.add(chain)
        self._work.set()

    def offer_all(self) -> None:
        """Say that everything is to be sent: after a take."""
        for chain in self._outbox.chains.values():
            self.offer(chain)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            ready, self._ready = sorted(self._ready, key=lambda chain: chain.target), set()
            for chain in ready:
                try:
                    await self._send(chain)
                except Unreachable:
                    if chain.failed(chain.attempt):
                        self._again(chain)

    async def _send(self, chain: Chain) -> None:
        if await self._is_lost(chain):
            self.given_up.extend(self._outbox.drop(chain))
            self.progress.set()
            return
        attempt = chain.attempt
        while (sending := chain.to_send()) is not None:
            subject, headers = self._address(sending)
            chain.sent()
            answer = asyncio.ensure_future(await self._store.publish(subject, sending.frame.body, headers))
            self._settings.passed(Point.FRAME_SENT)
            answer.add_done_callback(partial(self._answered, chain, attempt, sending.frame.number))
            if chain.attempt != attempt:
                return

    def _address(self, sending: Sending) -> tuple[str, dict[str, str]]:
        frame = sending.frame
        target = frame.target
        names = self._mesh.pool(target.pool)
        if target.lane == DEAD:
            return names.dead_subject, {MESSAGE_ID: frame.message_id}
        inlet = Inlet(Origin.FRAMES, Lane(target.lane))
        header = FrameHeader(self._source, frame.number, frame.previous)
        return names.inlet_subject(target.shard, inlet), header.encode()

    def _answered(self, chain: Chain, attempt: int, number: int, future: asyncio.Future[Answer]) -> None:
        if future.cancelled() or future.get_loop().is_closed():
            return
        answer = future.result()
        if isinstance(answer, Stored):
            before, was_full = chain.attempt, self._is_full
            self._outbox.stored(chain, attempt, number, answer.sequence)
            self._stats.outbox_frames = self._outbox.frames
            self.progress.set()
            self._no_route_since.pop(chain, None)
            self._pauses.pop(chain, None)
            if chain.attempt != before:
                self._again(chain)
            elif chain.to_send() is not None:
                self.offer(chain)
            if was_full and not self._is_full:
                self.on_room()
            return
        if isinstance(answer, Refused) and answer.why == "no-stream":
            self._no_route_since.setdefault(chain, asyncio.get_running_loop().time())
        else:
            self._no_route_since.pop(chain, None)
        if chain.failed(attempt, refused=isinstance(answer, Refused)):
            log.debug("delivery repeated", extra={"target": str(chain.target), "answer": str(answer)})
            self._again(chain)

    async def _is_lost(self, chain: Chain) -> bool:
        """Whether the target has had no mailbox for too long, on one unbroken connection, and the store says so too.

        "Nobody listens" alone is also the answer of a server that starts, and of a stream that has lost its leader;
        what was given up could then never follow in its chain.
        """
        first = self._no_route_since.get(chain)
        if first is None:
            return False
        if not has_been_long(first, self._store.connected_since, asyncio.get_running_loop().time()):
            return False
        target = chain.target
        names = self._mesh.pool(target.pool)
        stream = names.dead_letters if target.lane == DEAD else names.mailbox(target.shard)
        if await self._store.stream_info(stream) is None:
            return True
        del self._no_route_since[chain]
        return False

    @property
    def _is_full(self) -> bool:
        return self._outbox.size_bytes > limits.OUTBOX_PAUSES_OUTSIDE

    def _again(self, chain: Chain) -> None:
        """Offer the chain again after a pause that grows from 50 ms to 2 s."""
        pause = self._pauses[chain] = min(self._pauses.get(chain, 0.025) * 2, 2.0)
        asyncio.get_running_loop().call_later(pause, self.offer, chain)
