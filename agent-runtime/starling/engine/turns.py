"""Turns: one envelope handled by one agent, one at a time per agent, in log order per lane, urgent first."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgpack

from starling import log_context
from starling.context import Context
from starling.core import limits
from starling.core.due import DueBody, DueIndex, DueKind, due_key, piece_key, reply_key, timer_key
from starling.core.envelope import Envelope
from starling.core.error_record import ErrorRecord
from starling.core.ids import AgentId, ShardId, TopicId
from starling.core.names import Inlet, Lane, MeshNames, cell_key
from starling.core.priority import Ready
from starling.core.record import Cell, ReplyRecord
from starling.core.recurrence import next_occurrence
from starling.core.reply import Reply, error_reply
from starling.core.retry import RetryPolicy
from starling.core.routes import Target
from starling.core.severity import severity_of
from starling.engine.activation import Activation, State
from starling.engine.answers import Answers
from starling.engine.calls import Calls
from starling.engine.dead import dead_letter
from starling.engine.faults import Point
from starling.engine.passivation import Passivation
from starling.engine.query_client import QueryClient
from starling.engine.residents import CellReader, Residents
from starling.engine.routes_view import RoutesView
from starling.engine.shard_info import PoolSettings, ShardStats
from starling.engine.turn import CANCEL_TYPE, Turn
from starling.engine.work import DueAdd, Outcome, Send, Work
from starling.error_hooks import ErrorHooks
from starling.errors import (
    CallCancelled,
    CallTimeout,
    CantHandle,
    DecodeError,
    MailboxFull,
    StateUnreadable,
    TooLarge,
    WorkerLost,
)
from starling.log_context import current as current_turn
from starling.tracing import Tracing, TurnTrace

log = logging.getLogger(__name__)

STATE_CELL = "state"
BATCH: Final = 512
"""How many agents are loaded with one read."""
CALL_POLICY: Final = RetryPolicy(attempts=1)


class Turns:
    """Runs the turns of one shard. What ended is in `outcomes`, in that order."""

    SLICE = 0.004
    """Seconds of turns that run before the loop gets another chance."""

    def __init__(
        self,
        settings: PoolSettings,
        shard: ShardId,
        routes: RoutesView,
        calls: Calls,
        stats: ShardStats,
        loader: CellReader,
        due: DueIndex,
        *,
        passivation: Passivation | None = None,
        answers: Answers | None = None,
        stream_time: float = 0.0,
        careful: bool = False,
    ) -> None:
        self._settings = settings
        self._shard = shard
        self._routes = routes
        self._calls = calls
        self._stats = stats
        self._loader = loader
        self._due = due
        self.stream_time = stream_time
        """When the newest message that was read was stored, seconds since 1970 by the store's clock."""
        self.careful = careful
        """One turn at a time, its attempt committed before it starts: a message may be what kills the process."""
        self._answers = answers
        self.residents = Residents(shard, stats, loader, passivation, on_left=self._left)
        self._agents = self.residents.agents
        self._ready: Ready[Activation] = Ready()
        self._cold: deque[Activation] = deque()
        self._work = asyncio.Event()
        self._cold_work = asyncio.Event()
        self._running: dict[asyncio.Task[None], float] = {}
        self._calling: dict[str, tuple[asyncio.Task[None], Work]] = {}
        """Calls whose turn runs in a task, by id: they can be cancelled."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._replied: dict[str, bytes | None] = {}
        """Recorded replies by their key; the bytes only while they are not committed."""
        self._failure: BaseException | None = None
        self.outcomes: deque[Outcome] = deque()
        self.lazy: deque[Outcome] = deque()
        """Outcomes that nobody waits for: the next commit takes them along."""
        self.finished = asyncio.Event()
        """Set whenever `outcomes` has something for the committer."""
        self.stopping = False
        self._held = False
        """Whether no turn starts now."""
        self._tracing = settings.tracing
        self._tells_all = log.isEnabledFor(logging.DEBUG)
        self.counting = ""
        """Record of the turn that runs in careful mode: its attempt is committed, and it is handed over already."""
        self.too_far_ahead = False
        """Set while the outbox is over its limit: turns that send fail with MailboxFull."""

    # -- what comes in

    def offer(self, work: Work) -> None:
        """Queue one envelope for its agent. One that nobody can handle ends as a dead letter or an error reply."""
        envelope = work.envelope
        assert envelope is not None
        if work.stored > self.stream_time:
            self.stream_time = work.stored
        if self._tracing is not None:
            work.received = self._settings.wall()
        if envelope.not_before and not work.due and envelope.not_before > self._settings.wall() * 1000:
            self._delay(work, envelope)
            return
        if envelope.type == CANCEL_TYPE:
            self._take_back(work, envelope)
            return
        activation = self._agents.get(envelope.target) or self._activation(envelope.target)
        if activation is None:
            self._end(work, self._not_here(envelope.target), 0.0)
            return
        queue = activation.normal if work.lane is Lane.NORMAL else activation.lane(work.lane)
        queue.append(work)
        state = activation.state
        if state is State.IDLE or state is State.WAITING or (state is State.READY and len(queue) == 1):
            self._schedule(activation)

    def _activation(self, agent: AgentId) -> Activation | None:
        definition = self._settings.agents.get(agent.type)
        if definition is None or agent in self.residents.parked:
            return None
        return self.residents.add(agent, definition)

    def _not_here(self, agent: AgentId) -> Exception:
        parked = self.residents.parked.get(agent)
        if parked is not None:
            return StateUnreadable(parked)
        return CantHandle(f"pool {self._settings.pool} has no agent type {agent.type!r}")

    def _left(self, activation: Activation) -> None:
        """The agent is out of memory; what came for it while its hooks ran brings it back."""
        if self.stopping or not (activation.normal or activation.urgent):
            return
        again = self.residents.add(activation.id, activation.definition)
        again.normal, again.urgent = activation.normal, activation.urgent
        self._schedule(again)

    def _delay(self, work: Work, envelope: Envelope) -> None:
        """A message for later waits as a due record."""
        outcome = Outcome(work, ends=False)
        outcome.moves_to = DueAdd(
            due_key(self._shard, envelope.target, work.where),
            envelope.not_before,
            DueKind.DELAYED,
            DueBody(envelope=envelope.pack(), stored=work.stored).encode(),
            name=envelope.id,
            lane=work.lane,
        )
        self._finish(outcome)

    def _take_back(self, work: Work, envelope: Envelope) -> None:
        """A delayed message is not wanted any more; nothing happens when it has been handed over."""
        message_id = envelope.body.decode(errors="replace")
        activation = self._agents.get(envelope.target)
        if activation is not None:
            for queue in (activation.normal, activation.urgent or []):
                waiting = queue[1:] if activation.state is State.RUNNING else list(queue)
                for other in waiting:
                    if other.due and other.envelope is not None and other.envelope.id == message_id:
                        queue.remove(other)
        outcome = Outcome(work)
        outcome.agent, outcome.unname = envelope.target, [message_id]
        self._finish(outcome)

    def restore(self, agent: AgentId, works: Sequence[Work], pieces: int) -> None:
        """After a take: what waits for this agent outside the mailbox comes before what is read from it."""
        activation = self._activation(agent)
        if activation is None:
            for work in works:
                work.envelope = work.envelope or Envelope(id=work.due, type="", body=b"", target=agent)
                self._end(work, self._not_here(agent), 0.0)
            return
        activation.pieces = pieces
        for work in works:
            activation.lane(work.lane).append(work)
        self._schedule(activation)

    def recorded(self, key: str) -> None:
        """After a take: a reply is recorded under this key."""
        self._replied[key] = None

    def forget_recorded(self, key: str) -> None:
        """A recorded reply has served its time."""
        self._replied.pop(key, None)

    def is_held(self, agent_type: str) -> bool:
        """Whether a message that is tried again holds up those behind it."""
        definition = self._settings.agents.get(agent_type)
        return definition is None or definition.options.ordered

    # -- who is next

    def _schedule(self, activation: Activation) -> None:
        """Let the agent wait for whatever its next message needs."""
        if activation.pieces:
            activation.state = State.WAITING
            return
        now = asyncio.get_running_loop().time()
        work = activation.next_work(now)
        if work is None:
            at = activation.wakes_at()
            if at is None:
                activation.state = State.IDLE
                return
            activation.state = State.WAITING
            if activation.timer is not None:
                activation.timer.cancel()
            activation.timer = asyncio.get_running_loop().call_at(at, self._wake, activation)
        elif activation.agent is None or work.envelope is None:
            if activation.state is not State.COLD:
                activation.state = State.COLD
                self._cold.append(activation)
                self._cold_work.set()
        else:
            activation.state = State.READY
            self._ready.push(activation, min(max(work.envelope.priority, 0), 3))
            self._work.set()

    def _wake(self, activation: Activation) -> None:
        activation.timer = None
        if activation.state is State.WAITING and not self.stopping:
            self._schedule(activation)

    # -- activation

    async def load(self) -> None:
        """Activate agents and load messages from their records, many with one read, until cancelled."""
        while True:
            await self._cold_work.wait()
            self._cold_work.clear()
            while self._cold:
                batch = [self._cold.popleft() for _ in range(min(len(self._cold), BATCH))]
                keys = [a.key for a in batch if not a.known and a.definition.is_recorded]
                keys += [work.due for a in batch for work in _unloaded(a)]
                cells = await self._loader.read(keys) if keys else {}
                for activation in batch:
                    self._loaded(activation, cells)

    def _loaded(self, activation: Activation, cells: Mapping[str, Cell | None]) -> None:
        for work in _unloaded(activation):
            cell = cells.get(work.due)
            if cell is None or cell.data is None or not fill(work, cell.data):
                log.error("the body of a due record is missing", extra={"key": work.due})
                work.envelope = Envelope(id=work.due, type="", body=b"", target=activation.id)
        if activation.agent is None:
            try:
                if not activation.known:
                    self.residents.found(activation, cells.get(activation.key))
                if activation.definition.activation_waits:
                    self._in_background(self._awake(activation), activation)
                    return
                self.residents.make(activation)
            except Exception as error:
                self._not_made(activation, error)
                return
        activation.state = State.IDLE
        self._schedule(activation)

    async def _awake(self, activation: Activation) -> None:
        try:
            await self.residents.awake(activation)
        except Exception as error:
            self._not_made(activation, error)
        else:
            activation.state = State.IDLE
            self._schedule(activation)

    def _not_made(self, activation: Activation, error: Exception) -> None:
        """A state that does not load parks the agent; any other error is that of the message that waits."""
        if isinstance(error, StateUnreadable):
            self._park(activation, error)
            return
        work = activation.next_work(asyncio.get_running_loop().time())
        if work is None or work.envelope is None:
            activation.state = State.IDLE
            self._schedule(activation)
            return
        activation.state = State.RUNNING
        self._failed(activation, Turn(self, activation, work, work.envelope), error, 0.0)

    def _park(self, activation: Activation, error: Exception, turn: Turn | None = None) -> None:
        """What waits for the agent becomes dead letters, its cells stay as they are."""
        self.residents.park(activation, error)
        for work in (*activation.normal, *(activation.urgent or ())):
            work.envelope = work.envelope or Envelope(id=work.due, type="", body=b"", target=activation.id)
            self._end(work, error, 0.0, turn if turn is not None and turn.work is work else None)

    # -- turns

    async def run(self) -> None:
        """Run turns until cancelled. Raises what a turn's task raised beyond its handler's errors."""
        timer = self._settings.timer
        while True:
            await self._work.wait()
            self._work.clear()
            started = timer()
            ready = self._ready
            while ready:
                if self._failure is not None:
                    raise self._failure
                if self._held or self._is_full:
                    break
                self._turn(ready.pop())
                if timer() - started > self.SLICE:
                    self._stats.busy_seconds += timer() - started
                    await asyncio.sleep(0)
                    started = timer()
            self._stats.busy_seconds += timer() - started
            if self._failure is not None:
                raise self._failure

    @property
    def _is_full(self) -> bool:
        if self.careful:
            return bool(self._running)
        return len(self._running) - self._waiting >= self._settings.max_concurrent_turns

    def _turn(self, activation: Activation) -> None:
        """Start the turn of the agent's next message; one that cannot wait also ends here."""
        now = asyncio.get_running_loop().time()
        work = activation.next_work(now)
        if work is None or work.envelope is None or activation.pieces:
            activation.state = State.IDLE
            self._schedule(activation)
            return
        activation.state = State.RUNNING
        work.started = True
        activation.started(work)
        activation.used = now
        envelope = work.envelope
        if (work.due and work.due not in self._due.live) or work.cancelled:
            self._skip(activation, work)
            return
        if envelope.repeatable and (key := reply_key(self._shard, envelope.id)) in self._replied:
            self._in_background(self._answer_again(activation, work, key), activation)
            return
        policy = self._policy(work)
        if work.attempt >= policy.attempts and not work.counted:
            error = WorkerLost(f"the worker ended during each of {work.attempt} attempts at this message")
            self._give_up(activation, work, error, 0.0)
            return
        if self.careful and not work.counted:
            self._in_background(self._count_first(activation, work), activation)
            return
        self._start(activation, work, envelope)

    def _start(self, activation: Activation, work: Work, envelope: Envelope) -> None:
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
            handler, message = activation.definition.find(envelope.type, envelope.body, is_call, envelope.content_type)
            context = Context(
                turn,
                id=activation.id,
                sender=envelope.sender,
                topic=envelope.topic,
                message_id=envelope.id,
                attempt=work.attempt + 1 - work.counted,
                deadline=envelope.deadline / 1000 if envelope.deadline else None,
                created=envelope.created / 1000,
                headers=envelope.headers,
                is_call=is_call,
            )
            coroutine = handler.start(activation.agent, message, context)
            if turn.trace is not None:
                coroutine = turn.trace.around(coroutine)
            if activation.definition.error_hooks is not None:
                turn.context = context
            if handler.suspends:
                self._in_task(activation, coroutine, handler, turn, started)
                return
            try:
                coroutine.send(None)
            except StopIteration as stop:
                result = stop.value
            else:
                coroutine.close()
                raise RuntimeError(f"{handler.name} waited although nothing in it can")
        except Exception as error:
            self._failed(activation, turn, error, started)
            return
        self._succeeded(activation, turn, handler, result, started)

    def _trace(self, tracing: Tracing, work: Work, envelope: Envelope) -> TurnTrace:
        return tracing.turn(
            envelope,
            pool=self._settings.pool,
            shard=self._shard,
            attempt=work.attempt + 1 - work.counted,
            stored=work.stored,
            received=work.received,
        )

    def _in_task(
        self, activation: Activation, coroutine: Coroutine[Any, Any, Any], handler: Any, turn: Turn, started: float
    ) -> None:
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
            except asyncio.CancelledError as cancelled:
                current = asyncio.current_task()
                if work.cancelled:
                    error: Exception = CallCancelled(f"the caller gave up on {envelope.type}")
                elif current is None or current.cancelling():
                    raise
                else:  # what the handler waited for was cancelled, not the turn: its agent must not stand still
                    error = _cancelled_inside(cancelled)
                self._failed(activation, turn, error, started)
            except Exception as raised:
                error = raised
                if isinstance(raised, TimeoutError) and scope.expired():
                    error = CallTimeout(f"the deadline of {envelope.type} passed during its turn")
                self._failed(activation, turn, error, started)
            else:
                self._succeeded(activation, turn, handler, result, started)

        task = self._in_background(run(), activation)
        if envelope.reply:
            self._calling[envelope.id] = (task, work)
            task.add_done_callback(lambda _: self._calling.pop(envelope.id, None))

    def _in_background(self, job: Coroutine[Any, Any, None], activation: Activation) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        task = loop.create_task(job, name=f"turn of {activation.id}")
        self._running[task] = loop.time()
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
        self._work.set()

    # -- before a turn

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
            cell = (await self._loader.read([key]))[key]
            data = cell.data if cell is not None else None
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

    def _moves(self, work: Work, envelope: Envelope, kind: DueKind, at: int) -> Outcome:
        """The work waits as a due record from the next commit on."""
        outcome = Outcome(work, ends=False)
        body = DueBody(
            envelope=envelope.pack(), attempt=work.attempt, every=work.every, cron=work.cron, stored=work.stored
        )
        if work.timer:
            outcome.moves_to = DueAdd(work.due, at, DueKind.TIMER, body.encode(), work.timer, work.lane)
        else:
            key = work.due or due_key(self._shard, envelope.target, work.where)
            outcome.moves_to = DueAdd(key, at, kind, body.encode(), lane=work.lane)
        outcome.size_bytes += len(envelope.body) + 256
        return outcome

    # -- how a turn ends

    def _succeeded(self, activation: Activation, turn: Turn, handler: Any, result: Any, started: float) -> None:
        work = turn.work
        envelope = work.envelope
        assert envelope is not None
        outcome = Outcome(work)
        try:
            if turn.sends and self.too_far_ahead:
                raise MailboxFull("what this shard has sent and not delivered is over its limit")
            answer = b""
            if envelope.reply:
                type_name, body = handler.encode_result(result)
                answer = _packed(envelope, Reply(envelope.id, str(activation.id), body, type=type_name))
            if activation.definition.has_state and not turn.destroyed:
                self._changed(activation, outcome)
            for name, cell in (turn.cells or {}).items():
                outcome.cell(cell_key(self._shard, activation.id, name), cell)
            if turn.timers:
                self._timers(activation, turn.timers, outcome)
        except Exception as error:
            self._failed(activation, turn, error, started)
            return
        if answer:
            self._reply(outcome, envelope, answer)
        if activation.cells is not None:
            activation.cells.keep(turn.cells or {})
        if turn.destroyed:
            self._destroy(activation, outcome)
        for key, cell in turn.saved_cells(retried=False).items():
            outcome.cell(key, cell)
        if work.timer and not (turn.timers and work.timer in turn.timers) and not turn.destroyed:
            self._again_later(work, envelope, outcome)
        self._count(activation.id.type, "ok", started)
        if turn.trace is not None:
            turn.trace.finished("ok")
            outcome.trace = turn.trace
        if self._tells_all:
            log.debug("message handled", extra={"type": envelope.type, "attempt": work.attempt + 1})
        if activation.definition.durability == "none":
            outcome.lazy = not (turn.sends or outcome.cells or outcome.due or outcome.unname or outcome.moves_to)
        else:
            outcome.activation = activation
        if turn.is_large:
            self._in_background(self._spill(activation, turn, outcome), activation)
            return
        outcome.sends = turn.sends
        outcome.size_bytes += turn.sent_bytes
        self._completed(activation, outcome)

    def _changed(self, activation: Activation, outcome: Outcome) -> None:
        data = activation.definition.dump_state(activation.agent.state)  # type: ignore[union-attr]
        if data != activation.data:
            if len(data) > limits.MAX_BODY:
                raise TooLarge(f"state of {activation.id} has {len(data)} bytes, at most {limits.MAX_BODY}")
            activation.data = data
            if activation.definition.is_recorded:
                outcome.cell(activation.key, Cell(activation.definition.state_version, data))
            else:
                activation.committed = data

    def _reply(self, outcome: Outcome, envelope: Envelope, packed: bytes) -> None:
        """The answer goes out with the commit; that of an agent which records nothing, at once."""
        definition = self._settings.agents.get(envelope.target.type)
        if self._answers is not None and definition is not None and definition.durability == "none":
            self._answers.put(envelope.reply, packed)
            return
        outcome.reply = ReplyRecord(envelope.reply, packed)
        outcome.size_bytes += len(packed)
        if envelope.repeatable:
            key = reply_key(self._shard, envelope.id)
            expires = envelope.deadline + int(self._settings.dedupe_window * 1000)
            outcome.cell(key, Cell(0, packed))
            outcome.due = [*(outcome.due or ()), DueAdd(key, expires, DueKind.REPLY, None)]
            self._replied[key] = packed
            outcome.after = lambda: self._recorded_now(key)

    def _recorded_now(self, key: str) -> None:
        if key in self._replied:
            self._replied[key] = None

    def _timers(self, activation: Activation, timers: Mapping[str, Any], outcome: Outcome) -> None:
        outcome.agent = activation.id
        outcome.unname = []
        for name, timer in timers.items():
            for queue in (activation.normal, activation.urgent or []):
                for other in [w for w in queue if w.timer == name and w is not outcome.work]:
                    queue.remove(other)
            outcome.unname.append(name)
            if timer is not None:
                key = timer_key(self._shard, activation.id, name, timer.envelope.id)
                body = DueBody(
                    envelope=timer.envelope.pack(), every=timer.every, cron=timer.cron, stored=self._settings.wall()
                ).encode()
                outcome.due = [*(outcome.due or ()), DueAdd(key, timer.at, DueKind.TIMER, body, name)]
                outcome.size_bytes += len(body) + 256

    def _again_later(self, work: Work, envelope: Envelope, outcome: Outcome) -> None:
        """A recurring timer goes on with its next occurrence; what was missed is not made up for."""
        if work.due not in self._due.live or not (work.every or work.cron):
            return
        at = next_occurrence(envelope.not_before / 1000, work.every, work.cron, self._settings.wall())
        work.attempt = 0
        base = replace(envelope, id=envelope.id.rpartition("@")[0], not_before=0)
        outcome.moves_to = self._moves(work, base, DueKind.TIMER, int(at * 1000)).moves_to

    def _destroy(self, activation: Activation, outcome: Outcome) -> None:
        """The agent ends, with all that waits for it outside the mailbox; later messages find it new."""
        outcome.cell(activation.key, Cell(activation.definition.state_version, None))
        outcome.undue = self.due_keys(activation.id)
        gone = set(outcome.undue)
        for queue in (activation.normal, activation.urgent or []):
            for other in [w for w in queue if w.due in gone and w is not outcome.work]:
                queue.remove(other)
        activation.data = None
        self.residents.roll_back(activation)

    def due_keys(self, agent: AgentId) -> list[str]:
        """Return the keys of all due records of an agent."""
        address = self.key_of(agent).split(".", 2)[2].rpartition(".")[0]
        prefix = tuple(f"{self._shard}.{kind}.{address}." for kind in "dt")
        return [key for key in self._due.live if key.startswith(prefix)]

    async def _spill(self, activation: Activation, turn: Turn, outcome: Outcome) -> None:
        """A large fan-out: its parts are stored first, and go out one after the other once the turn is committed."""
        envelope = turn.work.envelope
        assert envelope is not None
        wall = int(self._settings.wall() * 1000)
        outcome.due = list(outcome.due or ())
        count = 0
        for count, body in enumerate(_pieces(turn.sends), 1):
            key = piece_key(self._shard, activation.id, envelope.id, count)
            await self.save(key, body, ())
            outcome.due.append(DueAdd(key, wall, DueKind.PIECE, None))
            outcome.size_bytes += len(key) + 32
        activation.pieces += count
        self._completed(activation, outcome)

    def piece_sent(self, agent: AgentId) -> None:
        """One part of what an agent has sent is committed to the outbox."""
        activation = self._agents.get(agent)
        if activation is not None and activation.pieces:
            activation.pieces -= 1
            if not activation.pieces and activation.state is State.WAITING:
                self._schedule(activation)

    def _completed(self, activation: Activation, outcome: Outcome) -> None:
        assert outcome.work is not None
        self._uncount(outcome.work)
        activation.ended(outcome.work)
        outcome.work.counted = False
        self._finish(outcome)
        self._next(activation)

    def _failed(self, activation: Activation, turn: Turn, error: Exception, started: float) -> None:
        """Roll the agent back; try again after a pause, or give up on the message."""
        work = turn.work
        envelope = work.envelope
        assert envelope is not None
        hooks, context = activation.definition.error_hooks, turn.context
        if hooks is not None and context is not None and hooks.covers(error):
            turn.context = None
            self._in_background(self._tell_hooks(hooks, activation, turn, context, error, started), activation)
            return
        if not work.counted:
            work.attempt += 1
        self._uncount(work)
        work.counted = False
        cells = activation.cells
        if cells is not None and error is cells.broken:
            self._park(activation, error, turn)
            return
        try:
            self.residents.roll_back(activation)
        except StateUnreadable as unreadable:
            self._park(activation, unreadable, turn)
            return
        except Exception as problem:  # its own `__init__`: it is made again before the next turn
            log.debug("agent not made again", exc_info=problem, extra={"agent": str(activation.id)})
        policy = self._policy(work)
        if not policy.retries(error, work.attempt):
            self._give_up(activation, work, error, started, turn)
            return
        pause = policy.pause(work.attempt, self._settings.chance.random())
        current_turn.set((self._settings.pool, self._shard, envelope))
        log.warning("turn failed, will be tried again", exc_info=error, extra={"attempt": work.attempt, "pause": pause})
        self._count(activation.id.type, "retry", started)
        outcome = self._moves(work, envelope, DueKind.RETRY, int((self._settings.wall() + pause) * 1000))
        for key, cell in turn.saved_cells(retried=True).items():
            outcome.cell(key, cell)
        if turn.trace is not None:
            turn.trace.failed(self._record(work, error))
            turn.trace.finished("retry")
            outcome.trace = turn.trace
        if work.timer or not activation.definition.options.ordered:
            activation.ended(work)
        else:
            work.not_before = asyncio.get_running_loop().time() + pause
        self._finish(outcome)
        self._next(activation)

    async def _tell_hooks(
        self,
        hooks: ErrorHooks,
        activation: Activation,
        turn: Turn,
        context: Context,
        error: Exception,
        started: float,
    ) -> None:
        await hooks.run(activation.agent, error, context)
        self._failed(activation, turn, error, started)

    def _record(self, work: Work, error: Exception) -> ErrorRecord:
        where = {name: str(fact) for name, fact in log_context.facts().items()}
        return ErrorRecord.of(error, now=self._settings.wall(), context={**where, "attempt": str(work.attempt)})

    def _uncount(self, work: Work) -> None:
        if self.counting and work.due == self.counting:
            self.counting = ""

    def _policy(self, work: Work) -> RetryPolicy:
        envelope = work.envelope
        assert envelope is not None
        if envelope.reply:
            return CALL_POLICY
        topic = envelope.topic
        if topic is not None and topic.type in self._settings.retry_by_topic:
            return self._settings.retry_by_topic[topic.type]
        return self._settings.retry

    def _next(self, activation: Activation) -> None:
        activation.state = State.IDLE
        if activation.normal or activation.urgent:
            self._schedule(activation)

    def _give_up(
        self, activation: Activation, work: Work, error: Exception, started: float, turn: Turn | None = None
    ) -> None:
        activation.ended(work)
        self._end(work, error, started, turn)
        self._next(activation)

    def _end(self, work: Work, error: Exception, started: float, turn: Turn | None = None) -> None:
        """The message is not tried (again): a call gets the error, anything else becomes a dead letter."""
        envelope = work.envelope
        assert envelope is not None
        outcome = Outcome(work)
        current_turn.set((self._settings.pool, self._shard, envelope))
        record = self._record(work, error) if envelope.reply or self._tracing is not None else None
        if envelope.reply:
            self._reply(outcome, envelope, error_reply(envelope.id, str(envelope.target), error, record).pack())
        else:
            outcome.dead = dead_letter(envelope, error, attempts=work.attempt, now=self._settings.wall())
            self._stats.dead_letters[type(error).__name__] += 1
        outcome.size_bytes += len(envelope.body) + 1024
        if turn is not None:
            for key, cell in turn.saved_cells(retried=False).items():
                outcome.cell(key, cell)
        if work.timer:
            self._again_later(work, envelope, outcome)
        severity, result = severity_of(error), "failed" if envelope.reply else "dead"
        log.log(
            severity.level if envelope.reply else max(severity.level, logging.WARNING),
            "message given up",
            exc_info=error,
            extra={"result": result, "severity": severity.value, "attempt": work.attempt},
        )
        if self._tracing is not None and record is not None:
            outcome.trace = trace = turn.trace if turn and turn.trace else self._trace(self._tracing, work, envelope)
            trace.failed(record)
            trace.finished(result)
        self._count(envelope.target.type, result, started)
        self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        if outcome.activation is not None:
            outcome.activation.pending += 1
        (self.lazy if outcome.lazy else self.outcomes).append(outcome)
        self._settings.passed(Point.TURN_DONE)
        if not outcome.lazy or len(self.lazy) >= limits.MAX_LAZY:
            self.finished.set()

    def _count(self, agent_type: str, result: str, started: float) -> None:
        self._stats.turns[agent_type, result] += 1
        if started:
            spent = self._stats.turn_seconds
            spent[agent_type] = spent.get(agent_type, 0.0) + self._settings.timer() - started

    # -- what a turn needs of its shard

    @property
    def queries(self) -> QueryClient:
        """Asks past the log."""
        return self._calls.queries

    def target(self, agent: AgentId) -> Target:
        """Return where an agent's messages go. Raises UnknownAgentType."""
        return self._routes.current.target(agent)

    def targets(self, topic: TopicId) -> list[Target]:
        return list(self._routes.current.targets(topic))

    def wall(self) -> float:
        return self._settings.wall()

    def add(self, outcome: Outcome) -> None:
        """Let the next commit make something true that is no turn's end."""
        self._finish(outcome)

    async def commit(self, outcome: Outcome) -> None:
        """Wait until a commit has made it true."""
        outcome.future = asyncio.get_running_loop().create_future()
        self._finish(outcome)
        await outcome.future

    async def save(self, key: str, data: bytes | None, sends: tuple[Send, ...]) -> None:
        """Commit a cell, and messages with it, before the turn goes on."""
        outcome = Outcome()
        if data is not None:
            outcome.cell(key, Cell(0, data))
        outcome.sends = sends
        outcome.size_bytes += sum(len(send.packed) for send in sends)
        await self.commit(outcome)

    async def read_saved(self, key: str) -> bytes | None:
        """Return what an earlier attempt of this turn has saved."""
        cell = (await self._loader.read([key]))[key]
        return cell.data if cell is not None else None

    def expect_reply(self) -> tuple[str, asyncio.Future[Reply]]:
        return self._calls.expect()

    def forget_reply(self, reply_to: str) -> None:
        self._calls.forget(reply_to)

    def give_up_call(self, target: Target, call: str) -> None:
        """Tell the callee that nobody waits any more; it may be too late."""
        self._calls.give_up(MeshNames(self._settings.mesh).pool(target.pool.pool).cancel(target.shard), call)

    def waits(self, waiting: int) -> None:
        self._waiting += waiting
        if waiting > 0:
            self._work.set()

    async def call_at_once(
        self,
        envelope: Envelope,
        target: AgentId,
        type_name: str,
        body: bytes,
        timeout: float | None,
        headers: Mapping[str, str],
        trace: str,
    ) -> tuple[str, bytes]:
        """Call without saving the call first: for agents whose turns are not recorded either."""
        return await self._calls.call(
            target,
            type_name,
            body,
            timeout=timeout,
            headers=headers,
            sender=envelope.target,
            chain=(*envelope.chain, str(envelope.target)),
            trace=trace,
            not_after=envelope.deadline / 1000 if envelope.deadline else None,
        )

    def called(self, result: str) -> None:
        self._stats.calls[result] += 1

    def cancel_call(self, call: str) -> None:
        """The caller has given up: stop the turn, or do not start it. What is committed stays."""
        running = self._calling.get(call)
        if running is not None:
            task, work = running
            work.cancelled = True
            task.cancel()
            return
        for activation in self._agents.values():
            for queue in (activation.normal, activation.urgent or ()):
                for work in queue:
                    if work.envelope is not None and work.envelope.reply and work.envelope.id == call:
                        work.cancelled = True

    # -- room in the window

    def park(self, inlet: Inlet, up_to: int) -> int:
        """Let what is not finished up to a position of an inlet wait as due records; return how many.

        Closed to the front: of each agent everything unfinished up to there goes, the running one too, so that
        "records first, by position" stays the order of the log.
        """
        parked = 0
        at = int(self._settings.wall() * 1000)
        for activation in self._agents.values():
            for queue in (activation.normal, activation.urgent or ()):
                for depth, work in enumerate(queue):
                    position = work.position
                    if work.due or work.inlet != inlet or position is None or position.sequence > up_to:
                        continue
                    assert work.envelope is not None
                    outcome = self._moves(work, work.envelope, DueKind.PARKED, at)
                    if depth >= limits.PARKED_IN_MEMORY:
                        outcome.after = _unloader(work)
                    self._finish(outcome)
                    parked += 1
        return parked

    # -- the end

    def stop(self) -> None:
        """Start no further turn; those that run go on."""
        self.stopping = self._held = True

    def hold(self) -> None:
        """Start no turn until `go_on`."""
        self._held = True

    def go_on(self) -> None:
        """Start turns again."""
        self._held = self.stopping
        self._work.set()

    def running_since(self, when: float) -> set[asyncio.Task[None]]:
        """Turns that have been running since this time of the loop, or for longer."""
        return {task for task, since in self._running.items() if since <= when}

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no turn runs, at most `timeout` seconds; return whether none does."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=timeout)
        return not self._running

    async def cancel(self) -> None:
        """Cancel the turns that run; they run again elsewhere."""
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=limits.TURN_END_GRACE)
        for activation in self._agents.values():
            if activation.timer is not None:
                activation.timer.cancel()

    async def close(self) -> None:
        """Close the agents that want it, within a second."""
        await self.residents.close()

    def parked(self, agent: AgentId) -> str | None:
        """Return why an agent is parked, None when it is not."""
        return self.residents.parked.get(agent)

    def unpark(self, agent: AgentId) -> None:
        """Its state is mended: it takes messages again."""
        self.residents.unpark(agent)

    async def read(self, keys: Sequence[str]) -> Mapping[str, Cell | None]:
        """Return committed cells."""
        return await self._loader.read(keys)

    def activation(self, agent: AgentId) -> Activation | None:
        """Return the agent if it is in memory."""
        return self._agents.get(agent)

    @property
    def is_settled(self) -> bool:
        """Whether no turn runs or could start now, and nothing waits for its commit."""
        return not self.outcomes and not any(
            a.pending or a.state in (State.READY, State.COLD, State.RUNNING) for a in self._agents.values()
        )

    @property
    def is_idle(self) -> bool:
        """Whether no message waits, no turn runs, and nothing waits for its commit."""
        return not self.outcomes and not self.lazy and all(a.is_idle for a in self._agents.values())

    def key_of(self, agent: AgentId) -> str:
        """Table key of the agent's state."""
        return cell_key(self._shard, agent, STATE_CELL)

    def state_of(self, agent: AgentId) -> bytes | None:
        """The agent's state after its last good turn, if it is in memory."""
        activation = self._agents.get(agent)
        return activation.data if activation else None


def _cancelled_inside(error: BaseException) -> RuntimeError:
    """Return the error of a turn in which something else than the turn was cancelled."""
    made = RuntimeError("what the handler waited for was cancelled")
    made.__cause__ = error
    return made


def _packed(envelope: Envelope, reply: Reply) -> bytes:
    """Raises TooLarge."""
    packed = reply.pack()
    if len(packed) > limits.MAX_BODY:
        raise TooLarge(f"the answer to {envelope.type} has {len(packed)} bytes, at most {limits.MAX_BODY}")
    return packed


def _unloaded(activation: Activation) -> list[Work]:
    """The next messages of an agent that are only in their records' cells."""
    return [
        work
        for queue in (activation.normal, activation.urgent or ())
        for work in queue[: limits.PARKED_IN_MEMORY]
        if work.envelope is None
    ]


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


def _unloader(work: Work) -> Callable[[], None]:
    """Return what takes a parked message out of memory once its record is committed."""

    def unload() -> None:
        if work.due and not work.started:
            work.envelope = None

    return unload


def _pieces(sends: Sequence[Send]) -> list[bytes]:
    pieces: list[bytes] = []
    part: list[Any] = []
    size_bytes = 0
    for send in sends:
        pool = send.target.pool
        part.append((pool.pool, pool.incarnation, send.target.shard, send.lane.value, send.packed))
        size_bytes += len(send.packed) + 64
        if size_bytes >= limits.PIECE_BYTES:
            pieces.append(msgpack.packb(part))
            part, size_bytes = [], 0
    if part:
        pieces.append(msgpack.packb(part))
    return pieces


def unpack_piece(data: bytes) -> list[tuple[str, str, int, str, bytes]]:
    """Return the messages of a part: pool, incarnation, shard, lane, packed envelope. Raises DecodeError."""
    try:
        return [tuple(item) for item in msgpack.unpackb(data)]
    except Exception as error:
        raise DecodeError(f"piece of a fan-out: {error!r}") from error
