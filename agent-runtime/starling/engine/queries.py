"""Queries as their shard's owner sees them: answered from what is committed, without the log.

A query runs between turns on the agent in memory if everything of it is committed, else on a view: an instance of
its own made from the committed bytes. An agent that is not in memory is read, and stays out of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgpack

from starling.agent import Agent, AgentDefinition
from starling.context import Context, Outgoing
from starling.core import limits
from starling.core.envelope import Envelope
from starling.core.ids import AgentId, Epoch, ShardId
from starling.core.names import cell_key
from starling.core.record import Cell
from starling.core.reference import check_inline
from starling.core.reply import Reply, error_reply
from starling.dispatch import Handler
from starling.engine.answers import Answers
from starling.engine.shard_info import PoolSettings, ShardStats
from starling.errors import CallTimeout, CantHandle, DecodeError, ReadOnly, Unreachable
from starling.named_cells import CellSet, check_whole
from starling.ports.store import Signal
from starling.unruly import as_error, is_from_outside

if TYPE_CHECKING:
    from starling.engine.activation import Activation
    from starling.engine.query_client import QueryClient

log = logging.getLogger(__name__)


class Shard(Protocol):
    """What queries need of their shard."""

    @property
    def queries(self) -> QueryClient: ...

    def activation(self, agent: AgentId) -> Activation | None:
        """Return the agent if it is in memory."""
        ...

    async def read(self, keys: Sequence[str]) -> Mapping[str, Cell | None]:
        """Return committed cells by table key."""
        ...


class Special(Protocol):
    """Requests to the owner beside queries, by message type; see `Repairs`."""

    async def __call__(self, agent: AgentId, definition: AgentDefinition, body: bytes) -> bytes: ...


_Job = Coroutine[Any, Any, Reply]
"""A coroutine that returns the Reply."""


class Queries:
    """Answers the queries of one shard."""

    def __init__(
        self,
        shard: ShardId,
        epoch: Epoch,
        settings: PoolSettings,
        owner: Shard,
        answers: Answers,
        *,
        stats: ShardStats,
        is_current: Callable[[], bool],
        special: Mapping[str, Special],
    ) -> None:
        self._shard = shard
        self._epoch = epoch
        self._settings = settings
        self._owner = owner
        self._answers = answers
        self._stats = stats
        self._is_current = is_current
        self._special = special
        self._waiting: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop; those who wait hear that somebody else is to be asked."""
        for task in self._waiting:
            task.cancel()
        if self._waiting:
            await asyncio.wait(list(self._waiting), timeout=limits.CLOSE_TIMEOUT)

    def heard(self, signal: Signal) -> None:
        """Answer at once what needs no waiting, and let the rest run in tasks of their own."""
        if not signal.reply:
            return
        try:
            envelope = Envelope.from_map(msgpack.unpackb(signal.data))
        except (DecodeError, ValueError):
            log.warning("a query cannot be read", extra={"shard": self._shard})
            return
        try:
            if not self._is_current():
                raise _NotCurrent
            if envelope.deadline and envelope.deadline < self._settings.wall() * 1000:
                return  # the asker has gone
            if len(self._waiting) >= limits.MAX_QUERIES:
                raise _Busy
            job = self._begin(envelope)
            if isinstance(job, Reply):
                self._answers.put(signal.reply, job.pack())
                return
        except KeyboardInterrupt:
            raise
        except BaseException as raised:
            self._answers.put(signal.reply, self._error(envelope, as_error(raised)).pack())
            return
        task = asyncio.get_running_loop().create_task(self._finish(signal.reply, envelope, job), name="query")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def _begin(self, envelope: Envelope) -> Reply | _Job:
        """Return the answer, or what has to wait for it."""
        agent = envelope.target
        definition = self._settings.agents.get(agent.type)
        if definition is None:
            raise CantHandle(f"pool {self._settings.pool} has no agent type {agent.type!r}")
        special = self._special.get(envelope.type)
        if special is not None:
            return self._ask_special(special, definition, envelope)
        handler, message = definition.find_query(envelope.type, envelope.body, envelope.content_type)
        activation = self._owner.activation(agent)
        context = self._context(envelope, handler) if handler.with_context else None
        if handler.suspends or activation is None or not activation.is_settled:
            return self._on_view(envelope, definition, handler, message, context)
        return self._on_agent(envelope, activation, handler, message, context)

    async def _finish(self, reply_to: str, envelope: Envelope, job: _Job) -> None:
        left = envelope.deadline / 1000 - self._settings.wall() if envelope.deadline else limits.QUERY_TIMEOUT
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(left):
                reply = await job
        except TimeoutError:
            reply = self._error(envelope, CallTimeout(f"the deadline of {envelope.type} passed during its query"))
        except BaseException as raised:
            if is_from_outside(raised, task):
                if isinstance(raised, asyncio.CancelledError):
                    self._answers.put(reply_to, self._error(envelope, _NotCurrent()).pack())
                raise
            reply = self._error(envelope, as_error(raised))
        self._answers.put(reply_to, reply.pack())

    # -- on the agent itself, while nothing of it waits for its commit

    def _on_agent(
        self, envelope: Envelope, activation: Activation, handler: Handler, message: Any, context: Context | None
    ) -> Reply:
        agent = activation.agent
        assert agent is not None
        try:
            result = handler.finish(handler.start(agent, message, context))
        finally:
            self._check_state(handler, activation.definition, agent, activation.data)
        return self._result(envelope, handler, result)

    def _check_state(
        self, handler: Handler, definition: AgentDefinition, agent: Agent[Any], committed: bytes | None
    ) -> None:
        """Raise ReadOnly, with the state as it was, when the handler changed it."""
        if not definition.has_state:
            return
        if committed is not None and definition.written_state(agent.state) == committed:
            return
        before = definition.new_state() if committed is None else definition.load_state(committed)
        if type(agent.state) is type(before) and definition.written_state(agent.state) == definition.written_state(
            before
        ):
            return  # the same fields, only written in another way than now
        agent.state = before
        raise ReadOnly(f"{handler.name} is a @query, and it changed the state; nothing of that is kept")

    # -- on a view

    async def _on_view(
        self, envelope: Envelope, definition: AgentDefinition, handler: Handler, message: Any, context: Context | None
    ) -> Reply:
        agent_id = envelope.target
        committed, live = await self._committed(agent_id, definition)
        cells = CellSet(definition.cells, definition.migrations, self._reader(agent_id)) if definition.cells else None
        state = definition.new_state() if committed is None else definition.load_state(committed)
        view = definition.view(agent_id, state, live, cells)
        result = await handler.start(view, message, context)
        self._check_state(handler, definition, view, committed)
        if cells is not None and cells.is_touched and await cells.changes():
            raise ReadOnly(f"{handler.name} is a @query, and it changed cells; nothing of that is kept")
        return self._result(envelope, handler, result)

    async def _committed(self, agent: AgentId, definition: AgentDefinition) -> tuple[bytes | None, Agent[Any] | None]:
        """Return the committed state as of our version, None for a new agent; and the agent if it is in memory."""
        activation = self._owner.activation(agent)
        if activation is not None and activation.agent is not None:
            return activation.committed, activation.agent
        if not definition.is_recorded:
            return None, None
        key = cell_key(self._shard, agent, "state")
        cell = (await self._owner.read([key]))[key]
        if cell is None or cell.data is None:
            return None, None
        check_whole(cell.data)
        return definition.upgraded(cell.data, cell.version), None

    def _reader(self, agent: AgentId) -> Any:
        async def read(names: Sequence[str]) -> Mapping[str, Cell | None]:
            keys = {name: cell_key(self._shard, agent, name) for name in names}
            found = await self._owner.read(list(keys.values()))
            return {name: found[key] for name, key in keys.items()}

        return read

    # -- answers

    def _context(self, envelope: Envelope, handler: Handler) -> Context:
        return Context(
            cast("Outgoing", _Nothing(handler.name, envelope, self._owner.queries)),
            id=envelope.target,
            sender=envelope.sender,
            topic=None,
            message_id=envelope.id,
            attempt=1,
            deadline=envelope.deadline / 1000 if envelope.deadline else None,
            created=envelope.created / 1000,
            headers=envelope.headers,
            is_call=True,
        )

    async def _ask_special(self, special: Special, definition: AgentDefinition, envelope: Envelope) -> Reply:
        body = await special(envelope.target, definition, envelope.body)
        return Reply(envelope.id, str(envelope.target), body, type=envelope.type, epoch=self._epoch)

    def _result(self, envelope: Envelope, handler: Handler, result: Any) -> Reply:
        type_name, body = handler.encode_result(result)
        check_inline(body, f"the answer to query {envelope.type}")
        self._stats.queries["ok"] += 1
        return Reply(envelope.id, str(envelope.target), body, type=type_name, epoch=self._epoch)

    def _error(self, envelope: Envelope, error: Exception) -> Reply:
        by = str(envelope.target)
        again = isinstance(error, _Again | Unreachable)
        self._stats.queries["again" if again else "failed"] += 1
        if isinstance(error, _Again):
            return Reply(envelope.id, by, error=error.kind, epoch=self._epoch)
        if isinstance(error, Unreachable):
            return Reply(envelope.id, by, error="Unreachable", text=str(error), epoch=self._epoch)
        made = error_reply(envelope.id, by, error)
        return Reply(made.call, made.by, error=made.error, text=made.text, epoch=self._epoch)


class _Again(Exception):
    """The asker should ask again."""

    kind = ""


class _NotCurrent(_Again):
    kind = "NotCurrent"


class _Busy(_Again):
    kind = "Busy"


class _Nothing:
    """What a query may say to others: it may ask them, nothing else."""

    __slots__ = ("_envelope", "_handler", "_queries")

    def __init__(self, handler: str, envelope: Envelope, queries: QueryClient) -> None:
        self._handler = handler
        self._envelope = envelope
        self._queries = queries

    async def query(
        self, target: AgentId, type_name: str, body: bytes, timeout: float | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes]:
        """Ask another agent. Raises as `QueryClient.query`."""
        source = self._envelope
        return await self._queries.query(
            target,
            type_name,
            body,
            timeout=timeout,
            headers=headers,
            sender=source.target,
            trace=source.trace,
            not_after=source.deadline / 1000 if source.deadline else None,
        )

    def __getattr__(self, name: str) -> Any:
        raise ReadOnly(f"{self._handler} is a @query, and it tried to {name.replace('_', ' ')}; make it an @rpc")
