"""Turns: one envelope handled by one agent, one at a time per agent, in log order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

from starling.agent import Agent, AgentDefinition
from starling.context import Context
from starling.core import limits
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, ShardId, TopicId
from starling.core.names import Inlet, cell_key
from starling.core.positions import Position
from starling.core.record import Cell, ReplyRecord
from starling.core.reply import Reply, error_reply
from starling.core.retry import RetryPolicy
from starling.core.routes import Routes, Target
from starling.engine.calls import Calls
from starling.engine.dead import dead_letter
from starling.engine.faults import Point
from starling.engine.routes_view import RoutesView
from starling.engine.shard_info import PoolSettings, ShardStats
from starling.errors import (
    CallTimeout,
    CantHandle,
    DecodeError,
    MailboxFull,
    MeshError,
    TooLarge,
)

log = logging.getLogger(__name__)

STATE_CELL = "state"


class Work:
    """One envelope of the mailbox, waiting for its turn."""

    __slots__ = ("attempt", "envelope", "index", "inlet", "position", "size_bytes", "stored")

    def __init__(
        self, envelope: Envelope, inlet: Inlet, position: Position, index: int, size_bytes: int, stored: float
    ) -> None:
        self.envelope = envelope
        self.inlet = inlet
        self.position = position
        self.index = index
        self.size_bytes = size_bytes
        self.stored = stored
        self.attempt = envelope.attempt


class Outcome:
    """What one finished turn asks the next commit to make true."""

    __slots__ = ("cell", "dead", "key", "reply", "sends", "size_bytes", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.key = ""
        self.cell: Cell | None = None
        self.sends: list[tuple[Target, bytes]] = []
        self.reply: ReplyRecord | None = None
        self.dead: tuple[str, bytes] | None = None
        self.size_bytes = 64


class Activation:
    """An agent in memory, with the messages that wait for it."""

    __slots__ = ("agent", "busy", "data", "definition", "id", "key", "queue", "timer")

    def __init__(self, agent_id: AgentId, definition: AgentDefinition, key: str) -> None:
        self.id = agent_id
        self.definition = definition
        self.key = key
        self.agent: Agent[Any] | None = None
        self.data: bytes | None = None
        """State after the last good turn, encoded; None: as new."""
        self.queue: deque[Work] = deque()
        self.busy = False
        """A turn runs, a retry waits, or the agent is queued for its turn or its loading."""
        self.timer: asyncio.TimerHandle | None = None


class TurnOutgoing:
    """Collects what a turn sends; the commit makes it true."""

    __slots__ = ("_envelope", "_routes", "_sends", "_settings", "calls", "sent_bytes", "shard")

    def __init__(self, envelope: Envelope, routes: Routes, settings: PoolSettings, calls: Calls) -> None:
        self._envelope = envelope
        self._routes = routes
        self._settings = settings
        self._sends: list[tuple[Target, bytes]] = []
        self.sent_bytes = 0
        self.calls = calls

    @property
    def sends(self) -> list[tuple[Target, bytes]]:
        return self._sends

    def send(self, target: AgentId, type_name: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Add a message to one agent. Raises UnknownAgentType, TooLarge."""
        self._add(self._routes.target(target), self._next_id(), type_name, body, headers, None)

    def publish(self, topic: TopicId, type_name: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Add a message to every agent that hears the topic. Raises TooLarge."""
        message_id = self._next_id()
        for target in self._routes.targets(topic):
            if target.agent != self._envelope.target:
                self._add(target, message_id, type_name, body, headers, topic)

    def _add(
        self,
        target: Target,
        message_id: str,
        type_name: str,
        body: bytes,
        headers: Mapping[str, str],
        topic: TopicId | None,
    ) -> None:
        source = self._envelope
        packed = Envelope(
            id=message_id,
            type=type_name,
            body=body,
            target=target.agent,
            sender=source.target,
            topic=topic,
            trace=source.trace,
            created=int(self._settings.wall() * 1000),
            headers=headers,
        ).pack()
        self.sent_bytes += len(packed)
        if self.sent_bytes > limits.MAX_BODY or len(self._sends) >= limits.MAX_TURN_TARGETS:
            raise TooLarge(
                f"one turn sent more than {limits.MAX_BODY} bytes or to more than {limits.MAX_TURN_TARGETS} agents; "
                "send less at once, or in several turns"
            )
        self._sends.append((target, packed))

    def _next_id(self) -> str:
        return derived_id(self._envelope.id, self._envelope.target, len(self._sends))

    async def call(
        self, target: AgentId, type_name: str, body: bytes, timeout: float | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes]:
        """Call another agent and wait for its answer. Raises CallFailed and its kinds, RouteError, RetryLater."""
        source = self._envelope
        chain = (*source.chain, str(source.target))
        return await self.calls.call(
            target,
            type_name,
            body,
            timeout=timeout,
            headers=headers,
            sender=source.target,
            chain=chain,
            trace=source.trace,
            not_after=source.deadline / 1000 if source.deadline else None,
        )

    async def query(
        self, target: AgentId, type_name: str, body: bytes, timeout: float | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes]:
        """Ask another agent, past the log. Raises as `QueryClient.query`."""
        source = self._envelope
        return await self.calls.queries.query(
            target,
            type_name,
            body,
            timeout=timeout,
            headers=headers,
            sender=source.target,
            trace=source.trace,
            not_after=source.deadline / 1000 if source.deadline else None,
        )


def cancelled_inside(error: BaseException) -> RuntimeError:
    """Return the error of a turn in which something else than the turn was cancelled."""
    made = RuntimeError("what the handler waited for was cancelled")
    made.__cause__ = error
    return made


def derived_id(message_id: str, agent: AgentId, index: int) -> str:
    """Return the id of the `index`-th message that an agent's turn of `message_id` sends; the same for a repeated turn.

    The agent is part of it: one publish is heard by several agents, and each of them sends.
    """
    made = f"{message_id} {agent} {index}"
    return blake2b(made.encode(), digest_size=12).hexdigest()


class CellReader(Protocol):
    """Reads the cells of agents that are about to be active."""

    async def read(self, keys: Sequence[str]) -> Mapping[str, Cell | None]: ...


class Turns:
    """Runs the turns of one shard. Finished ones are in `outcomes`, in the order in which they ended."""

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
    ) -> None:
        self._settings = settings
        self._shard = shard
        self._routes = routes
        self._calls = calls
        self._stats = stats
        self._loader = loader
        self._agents: dict[AgentId, Activation] = {}
        self._ready: deque[Activation] = deque()
        self._cold: deque[Activation] = deque()
        self._work = asyncio.Event()
        self._cold_work = asyncio.Event()
        self._running: dict[asyncio.Task[None], float] = {}
        self._failure: BaseException | None = None
        self.outcomes: deque[Outcome] = deque()
        self.finished = asyncio.Event()
        """Set whenever `outcomes` has something for the committer."""
        self.stopping = False
        self.too_far_ahead = False
        """Set while the outbox is over its limit: turns that send fail with MailboxFull."""

    # -- what comes in

    def offer(self, work: Work) -> None:
        """Queue one envelope for its agent. One that nobody can handle ends as a dead letter or an error reply."""
        target = work.envelope.target
        activation = self._agents.get(target)
        if activation is None:
            definition = self._settings.agents.get(target.type)
            if definition is None:
                self._end(work, CantHandle(f"pool {self._settings.pool} has no agent type {target.type!r}"), 0.0)
                return
            activation = Activation(target, definition, self.key_of(target))
            self._agents[target] = activation
            self._stats.active_agents = len(self._agents)
        activation.queue.append(work)
        if not activation.busy:
            self._schedule(activation)

    def _schedule(self, activation: Activation) -> None:
        activation.busy = True
        if activation.agent is None:
            self._cold.append(activation)
            self._cold_work.set()
        else:
            self._ready.append(activation)
            self._work.set()

    # -- activation

    async def load(self) -> None:
        """Activate agents, many with one read, until cancelled."""
        while True:
            await self._cold_work.wait()
            self._cold_work.clear()
            while self._cold:
                batch = [self._cold.popleft() for _ in range(min(len(self._cold), 512))]
                stateful = [a.key for a in batch if a.definition.has_state]
                try:
                    cells = await self._loader.read(stateful) if stateful else {}
                except MeshError:
                    self._cold.extendleft(reversed(batch))
                    raise
                for activation in batch:
                    self._activate(activation, cells.get(activation.key))

    def _activate(self, activation: Activation, cell: Cell | None) -> None:
        activation.data = None if cell is None else cell.data
        try:
            self._make(activation)
        except Exception as error:
            # never a silent fresh start: what waits for this agent becomes dead letters, its cell stays as it is
            self._unloadable(activation, error)
            return
        self._ready.append(activation)
        self._work.set()

    def _unloadable(self, activation: Activation, error: Exception) -> None:
        log.error("agent cannot be loaded", exc_info=error, extra={"agent": str(activation.id)})
        while activation.queue:
            self._end(activation.queue.popleft(), DecodeError(f"state of {activation.id}: {error}"), 0.0)
        del self._agents[activation.id]

    def _make(self, activation: Activation) -> None:
        definition = activation.definition
        state = definition.new_state() if activation.data is None else definition.load_state(activation.data)
        activation.agent = definition.new_agent(activation.id, state)

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
                if self.stopping:
                    break
                if len(self._running) >= self._settings.max_concurrent_turns:
                    break
                self._turn(ready.popleft())
                if timer() - started > self.SLICE:
                    self._stats.busy_seconds += timer() - started
                    await asyncio.sleep(0)
                    started = timer()
            self._stats.busy_seconds += timer() - started
            if self._failure is not None:
                raise self._failure

    def _turn(self, activation: Activation) -> None:
        """Start the turn of the agent's next message; one that cannot wait also ends here."""
        work = activation.queue[0]
        envelope = work.envelope
        started = self._settings.timer()
        outgoing = TurnOutgoing(envelope, self._routes.current, self._settings, self._calls)
        try:
            if envelope.deadline and envelope.deadline < self._settings.wall() * 1000:
                raise CallTimeout(f"the deadline of {envelope.type} had passed before its turn")
            is_call = bool(envelope.reply)
            definition = activation.definition
            handler, message = definition.find(envelope.type, envelope.body, is_call, envelope.content_type)
            context = Context(
                outgoing,
                id=activation.id,
                sender=envelope.sender,
                topic=envelope.topic,
                message_id=envelope.id,
                attempt=work.attempt + 1,
                deadline=envelope.deadline / 1000 if envelope.deadline else None,
                created=envelope.created / 1000,
                headers=envelope.headers,
                is_call=is_call,
            )
            coroutine = handler.start(activation.agent, message, context)
            if handler.suspends:
                self._in_task(activation, coroutine, handler, outgoing, started)
                return
            try:
                coroutine.send(None)
            except StopIteration as stop:
                result = stop.value
            else:
                coroutine.close()
                raise RuntimeError(f"{handler.name} waited although nothing in it can")
        except Exception as error:
            self._failed(activation, work, error, started)
            return
        self._succeeded(activation, work, handler, result, outgoing, started)

    def _in_task(
        self,
        activation: Activation,
        coroutine: Coroutine[Any, Any, Any],
        handler: Any,
        outgoing: TurnOutgoing,
        started: float,
    ) -> None:
        work = activation.queue[0]

        async def turn() -> None:
            try:
                deadline = work.envelope.deadline
                limit = max(0.0, deadline / 1000 - self._settings.wall()) if deadline else None
                async with asyncio.timeout(limit) as scope:
                    result = await coroutine
            except asyncio.CancelledError as cancelled:
                current = asyncio.current_task()
                if current is None or current.cancelling():
                    raise
                # something that the handler waited for was cancelled, not the turn: its agent must not stand still
                self._failed(activation, work, cancelled_inside(cancelled), started)
            except Exception as error:
                if isinstance(error, TimeoutError) and scope.expired():
                    error = CallTimeout(f"the deadline of {work.envelope.type} passed during its turn")
                self._failed(activation, work, error, started)
            else:
                self._succeeded(activation, work, handler, result, outgoing, started)

        task = asyncio.get_running_loop().create_task(turn(), name=f"turn of {activation.id}")
        self._running[task] = asyncio.get_running_loop().time()
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
        self._work.set()

    # -- how a turn ends

    def _succeeded(
        self, activation: Activation, work: Work, handler: Any, result: Any, outgoing: TurnOutgoing, started: float
    ) -> None:
        envelope = work.envelope
        outcome = Outcome(work)
        try:
            if outgoing.sends and self.too_far_ahead:
                raise MailboxFull("what this shard has sent and not delivered is over its limit")
            if envelope.reply:
                type_name, body = handler.encode_result(result)
                reply = Reply(envelope.id, str(activation.id), body, type=type_name)
                outcome.reply = ReplyRecord(envelope.reply, reply.pack())
            if activation.definition.has_state:
                data = activation.definition.dump_state(activation.agent.state)  # type: ignore[union-attr]
                if data != activation.data:
                    if len(data) > limits.MAX_BODY:
                        raise TooLarge(f"state of {activation.id} has {len(data)} bytes, at most {limits.MAX_BODY}")
                    activation.data = data
                    outcome.key = activation.key
                    outcome.cell = Cell(activation.definition.state_version, data)
                    outcome.size_bytes += len(data) + len(activation.key)
        except Exception as error:
            self._failed(activation, work, error, started)
            return
        outcome.sends = outgoing.sends
        outcome.size_bytes += outgoing.sent_bytes
        if outcome.reply:
            outcome.size_bytes += len(outcome.reply.body)
        self._count(activation.id.type, "ok", started)
        activation.queue.popleft()
        self._finish(outcome)
        self._next(activation)

    def _failed(self, activation: Activation, work: Work, error: Exception, started: float) -> None:
        """Roll the agent back; try again after a pause, or give up on the message."""
        work.attempt += 1
        try:
            self._make(activation)
        except Exception as load_error:
            self._unloadable(activation, load_error)  # what is in memory is of the failed turn
            return
        if self._policy(work).retries(error, work.attempt):
            pause = self._policy(work).pause(work.attempt, self._settings.chance.random())
            log.warning(
                "turn failed, will be tried again",
                exc_info=error,
                extra={"agent": str(activation.id), "message_id": work.envelope.id, "attempt": work.attempt},
            )
            self._count(activation.id.type, "retry", started)
            activation.timer = asyncio.get_running_loop().call_later(pause, self._again, activation)
            return
        activation.queue.popleft()
        self._end(work, error, started)
        self._next(activation)

    def _policy(self, work: Work) -> RetryPolicy:
        if work.envelope.reply:
            return CALL_POLICY
        topic = work.envelope.topic
        if topic is not None and topic.type in self._settings.retry_by_topic:
            return self._settings.retry_by_topic[topic.type]
        return self._settings.retry

    def _again(self, activation: Activation) -> None:
        activation.timer = None
        if not self.stopping:
            self._ready.append(activation)
            self._work.set()

    def _next(self, activation: Activation) -> None:
        if activation.queue:
            self._ready.append(activation)
            self._work.set()
        else:
            activation.busy = False

    def _end(self, work: Work, error: Exception, started: float) -> None:
        """The message is not tried (again): a call gets the error, anything else becomes a dead letter."""
        envelope = work.envelope
        outcome = Outcome(work)
        if envelope.reply:
            outcome.reply = ReplyRecord(envelope.reply, error_reply(envelope.id, str(envelope.target), error).pack())
        else:
            outcome.dead = dead_letter(envelope, error, attempts=work.attempt, now=self._settings.wall())
            self._stats.dead_letters[type(error).__name__] += 1
        outcome.size_bytes += len(envelope.body) + 1024
        log.warning(
            "message given up",
            exc_info=error,
            extra={"agent": str(envelope.target), "message_id": envelope.id, "attempt": work.attempt},
        )
        self._count(envelope.target.type, "failed" if envelope.reply else "dead", started)
        self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._settings.passed(Point.TURN_DONE)
        self.finished.set()

    def _count(self, agent_type: str, result: str, started: float) -> None:
        self._stats.turns[agent_type, result] += 1
        if started:
            spent = self._stats.turn_seconds
            spent[agent_type] = spent.get(agent_type, 0.0) + self._settings.timer() - started

    # -- the end

    def stop(self) -> None:
        """Start no further turn; those that run go on."""
        self.stopping = True

    def oldest_turn(self, now: float) -> float:
        """Seconds for which the oldest running turn has been running; 0 when none runs."""
        return max((now - since for since in self._running.values()), default=0.0)

    async def wait_idle(self, timeout: float) -> None:
        """Wait until no turn runs, at most `timeout` seconds."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=timeout)

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

    @property
    def is_idle(self) -> bool:
        """Whether no message waits, no turn runs, and nothing waits for its commit."""
        return not self.outcomes and not any(a.queue for a in self._agents.values())

    def key_of(self, agent: AgentId) -> str:
        """Table key of the agent's state."""
        return cell_key(self._shard, agent, STATE_CELL)

    def state_of(self, agent: AgentId) -> bytes | None:
        """The agent's state after its last good turn, if it is in memory."""
        activation = self._agents.get(agent)
        return activation.data if activation else None


CALL_POLICY = RetryPolicy(attempts=1)
