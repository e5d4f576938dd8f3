"""Who is next: the agents of a shard in memory, what each of them waits for, and what has ended."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final

from starling.core import limits
from starling.core.due import DueIndex
from starling.core.ids import AgentId, ShardId
from starling.core.priority import Ready
from starling.engine.activation import COLD, IDLE, READY, WAITING, Activation
from starling.engine.answers import Answers
from starling.engine.calls import Calls
from starling.engine.faults import Point
from starling.engine.large import LargeValues
from starling.engine.overdue import Calling
from starling.engine.passivation import Passivation
from starling.engine.residents import CellReader, Residents
from starling.engine.routes_view import RoutesView
from starling.engine.shard_info import PoolSettings, ShardStats
from starling.engine.work import Outcome

log = logging.getLogger(__name__)

_TURN_DONE: Final = Point.TURN_DONE
SWEEP_LEAVING: Final = 256
"""Records that are taken back are looked through once there are so many: those that are gone are forgotten then."""


class Schedule:
    """Agents and what waits for them. What ended is in `outcomes`, in that order."""

    def __init__(
        self,
        settings: PoolSettings,
        shard: ShardId,
        routes: RoutesView,
        calls: Calls,
        stats: ShardStats,
        loader: CellReader,
        due: DueIndex,
        large: LargeValues,
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
        self.large = large
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
        self._cold_work = asyncio.Event()
        self._running: dict[asyncio.Task[None], float] = {}
        """Since when each runs, by the loop's clock; inf while it waits for room."""
        self.calling: dict[str, Calling] = {}
        """Calls whose turn runs in a task, by id: they can be cancelled."""
        self._given_up: set[str] = set()
        """Calls whose callers have given up, and which are not looked for yet."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._replied: dict[str, bytes | None] = {}
        """Recorded replies by their key; the bytes only while they are not committed."""
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self.wall = settings.wall
        """Kept, since to ask for the running loop is a system call each time: three a turn were a twentieth of it."""
        self._failure: BaseException | None = None
        self._serving: asyncio.Future[None] | None = None
        """Of `run`, which ends with what a turn raises beyond its handler's errors; None: no turn starts."""
        self._is_due = False
        """What is ready runs in the next turn of the loop."""
        self._is_told = False
        """`on_ended` is about to be called."""
        self._turn_context = copy_context()
        self.outcomes: deque[Outcome] = deque()
        self.lazy: deque[Outcome] = deque()
        """Outcomes that nobody waits for: the next commit takes them along."""
        self.on_ended: Callable[[], None] = lambda: None
        """Called when something has ended for the committer: once for what one turn of the loop brings."""
        self.stopping = False
        self.cancelling = False
        """Whether turns are cancelled by us, to run again elsewhere."""
        self._held = False
        """Whether no turn starts now."""
        self._tracing = settings.tracing
        self._tells_all = log.isEnabledFor(logging.DEBUG)
        self._leaving: set[str] = set()
        """Timers and delayed messages that an outcome takes back which is not committed yet; and some that are gone."""
        self._sweep_leaving_at = SWEEP_LEAVING
        self.counting = ""
        """Record of the turn that runs in careful mode: its attempt is committed, and it is handed over already."""
        self.unstored_bytes = 0
        """What turns have left and nothing has stored yet."""
        self._outbox_is_full = False
        self._held_up: dict[Activation, None] = {}
        """Agents whose next message came from outside, and waits until there is room in the outbox."""
        self.too_far_ahead = False
        """Set while the outbox is over its limit: turns that send fail with MailboxFull."""

    def _activation(self, agent: AgentId) -> Activation | None:
        definition = self._settings.agents.get(agent.type)
        if definition is None or agent in self.residents.parked:
            return None
        return self.residents.add(agent, definition)

    def _left(self, activation: Activation) -> None:
        """The agent is out of memory; what came for it while its hooks ran brings it back."""
        if self.stopping or not (activation.normal or activation.urgent):
            return
        again = self.residents.add(activation.id, activation.definition)
        again.normal, again.urgent = activation.normal, activation.urgent
        self._schedule(again)

    def _schedule(self, activation: Activation) -> None:
        """Let the agent wait for whatever its next message needs."""
        if activation.pieces:
            activation.state = WAITING
            return
        work = activation.next_work(self._clock())
        if work is None:
            at = activation.wakes_at()
            if at is None:
                activation.state = IDLE
                return
            activation.state = WAITING
            if activation.timer is not None:
                activation.timer.cancel()
            activation.timer = asyncio.get_running_loop().call_at(at, self._wake, activation)
        elif activation.agent is None or work.envelope is None:
            if activation.state is not COLD:
                activation.state = COLD
                self._cold.append(activation)
                self._cold_work.set()
        else:
            activation.state = READY
            self._ready.push(activation, work.envelope.priority)
            self._run_soon()

    def _run_soon(self) -> None:
        """Run what is ready in the next turn of the loop, with all that this one brings.

        A callback, and none of a task's: what a wake of a task costs is in docs/performance.md.
        """
        if not self._is_due and self._serving is not None:
            self._is_due = True
            self._loop.call_soon(self._run_ready, context=self._turn_context)

    def _run_ready(self) -> None:
        """See `TurnStarts`."""
        raise NotImplementedError

    def _tell_soon(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._is_told = False
        self.on_ended()

    def _wake(self, activation: Activation) -> None:
        activation.timer = None
        if activation.state is WAITING and not self.stopping:
            self._schedule(activation)

    def _next(self, activation: Activation) -> None:
        activation.state = IDLE
        if activation.normal or activation.urgent:
            self._schedule(activation)

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
        self._run_soon()

    def stored(self, size_bytes: int) -> None:
        """So much of what turns have left is stored."""
        if self.unstored_bytes > limits.UNSTORED_BYTES:
            self._run_soon()
        self.unstored_bytes -= size_bytes

    def outbox_is_full(self, is_full: bool) -> None:
        """Whether messages from outside wait: what their turns send would have to be kept here."""
        self._outbox_is_full = is_full
        if self._held_up and not is_full:
            held_up, self._held_up = self._held_up, {}
            for activation in held_up:
                if activation.state is WAITING and not self.stopping:
                    self._schedule(activation)

    def _finish(self, outcome: Outcome) -> None:
        self.unstored_bytes += outcome.size_bytes
        if outcome.activation is not None:
            outcome.activation.pending += 1
        (self.lazy if outcome.lazy else self.outcomes).append(outcome)
        self._settings.passed(_TURN_DONE)
        if not outcome.lazy or len(self.lazy) >= limits.MAX_LAZY:
            self._tell_soon()

    def _count(self, agent_type: str, result: str, started: float) -> float:
        """Count the end of a turn; return the seconds that it took, 0 for one that did not start."""
        self._stats.turns[agent_type, result] += 1
        if not started:
            return 0.0
        seconds = self._settings.timer() - started
        self._stats.turn_seconds[agent_type] += seconds
        return seconds
