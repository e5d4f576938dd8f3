"""Turns of calls that were made in this process and have nothing to wait for: run from the call itself to their end.

Only for a store that is gone with the process: the caller has its answer before the turn is in a record. The record
comes with the next commit, and until then the turn counts as committed: queries see it, and passivation waits for it.
"""

from __future__ import annotations

import logging
from contextvars import copy_context
from typing import Any, Final

from starling.core.envelope import Envelope
from starling.core.ids import AgentId
from starling.core.limits import MAX_BODY, MAX_COMMIT
from starling.core.reference import check_inline
from starling.core.reply import Reply
from starling.dispatch import Handler
from starling.engine.activation import IDLE, RUNNING, Activation
from starling.engine.turn import Turn
from starling.engine.turn_starts import TurnStarts
from starling.engine.work import Outcome, Work
from starling.log_context import current as current_turn
from starling.unruly import as_error

log = logging.getLogger(__name__)

MOST_UNRECORDED: Final = 4096
"""Turns ahead of the record; further calls go through the mailbox, and so wait for the commits."""
MOST_UNRECORDED_BYTES: Final = 4 * MAX_COMMIT


class DirectTurns(TurnStarts):
    """Runs single turns on the spot."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unrecorded = 0
        """Answered turns that are in no record yet."""
        self._unrecorded_bytes = 0
        self._own_context = copy_context()

    def idle(self, agent: AgentId) -> Activation | None:
        """Return the agent if a turn of it may run at once: it is in memory, and nothing of it waits for anything."""
        activation = self._agents.get(agent)
        if (
            activation is None
            or activation.state is not IDLE
            or activation.agent is None
            or activation.pending
            or self._held
            or self.careful
            or self._failure is not None
            or self._tracing is not None
            or self._is_full
            or self._outbox_is_full
            or self.unrecorded >= MOST_UNRECORDED
            or self._unrecorded_bytes >= MOST_UNRECORDED_BYTES
        ):
            return None
        return activation

    def run_here(self, activation: Activation, envelope: Envelope, handler: Handler, message: Any) -> tuple[bool, Any]:
        """Run the turn of a call to an idle agent; return True and the answer, a copy that shares nothing with it.

        False: the answer comes to the envelope's reply address with the commit; it is an error, or very large.
        handler: one that cannot wait, and makes one attempt; message: shares nothing with its sender's.
        """
        return self._own_context.run(self._run_here, activation, envelope, handler, message)

    def _run_here(self, activation: Activation, envelope: Envelope, handler: Handler, message: Any) -> tuple[bool, Any]:
        started = self._settings.timer()
        work = Work(envelope, None, None, 0, 0, envelope.created / 1000)
        turn = Turn(self, activation, work, envelope)
        activation.state = RUNNING
        activation.used = self._clock()
        current_turn.set((self._settings.pool, self._shard, envelope))
        outcome = Outcome(work)
        try:
            hooks = activation.definition.error_hooks
            context = self._context(turn, work, envelope) if handler.with_context or hooks is not None else None
            if hooks is not None:
                turn.context = context
            result = handler.finish(handler.start(activation.agent, message, context))
            body, answer = handler.copied_result(result)
            if len(body) > MAX_BODY and turn.records_nothing:
                check_inline(body, f"the answer to {envelope.type}, of an agent with durability none,")
            self._leaves(activation, turn, outcome)
            if turn.large or turn.is_large:
                name, body = handler.encode_result(result)
                packed = self._packed(turn, envelope, Reply(envelope.id, str(activation.id), body, name))
                self._ended_well(activation, turn, outcome, packed, started)
                if context is not None:
                    context.end()
                return False, None
        except BaseException as raised:
            self._failed(activation, turn, as_error(raised), started)
            if isinstance(raised, KeyboardInterrupt):
                raise
            return False, None
        self._answered(activation, turn, outcome, started)
        if context is not None:
            context.end()
        return True, answer

    def _answered(self, activation: Activation, turn: Turn, outcome: Outcome, started: float) -> None:
        """The end of a good turn whose caller has its answer before the record."""
        self._stats.busy_seconds += self._went_well(activation, turn, outcome, started)
        activation.committed = activation.data
        if not outcome.is_empty:
            self.unrecorded += 1
            self._unrecorded_bytes += outcome.size_bytes
            activation.unrecorded += 1
            outcome.answered = activation
            # Nothing asks for it any more, and what waits for a commit is looked at again and again for reference
            # cycles: with three objects of the message, and three of a callback, looks were a tenth of a call's time.
            outcome.work = None
            self._finish(outcome)
        self._next(activation)

    def answer_recorded(self, outcome: Outcome, activation: Activation) -> None:
        """An answered turn of this agent is in a record now."""
        activation.unrecorded -= 1
        self.unrecorded -= 1
        self._unrecorded_bytes -= outcome.size_bytes
