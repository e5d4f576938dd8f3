"""The agents of one shard that are in memory: how each comes, goes, is rolled back, and is parked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from starling.agent import Agent, AgentDefinition
from starling.core import limits
from starling.core.ids import AgentId, ShardId
from starling.core.names import cell_key
from starling.core.record import Cell
from starling.engine.activation import LEAVING, Activation
from starling.engine.passivation import Passivation
from starling.engine.shard_info import ShardStats
from starling.migrations import STATE
from starling.named_cells import CellSet, check_whole
from starling.unruly import is_from_outside

log = logging.getLogger(__name__)


class CellReader(Protocol):
    """Reads committed cells by table key."""

    async def read(self, keys: Sequence[str]) -> Mapping[str, Cell | None]: ...


class Residents:
    """Agents in memory by id, and the parked ones, which are not.

    on_left: told of an agent that is out of memory after its hooks ran, with what came for it meanwhile.
    """

    def __init__(
        self,
        shard: ShardId,
        stats: ShardStats,
        reader: CellReader,
        passivation: Passivation | None,
        *,
        on_left: Callable[[Activation], None],
    ) -> None:
        self._shard = shard
        self._stats = stats
        self._reader = reader
        self._passivation = passivation
        self._on_left = on_left
        self._hooks: set[asyncio.Task[None]] = set()
        self.agents: dict[AgentId, Activation] = {}
        self.parked: dict[AgentId, str] = {}
        """Why the state of an agent does not load, by agent. Its messages become dead letters until it is repaired."""

    # -- in

    def add(self, agent: AgentId, definition: AgentDefinition) -> Activation:
        """Return a new activation, to be loaded; over the active limit another agent leaves memory for it."""
        activation = self.agents[agent] = Activation(agent, definition, cell_key(self._shard, agent, STATE))
        activation.used = asyncio.get_running_loop().time()
        self._stats.active_agents = len(self.agents)
        if self._passivation is not None:
            self._passivation.added(activation, self)
        return activation

    def found(self, activation: Activation, cell: Cell | None) -> None:
        """Give an agent what the table has of it, None for a new one. Raises StateUnreadable."""
        definition = activation.definition
        if cell is not None and cell.data is not None and definition.is_recorded:
            check_whole(cell.data)
            activation.data = definition.upgraded(cell.data, cell.version)
        activation.committed = activation.data
        if definition.cells:
            activation.cells = CellSet(definition.cells, definition.migrations, self._cells_of(activation.id))
        activation.known = True

    def _cells_of(self, agent: AgentId) -> Callable[[Sequence[str]], Coroutine[Any, Any, Mapping[str, Cell | None]]]:
        async def read(names: Sequence[str]) -> Mapping[str, Cell | None]:
            keys = [cell_key(self._shard, agent, name) for name in names]
            found = await self._reader.read(keys)
            return {name: found[key] for name, key in zip(names, keys, strict=True)}

        return read

    def make(self, activation: Activation) -> None:
        """Make the instance of an agent that needs no waiting for it. Raises StateUnreadable, and what it raises."""
        definition = activation.definition
        activation.agent = definition.new_agent(activation.id, self._state(activation), activation.cells)

    async def awake(self, activation: Activation) -> None:
        """Make the instance by its factory and `on_activate`. Raises as `make`, and TimeoutError."""
        async with asyncio.timeout(limits.HOOK_TIMEOUT):
            activation.agent = await activation.definition.activated(
                activation.id, self._state(activation), activation.cells
            )

    def _state(self, activation: Activation) -> Any:
        definition = activation.definition
        return definition.new_state() if activation.data is None else definition.load_state(activation.data)

    def roll_back(self, activation: Activation) -> None:
        """After a failed turn: the state is that of the last good one, in a new instance.

        One that needs waiting for is left to be made before the next turn. Raises as `make`.
        """
        if activation.cells is not None:
            activation.cells.roll_back()
        definition = activation.definition
        if definition.activation_waits or "on_close" in definition.hooks:
            agent, activation.agent = activation.agent, None
            if agent is not None and "on_close" in definition.hooks:
                self._in_background(_hook(agent, "on_close"))
            return
        activation.agent = None
        self.make(activation)

    # -- out

    def holds(self, activation: Activation) -> bool:
        """Whether this activation is the one in memory."""
        return self.agents.get(activation.id) is activation

    def passivate(self, activation: Activation) -> bool:
        """Let an idle agent leave memory; False when it is in use. Its cells stay in overlay and table."""
        if not activation.is_idle or not self.holds(activation):
            return False
        if activation.agent is not None and activation.definition.hooks & {"on_passivate", "on_close"}:
            activation.state = LEAVING
            self._in_background(self._leave(activation, activation.agent))
        else:
            self.drop(activation)
        return True

    async def _leave(self, activation: Activation, agent: Agent[Any]) -> None:
        try:
            await _hook(agent, "on_passivate")
            await _hook(agent, "on_close")
        finally:
            self.drop(activation)
            self._on_left(activation)

    def drop(self, activation: Activation) -> None:
        """Take an agent out of memory as it stands."""
        if self.agents.pop(activation.id, None) is None:
            return
        self._stats.active_agents = len(self.agents)
        if activation.timer is not None:
            activation.timer.cancel()
            activation.timer = None
        if self._passivation is not None:
            self._passivation.gone(activation)

    def park(self, activation: Activation, error: Exception) -> None:
        """The agent's state does not load: never a silent fresh start. Its cells stay as they are."""
        self.parked[activation.id] = str(error)
        self._stats.quarantined_agents = len(self.parked)
        log.error("agent parked: its state does not load", extra={"agent": str(activation.id), "error": str(error)})
        self.drop(activation)

    def unpark(self, agent: AgentId) -> None:
        """The agent takes messages again."""
        self.parked.pop(agent, None)
        self._stats.quarantined_agents = len(self.parked)

    async def close(self) -> None:
        """The shard goes: close every instance that wants it, a second for all of them."""
        if self._passivation is not None:
            self._passivation.forget(self)
        for activation in self.agents.values():
            agent, activation.agent = activation.agent, None
            if agent is not None and "on_close" in activation.definition.hooks:
                self._in_background(_hook(agent, "on_close"))
        if self._hooks:
            _, late = await asyncio.wait(list(self._hooks), timeout=limits.CLOSE_TIMEOUT)
            for task in late:
                task.cancel()

    def _in_background(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(job, name="lifecycle hook")
        self._hooks.add(task)
        task.add_done_callback(self._hooks.discard)


async def _hook(agent: Agent[Any], name: str) -> None:
    """Run one hook within its time; what goes wrong in it is logged, since the agent goes anyway."""
    task = asyncio.current_task()
    try:
        async with asyncio.timeout(limits.HOOK_TIMEOUT if name == "on_passivate" else limits.CLOSE_TIMEOUT):
            await getattr(agent, name)()
    except BaseException as raised:
        if is_from_outside(raised, task):
            raise
        log.exception("lifecycle hook failed", extra={"agent": str(agent.id), "hook": name})
