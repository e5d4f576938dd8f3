"""Turns: one envelope handled by one agent, one at a time per agent, in log order per lane, urgent first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from starling.core import limits
from starling.core.due import DueBody, DueKind, due_key
from starling.core.envelope import Envelope
from starling.core.ids import AgentId
from starling.core.names import NORMAL_LANE, Inlet
from starling.core.record import Cell
from starling.engine.activation import COLD, IDLE, READY, RUNNING, WAITING, Activation
from starling.engine.direct_turns import DirectTurns
from starling.engine.turn import CANCEL_TYPE
from starling.engine.work import DueAdd, Outcome, Work
from starling.errors import (
    CantHandle,
    StateUnreadable,
)

log = logging.getLogger(__name__)

GIVEN_UP_LOOK: Final = 0.02
"""Seconds that calls which are given up wait for others, before they are looked for."""


class Turns(DirectTurns):
    """Runs the turns of one shard. What ended is in `outcomes`, in that order."""

    def offer(self, work: Work) -> None:
        """Queue one envelope for its agent. One that nobody can handle ends as a dead letter or an error reply."""
        envelope = work.envelope
        assert envelope is not None
        if work.stored > self.stream_time:
            self.stream_time = work.stored
        if self._tracing is not None:
            work.received = self._tracing.now()
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
        queue = activation.normal if work.lane is NORMAL_LANE else activation.lane(work.lane)
        queue.append(work)
        state = activation.state
        if state is IDLE or state is WAITING or (state is READY and len(queue) == 1):
            self._schedule(activation)

    def _not_here(self, agent: AgentId) -> Exception:
        parked = self.residents.parked.get(agent)
        if parked is not None:
            return StateUnreadable(parked)
        return CantHandle(f"pool {self._settings.pool} has no agent type {agent.type!r}")

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
        self._due.coming(envelope.target, outcome.moves_to.key, DueKind.DELAYED, envelope.id)
        self._finish(outcome)

    def _take_back(self, work: Work, envelope: Envelope) -> None:
        """A delayed message is not wanted any more; nothing happens when it has been handed over."""
        message_id = envelope.body.decode(errors="replace")
        activation = self._agents.get(envelope.target)
        if activation is not None:
            for queue in (activation.normal, activation.urgent or []):
                for other in [work for work in queue if self._is_delayed(work, message_id)]:
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

    def cancel_call(self, call: str) -> None:
        """The caller has given up: stop the turn, or do not start it. What is committed stays.

        Those that wait are found `GIVEN_UP_LOOK` seconds later, all with one look through what waits: where many calls
        are given up there is much to look through.
        """
        if self._stop_turn(call):
            return
        if not self._given_up:
            self._loop.call_later(GIVEN_UP_LOOK, self._look_for_given_up)
        self._given_up.add(call)

    def _stop_turn(self, call: str) -> bool:
        running = self.calling.get(call)
        if running is None:
            return False
        running.work.cancelled = True
        running.task.cancel()
        return True

    def _look_for_given_up(self) -> None:
        given_up, self._given_up = self._given_up, set()
        for call in given_up & self.calling.keys():
            self._stop_turn(call)
        for activation in self._agents.values():
            for queue in (activation.normal, activation.urgent or ()):
                for work in queue:
                    if work.envelope is not None and work.envelope.reply and work.envelope.id in given_up:
                        work.cancelled = True

    def _is_delayed(self, work: Work, message_id: str) -> bool:
        """Whether this is a delayed message of that id not begun; a retry or a parked one has come to stay."""
        if work.started or work.envelope is None or work.envelope.id != message_id:
            return False
        due = self._due.live.get(work.due)
        return due is not None and due.kind is DueKind.DELAYED

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

    def stop(self) -> None:
        """Start no further turn; those that run go on."""
        self.stopping = self._held = True

    def hold(self) -> None:
        """Start no turn until `go_on`."""
        self._held = True

    def go_on(self) -> None:
        """Start turns again."""
        self._held = self.stopping
        self._run_soon()

    def running_since(self, when: float) -> set[asyncio.Task[None]]:
        """Turns that have been running since this time of the loop, or for longer."""
        return {task for task, since in self._running.items() if since <= when}

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no turn runs, at most `timeout` seconds; return whether none does."""
        if running := self.running_since(self._clock()):
            await asyncio.wait(running, timeout=timeout)
        return not self.running_since(self._clock())

    async def cancel(self) -> None:
        """Cancel the turns that run; they run again elsewhere."""
        self.cancelling = True
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            _, left = await asyncio.wait(running, timeout=limits.TURN_END_GRACE)
            for task in left:
                log.warning(
                    "handler has swallowed its cancellation, and is left behind", extra={"turn": task.get_name()}
                )
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
            a.pending or a.state in (READY, COLD, RUNNING) for a in self._agents.values()
        )

    @property
    def is_idle(self) -> bool:
        """Whether no message waits, no turn runs, and nothing waits for its commit."""
        return not self.outcomes and not self.lazy and all(a.is_idle for a in self._agents.values())

    def state_of(self, agent: AgentId) -> bytes | None:
        """The agent's state after its last good turn, if it is in memory."""
        activation = self._agents.get(agent)
        return activation.data if activation else None


def _unloader(work: Work) -> Callable[[], None]:
    """Return what takes a parked message out of memory once its record is committed."""

    def unload() -> None:
        if work.due and not work.started:
            work.envelope = None

    return unload
