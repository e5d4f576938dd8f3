"""How a turn ends: with an outcome for the next commit, a further attempt, or a message given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from starling import log_context
from starling.context import Context
from starling.core import limits
from starling.core.due import DueBody, DueKind, due_key, piece_key, reply_key, row_bytes, timer_key
from starling.core.envelope import Envelope
from starling.core.error_record import ErrorRecord
from starling.core.ids import AgentId
from starling.core.names import cell_key
from starling.core.record import Cell, ReplyRecord
from starling.core.recurrence import next_occurrence
from starling.core.reference import MARK, REPLY, Reference, cell_reference, check_inline
from starling.core.reply import Reply, error_reply
from starling.core.retry import RetryPolicy
from starling.core.severity import severity_of
from starling.engine.activation import WAITING, Activation
from starling.engine.dead import dead_letter
from starling.engine.pieces import pieces
from starling.engine.schedule import SWEEP_LEAVING
from starling.engine.turn import Turn
from starling.engine.turn_services import TurnServices
from starling.engine.work import DueAdd, Outcome, Work
from starling.error_hooks import ErrorHooks
from starling.errors import MailboxFull, StateUnreadable, TooLarge, UnknownPool
from starling.log_context import current as current_turn
from starling.tracing import Tracing, TurnTrace

log = logging.getLogger(__name__)

STATE_CELL = "state"
CALL_POLICY: Final = RetryPolicy(attempts=1)


class TurnEnds(TurnServices):
    """Makes an outcome of each turn's end."""

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

    def _succeeded(self, activation: Activation, turn: Turn, handler: Any, result: Any, started: float) -> None:
        work = turn.work
        envelope = work.envelope
        assert envelope is not None
        outcome = Outcome(work)
        answer = b""
        try:
            if envelope.reply:
                type_name, body = handler.encode_result(result)
                answer = self._packed(turn, envelope, Reply(envelope.id, str(activation.id), body, type=type_name))
            self._leaves(activation, turn, outcome, len(answer))
        except Exception as error:
            self._failed(activation, turn, error, started)
            return
        self._ended_well(activation, turn, outcome, answer, started)

    def _leaves(self, activation: Activation, turn: Turn, outcome: Outcome, answer_bytes: int = 0) -> None:
        """What a turn leaves for its commit beside its answer; it may still fail. Raises what makes it fail."""
        if turn.sends and self.too_far_ahead:
            raise MailboxFull("what this shard has sent and not delivered is over its limit")
        if activation.definition.has_state and not turn.destroyed:
            self._changed(activation, turn, outcome)
        if turn.cells:
            for name, cell in turn.cells.items():
                self._cell(turn, outcome, cell_key(self._shard, activation.id, name), cell)
        size_bytes = outcome.size_bytes + answer_bytes + turn.sent_bytes
        if size_bytes > limits.MAX_BODY or turn.timers or turn.destroyed:
            self._check_fits(activation, turn, outcome, answer_bytes)

    def _check_fits(self, activation: Activation, turn: Turn, outcome: Outcome, answer_bytes: int) -> None:
        """Raises TooLarge for what no record holds: sent all the same, it would end the shard with each attempt."""
        envelope = turn.work.envelope
        assert envelope is not None
        size_bytes = outcome.size_bytes + answer_bytes * (2 if envelope.repeatable else 1)
        size_bytes += 0 if turn.is_large else turn.in_place_bytes
        for name, timer in (turn.timers or {}).items():
            size_bytes += 2 * len(activation.key) + 6 * len(name) + 256
            size_bytes += 0 if timer is None else len(timer.envelope.body) + len(activation.key) + 256
        if turn.destroyed:
            size_bytes += sum(row_bytes(key) for key in self._due.later(activation.id))
        if size_bytes > limits.MAX_RECORD:
            raise TooLarge(
                f"one turn leaves {size_bytes} bytes of cells, timers, messages and answer together, at most "
                f"{limits.MAX_RECORD}; do less in a turn"
            )

    def _ended_well(
        self,
        activation: Activation,
        turn: Turn,
        outcome: Outcome,
        answer: bytes,
        started: float,
        *,
        is_stored: bool = False,
    ) -> None:
        """The end of a good turn. answer: packed, empty when nobody waits for one; is_stored: what its commit cannot
        hold is stored already."""
        if not is_stored and (turn.large or (turn.sends and turn.is_large)):
            spilling = self._spill(activation, turn, outcome, answer, started)
            self._hold_others(turn, self._in_background(spilling, activation))
            return
        if answer:
            assert turn.work.envelope is not None
            self._reply(outcome, turn.work.envelope, answer)
        self._went_well(activation, turn, outcome, started)
        if turn.trace is not None:
            outcome.trace = turn.trace
        if activation.definition.durability == "none":
            activation.committed = activation.data
            outcome.lazy = outcome.is_empty
        else:
            outcome.activation = activation
        self._completed(activation, outcome)

    def _went_well(self, activation: Activation, turn: Turn, outcome: Outcome, started: float) -> float:
        """What every good turn's end does, whoever waits for it; return the seconds that the turn took."""
        work = turn.work
        envelope = work.envelope
        assert envelope is not None
        if outcome.state is not None:
            activation.data = outcome.state
        if turn.sends:  # an empty list kept until the commit would cost each look for reference cycles
            outcome.sends = turn.sends
            outcome.size_bytes += turn.sent_bytes
        if turn.timers and not turn.destroyed:
            self._timers(activation, turn.timers, outcome)
        if activation.cells is not None:
            activation.cells.keep(turn.cells or {})
        if turn.destroyed:
            self._destroy(activation, outcome)
        if work.saved:
            for key, cell in turn.saved_cells(retried=False).items():
                outcome.cell(key, cell)
        if work.timer and not (turn.timers and work.timer in turn.timers) and not turn.destroyed:
            self._again_later(work, envelope, outcome)
        if turn.trace is not None:
            turn.trace.finished("ok")
        if self._tells_all:
            log.debug("message handled", extra={"type": envelope.type, "attempt": work.attempt + 1})
        return self._count(activation.id.type, "ok", started)

    def _packed(self, turn: Turn, envelope: Envelope, reply: Reply) -> bytes:
        """Return the answer as it travels; a large body goes to the object store. Raises TooLarge."""
        if len(reply.body) > limits.MAX_BODY:
            if turn.records_nothing:
                check_inline(reply.body, f"the answer to {envelope.type}, of an agent with durability none,")
            large = self.large.refer(REPLY, reply.body, share=0 if envelope.repeatable else 1)
            turn.large[large] = reply.body
            reply = reply._replace(body=b"", large=large)
        return reply.pack()

    def _cell(self, turn: Turn, outcome: Outcome, key: str, cell: Cell) -> None:
        """Add a changed cell to the commit; a large one goes to the object store, and the commit refers to it."""
        data = cell.data
        if data is not None and (len(data) > limits.MAX_BODY or data.startswith(MARK)):
            cell = self.large.cell(cell, turn.large)
        outcome.cell(key, cell)

    def _changed(self, activation: Activation, turn: Turn, outcome: Outcome) -> None:
        definition = activation.definition
        data = definition.dump_state(activation.agent.state)  # type: ignore[union-attr]
        if data != activation.data:
            if len(data) > limits.MAX_LARGE:
                raise TooLarge(f"state of {activation.id} has {len(data)} bytes, at most {limits.MAX_LARGE}")
            outcome.state = data
            if definition.options.durability == "committed":
                self._cell(turn, outcome, activation.key, Cell(definition.options.version, data))

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
        outcome.undue = []
        added = list(outcome.due or ())
        for name, timer in timers.items():
            outcome.undue += self._leave(self._due.named(activation.id, DueKind.TIMER, name))
            if timer is not None:
                key = timer_key(self._shard, activation.id, name, timer.envelope.id)
                body = DueBody(
                    envelope=timer.envelope.pack(), every=timer.every, cron=timer.cron, stored=self._settings.wall()
                ).encode()
                added.append(DueAdd(key, timer.at, DueKind.TIMER, body, name))
                outcome.size_bytes += len(body) + 256
                self._due.coming(activation.id, key, DueKind.TIMER, name)
        outcome.due = added or None

    def _again_later(self, work: Work, envelope: Envelope, outcome: Outcome) -> None:
        """A recurring timer goes on with its next occurrence; what was missed is not made up for."""
        if self._is_taken_back(work) or not (work.every or work.cron):
            return
        at = next_occurrence(envelope.not_before / 1000, work.every, work.cron, self._settings.wall())
        work.attempt = 0
        base = replace(envelope, id=envelope.id.rpartition("@")[0], not_before=0)
        outcome.moves_to = self._moves(work, base, DueKind.TIMER, int(at * 1000)).moves_to

    def _destroy(self, activation: Activation, outcome: Outcome) -> None:
        """The agent ends, with its timers and delayed messages; what has come finds it new, parked or not."""
        outcome.cell(activation.key, Cell(activation.definition.state_version, None))
        outcome.undue = self.end_later(activation.id)
        activation.data = None
        try:
            self.residents.roll_back(activation)
        except Exception as problem:  # its own `__init__`: it is made again before the next turn
            log.debug("agent not made again", exc_info=problem, extra={"agent": str(activation.id)})

    def key_of(self, agent: AgentId) -> str:
        """Table key of the agent's state."""
        return cell_key(self._shard, agent, STATE_CELL)

    def _leave(self, keys: Sequence[str]) -> Sequence[str]:
        """Return the keys. No turn of these starts any more, although they are live until the next commit: they may
        have been handed over, and wait in their agent's queue."""
        self._leaving.update(keys)
        if len(self._leaving) >= self._sweep_leaving_at:
            self._leaving = {key for key in self._leaving if self._due.has(key)}
            self._sweep_leaving_at = max(SWEEP_LEAVING, 2 * len(self._leaving))
        return keys

    def _is_taken_back(self, work: Work) -> bool:
        """Whether its record is gone, or goes with an outcome that is not committed yet."""
        return bool(work.due) and (work.due in self._leaving or work.due not in self._due.live)

    def end_later(self, agent: AgentId) -> list[str]:
        """Return the keys of an agent's timers and delayed messages, of which no turn starts any more; one that is
        tried again is none any more."""
        keys = self._due.later(agent)
        self._leave(keys)
        return keys

    def _hold_others(self, turn: Turn, spill: asyncio.Task[None]) -> None:
        """Count what is being stored, but only for a while: an object store that is missing holds up one agent."""
        loop = asyncio.get_running_loop()
        size_bytes = sum(map(len, turn.large.values())) + sum(len(packed) for _, packed in turn.sends)
        self.unstored_bytes += size_bytes
        patience = loop.call_later(limits.STORE_TIMEOUT, self.stored, size_bytes)

        def ended(_: asyncio.Task[None]) -> None:
            if patience.when() > loop.time():
                patience.cancel()
                self.stored(size_bytes)

        spill.add_done_callback(ended)

    async def _spill(self, activation: Activation, turn: Turn, outcome: Outcome, answer: bytes, started: float) -> None:
        """What a commit cannot hold is stored before it: large objects, and the parts of a large fan-out.

        The parts go out one after the other once the turn is committed. Without a store for its objects it has failed.
        """
        envelope = turn.work.envelope
        assert envelope is not None
        if turn.large:
            ran = self._settings.timer() - started
            try:
                await self.large.put(turn.large, keys=_keys_of(outcome))
            except UnknownPool as error:
                self._failed(activation, turn, error, started)
                return
            started = self._settings.timer() - ran  # what counts as its time is its handler's
        if turn.is_large:
            wall = int(self._settings.wall() * 1000)
            outcome.due = []
            for count, body in enumerate(pieces(turn.sends), 1):
                key = piece_key(self._shard, activation.id, envelope.id, count)
                await self.save(key, body, ())
                outcome.due.append(DueAdd(key, wall, DueKind.PIECE, None))
                outcome.size_bytes += len(key) + 32
            activation.pieces += len(outcome.due)
            turn.sends = []
        turn.sent_bytes = sum(len(packed) for _, packed in turn.sends)
        self._ended_well(activation, turn, outcome, answer, started, is_stored=True)

    def piece_sent(self, agent: AgentId) -> None:
        """One part of what an agent has sent is committed to the outbox."""
        activation = self._agents.get(agent)
        if activation is not None and activation.pieces:
            activation.pieces -= 1
            if not activation.pieces and activation.state is WAITING:
                self._schedule(activation)

    def _completed(self, activation: Activation, outcome: Outcome) -> None:
        work = outcome.work
        assert work is not None
        if self.counting:
            self._uncount(work)
        activation.ended(work)
        work.counted = False
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
        policy = self._policy(work, turn.attempts)
        if not policy.retries(error, work.attempt) or work.cancelled:
            self._give_up(activation, work, error, started, turn)
            return
        pause = policy.pause(work.attempt, self._settings.chance.random())
        if envelope.reply and envelope.deadline and envelope.deadline <= (self._settings.wall() + pause) * 1000:
            self._give_up(activation, work, error, started, turn)  # nobody would wait for a further attempt
            return
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
        try:
            await hooks.run(activation.agent, error, context)
        except asyncio.CancelledError:
            if self.cancelling:
                raise
            log.warning("an error hook has cancelled itself", extra={"agent": str(activation.id)})
        self._failed(activation, turn, error, started)

    def _record(self, work: Work, error: Exception) -> ErrorRecord:
        where = {name: str(fact) for name, fact in log_context.facts().items()}
        return ErrorRecord.of(error, now=self._settings.wall(), context={**where, "attempt": str(work.attempt)})

    def _uncount(self, work: Work) -> None:
        if self.counting and work.due == self.counting:
            self.counting = ""

    def _policy(self, work: Work, call_attempts: int) -> RetryPolicy:
        """call_attempts: how often the handler runs at most if somebody waits for its answer."""
        envelope = work.envelope
        assert envelope is not None
        if envelope.reply:
            return CALL_POLICY if call_attempts == 1 else replace(self._settings.retry, attempts=call_attempts)
        topic = envelope.topic
        by_topic = self._routes.current.retry(topic, envelope.target.type) if topic is not None else None
        return self._settings.retry if by_topic is None else by_topic

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

    def _trace(self, tracing: Tracing, work: Work, envelope: Envelope) -> TurnTrace:
        return tracing.turn(
            envelope,
            pool=self._settings.pool,
            shard=self._shard,
            attempt=work.attempt + 1 - work.counted,
            stored=work.stored,
            received=work.received,
        )

    def _park(self, activation: Activation, error: Exception, turn: Turn | None = None) -> None:
        """What waits for the agent becomes dead letters, its cells stay as they are."""
        self.residents.park(activation, error)
        for work in (*activation.normal, *(activation.urgent or ())):
            if self._is_taken_back(work):
                continue
            work.envelope = work.envelope or Envelope(id=work.due, type="", body=b"", target=activation.id)
            self._end(work, error, 0.0, turn if turn is not None and turn.work is work else None)


def _keys_of(outcome: Outcome) -> dict[Reference, str]:
    """Table keys of the cells whose content is in the object store."""
    found = {cell_reference(cell.data): key for key, cell in (outcome.cells or {}).items()}
    return {reference: key for reference, key in found.items() if reference is not None}
