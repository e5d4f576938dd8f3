"""How a turn starts: its agent is loaded, its message decoded, its handler run."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine, Mapping
from itertools import islice
from typing import Any, Final

import msgpack

from starling.context import Context
from starling.core import limits
from starling.core.due import DueBody, DueKind, reply_key
from starling.core.envelope import NORMAL_PRIORITY, Envelope
from starling.core.record import Cell, ReplyRecord
from starling.core.reference import Reference, cell_reference
from starling.engine.activation import IDLE, RUNNING, WAITING, Activation
from starling.engine.overdue import Calling
from starling.engine.room import Share
from starling.engine.turn import Turn
from starling.engine.turn_ends import TurnEnds
from starling.engine.work import Outcome, Work
from starling.errors import (
    CallCancelled,
    CallTimeout,
    DecodeError,
    ObjectLost,
    StateUnreadable,
    WorkerLost,
)
from starling.log_context import current as current_turn
from starling.unruly import as_error, is_from_outside

log = logging.getLogger(__name__)

BATCH: Final = 512
"""How many agents are loaded with one read."""


class TurnStarts(TurnEnds):
    """Loads agents and runs the turns that are ready."""

    SLICE = 0.004
    """Seconds of turns that run before the loop gets another chance."""

    async def load(self) -> None:
        """Activate agents and load messages from their records, many with one read, until cancelled."""
        while True:
            await self._cold_work.wait()
            self._cold_work.clear()
            while self._cold:
                batch = [self._cold.popleft() for _ in range(min(len(self._cold), BATCH))]
                keys = [a.key for a in batch if not a.known and a.definition.is_recorded]
                keys += [work.due for a in batch for work in _unloaded(a)]
                cells = await self.large.stored(keys) if keys else {}
                for activation in batch:
                    _fill_all(activation, cells)
                    cell = cells.get(activation.key)
                    large = None if cell is None else cell_reference(cell.data)
                    if cell is not None and large is not None:
                        self._in_background(self._load_large(activation, cell, large), activation)
                    else:
                        self._loaded(activation, cell)

    async def _load_large(self, activation: Activation, cell: Cell, large: Reference) -> None:
        """Fetch a large state once there is room for it; those of other agents are loaded meanwhile."""
        making: asyncio.Task[None] | None = None
        share = self._settings.room.share(_priority_of(activation))
        try:
            await self._enter(share, large.size_bytes)
            making = self._loaded(activation, await self.large.whole(activation.key, cell))
        finally:
            _leave_after(making, share)

    def _loaded(self, activation: Activation, cell: Cell | None) -> asyncio.Task[None] | None:
        """Make the agent, if need be of the state that was read; return the task of what has to wait for that."""
        if activation.agent is None:
            try:
                if not activation.known:
                    self.residents.found(activation, cell)
                if activation.definition.activation_waits:
                    return self._in_background(self._awake(activation), activation)
                self.residents.make(activation)
            except Exception as error:  # whatever `__init__` raises comes as one
                self._not_made(activation, error)
                return None
        activation.state = IDLE
        self._schedule(activation)
        return None

    async def _awake(self, activation: Activation) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self.residents.awake(activation)
        except BaseException as raised:
            if is_from_outside(raised, task, cancelled=bool(task.cancelling()) and self.cancelling):
                raise
            self._not_made(activation, as_error(raised, "the agent's activation"))
        else:
            activation.state = IDLE
            self._schedule(activation)

    def _not_made(self, activation: Activation, error: Exception) -> None:
        """A state that does not load parks the agent; any other error is that of the message that waits."""
        if isinstance(error, StateUnreadable):
            self._park(activation, error)
            return
        work = activation.next_work(asyncio.get_running_loop().time())
        if work is None or work.envelope is None:
            activation.state = IDLE
            self._schedule(activation)
            return
        activation.state = RUNNING
        self._failed(activation, Turn(self, activation, work, work.envelope), error, 0.0)

    async def run(self) -> None:
        """Let turns run until cancelled. Raises what a turn raised beyond its handler's errors."""
        self._serving = serving = self._loop.create_future()
        self._run_soon()
        try:
            await serving
        finally:
            self._serving = None

    def _run_ready(self) -> None:
        """Run the turns that are ready, for a slice of time, and let what they did be committed at once."""
        self._is_due = False
        serving = self._serving
        if serving is None or serving.done():
            return
        timer, ready = self._settings.timer, self._ready
        started = timer()
        self._is_told = True  # at the end of this
        try:
            while ready and self._failure is None and not self._held and not self._is_full:
                self._turn(ready.pop())
                if timer() - started > self.SLICE:
                    self._run_soon()
                    break
        except Exception as error:
            self._failure = error
        self._stats.busy_seconds += timer() - started
        self._tell()
        if self._failure is not None:
            serving.set_exception(self._failure)

    @property
    def _is_full(self) -> bool:
        if self.careful:
            return bool(self._running)
        if self.unstored_bytes > limits.UNSTORED_BYTES:
            return True
        return len(self._running) - self._waiting >= self._settings.max_concurrent_turns

    def _turn(self, activation: Activation) -> None:
        """Start the turn of the agent's next message; one that cannot wait also ends here."""
        now = self._clock()
        work = activation.next_work(now)
        if work is None or work.envelope is None or activation.pieces:
            activation.state = IDLE
            self._schedule(activation)
            return
        if self._outbox_is_full and activation.is_only_from_outside:
            activation.state = WAITING
            self._held_up[activation] = None
            return
        activation.state = RUNNING
        work.started = True
        activation.started(work)
        activation.used = now
        envelope = work.envelope
        if work.cancelled or (work.due and self._is_taken_back(work)):
            self._skip(activation, work)
            return
        if envelope.repeatable and (key := reply_key(self._shard, envelope.id)) in self._replied:
            self._in_background(self._answer_again(activation, work, key), activation)
            return
        if work.attempt and not work.counted and work.attempt >= self._most_attempts(activation, work, envelope):
            error = WorkerLost(f"the worker ended during each of {work.attempt} attempts at this message")
            self._give_up(activation, work, error, 0.0)
            return
        if self.careful and not work.counted:
            self._in_background(self._count_first(activation, work), activation)
            return
        self._start(activation, work, envelope)

    def _most_attempts(self, activation: Activation, work: Work, envelope: Envelope) -> int:
        calls = activation.definition.call_attempts(envelope.type) if envelope.reply else 1
        return self._policy(work, calls).attempts

    def _start(
        self, activation: Activation, work: Work, envelope: Envelope, body: bytes | None = None
    ) -> asyncio.Task[None] | None:
        """Run the turn; return its task if it has come to wait. body: None for the envelope's own."""
        if body is None:
            if envelope.large is not None:
                return self._in_background(self._start_whole(activation, work, envelope, envelope.large), activation)
            body = envelope.body
        started = self._settings.timer()
        turn = Turn(self, activation, work, envelope)
        current_turn.set((self._settings.pool, self._shard, envelope))
        if self._tracing is not None:
            turn.trace = self._trace(self._tracing, work, envelope)
        if activation.cells is not None and not activation.pending:
            activation.cells.trim()
        try:
            if envelope.deadline and envelope.deadline < max(self._settings.wall(), self.stream_time) * 1000:
                raise CallTimeout(f"the deadline of {envelope.type} had passed before its turn")
            is_call = bool(envelope.reply)
            handler, message = activation.definition.find(envelope.type, body, is_call, envelope.content_type)
            turn.attempts = handler.attempts
            hooks = activation.definition.error_hooks
            needed = handler.with_context or hooks is not None  # 1 us of a turn that has no use for it
            context = self._context(turn, work, envelope) if needed else None
            coroutine = handler.start(activation.agent, message, context)
            if turn.trace is not None:
                coroutine = turn.trace.around(coroutine)
            if hooks is not None:
                turn.context = context
            if handler.suspends:
                return self._in_task(activation, coroutine, handler, turn, context, started)
            result = handler.finish(coroutine)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            self._failed(activation, turn, as_error(raised), started)
            return None
        self._succeeded(activation, turn, handler, result, started)
        if context is not None:
            context.end()
        return None

    @staticmethod
    def _context(turn: Turn, work: Work, envelope: Envelope) -> Context:
        return Context(
            turn,
            id=envelope.target,
            sender=envelope.sender,
            topic=envelope.topic,
            message_id=envelope.id,
            attempt=work.attempt + 1 - work.counted,
            deadline=envelope.deadline / 1000 if envelope.deadline else None,
            created=envelope.created / 1000,
            headers=envelope.headers,
            is_call=bool(envelope.reply),
        )

    async def _start_whole(self, activation: Activation, work: Work, envelope: Envelope, large: Reference) -> None:
        """Fetch the body first, once there is room for it; the message itself goes on without it.

        So does a further attempt, as a dead letter does.
        """
        turn: asyncio.Task[None] | None = None
        share = work.share = self._settings.room.share(envelope.priority)
        try:
            await self._enter(share, large.size_bytes)
            body = await self.large.get(large)
            if work.cancelled:
                self._skip(activation, work)
            else:
                turn = self._start(activation, work, envelope, body)
        except ObjectLost as error:
            self._failed(activation, Turn(self, activation, work, envelope), error, 0.0)
        finally:
            _leave_after(turn, share)

    async def _enter(self, share: Share, size_bytes: int) -> None:
        """Wait for room. What does needs no slot meanwhile, and no hand-off waits for it."""
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = math.inf
        self.waits(1)
        try:
            await share.ask(size_bytes).entered()
        finally:
            self.waits(-1)
        self._running[task] = self._clock()

    def _in_task(
        self,
        activation: Activation,
        coroutine: Coroutine[Any, Any, Any],
        handler: Any,
        turn: Turn,
        context: Context | None,
        started: float,
    ) -> asyncio.Task[None]:
        work = turn.work
        envelope = work.envelope
        assert envelope is not None

        async def run() -> None:
            try:
                deadline = envelope.deadline
                limit = max(0.0, deadline / 1000 - self._settings.wall()) if deadline else None
                async with asyncio.timeout(limit) as scope:
                    result = await coroutine
                    if (cells := activation.cells) is not None:
                        turn.cells = await (cells.all_gone() if turn.destroyed else cells.changes())
            except BaseException as raised:
                gave_up = work.cancelled and isinstance(raised, asyncio.CancelledError)
                ours = bool(task.cancelling()) and self.cancelling
                if not gave_up and is_from_outside(raised, task, cancelled=ours):
                    raise
                error = as_error(raised)
                if gave_up:
                    error = CallCancelled(f"the caller gave up on {envelope.type}")
                elif isinstance(raised, TimeoutError) and scope.expired():
                    error = CallTimeout(f"the deadline of {envelope.type} passed during its turn")
                self._failed(activation, turn, error, started)
            else:
                self._succeeded(activation, turn, handler, result, started)
            finally:
                turn.ended()
                if context is not None and activation.definition.error_hooks is None:  # they still have it
                    context.end()

        task = self._in_background(run(), activation)
        if envelope.reply:
            self.calling[envelope.id] = Calling(task, work, handler.name)
            task.add_done_callback(lambda _: self.calling.pop(envelope.id, None))
        return task

    def _skip(self, activation: Activation, work: Work) -> None:
        """Its record was taken back, or its caller gave up, before it started."""
        activation.ended(work)
        envelope = work.envelope
        if work.cancelled and envelope is not None:
            self._end(work, CallCancelled(f"the caller gave up on {envelope.type}"), 0.0)
        self._next(activation)

    async def _answer_again(self, activation: Activation, work: Work, key: str) -> None:
        """A call that was handled before gets the answer that it got then."""
        data = self._replied.get(key)
        if data is None:
            data = await self.read_saved(key)
        envelope = work.envelope
        assert envelope is not None
        outcome = Outcome(work)
        if data is not None:
            outcome.reply = ReplyRecord(envelope.reply, data)
            outcome.size_bytes += len(data)
        activation.ended(work)
        self._finish(outcome)
        self._next(activation)

    async def _count_first(self, activation: Activation, work: Work) -> None:
        """In careful mode an attempt is committed as failed before it starts."""
        envelope = work.envelope
        assert envelope is not None
        work.attempt += 1
        work.counted = True
        outcome = self._moves(work, envelope, DueKind.RETRY, int(self._settings.wall() * 1000))
        assert outcome.moves_to is not None
        self.counting = outcome.moves_to.key
        await self.commit(outcome)
        self._start(activation, work, envelope)


def _unloaded(activation: Activation) -> list[Work]:
    """The next messages of an agent that are only in their records' cells."""
    return [
        work
        for queue in (activation.normal, activation.urgent or ())
        for work in islice(queue, limits.PARKED_IN_MEMORY)
        if work.envelope is None
    ]


def _fill_all(activation: Activation, cells: Mapping[str, Cell | None]) -> None:
    """Give the works of an agent what was read of their records."""
    for work in _unloaded(activation):
        if work.due not in cells:
            continue  # it has come to the front since, and is read before its turn
        cell = cells[work.due]
        if cell is None or cell.data is None or not fill(work, cell.data):
            log.error("the body of a due record is missing", extra={"key": work.due})
            work.envelope = Envelope(id=work.due, type="", body=b"", target=activation.id)


def _priority_of(activation: Activation) -> int:
    """Priority of the message that the agent is loaded for."""
    work = activation.next_work(math.inf)
    return NORMAL_PRIORITY if work is None or work.envelope is None else work.envelope.priority


def _leave_after(task: asyncio.Task[None] | None, share: Share) -> None:
    """Give room back at the end of what goes on with it; at once if nothing does."""
    if task is None:
        share.leave()
    else:
        task.add_done_callback(lambda _: share.leave())


def fill(work: Work, data: bytes) -> bool:
    """Give a work what its due record holds; False when that cannot be read."""
    try:
        body = DueBody.decode(data)
        work.envelope = Envelope.from_map(msgpack.unpackb(body.envelope))
    except (DecodeError, ValueError):
        return False
    work.attempt, work.every, work.cron, work.stored = body.attempt, body.every, body.cron, body.stored
    work.size_bytes = len(data)
    return True
