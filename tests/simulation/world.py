"""One run: a mesh in memory, its workload, its adversary, and the questions at the end."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from starling.adapters.memory import MemoryServer, MemoryStore
from starling.client import Mesh, WhenFull
from starling.core import limits
from starling.core.due import DueKind
from starling.core.ids import AgentId, PoolName, ShardId, shard_of
from starling.core.names import MeshNames
from starling.core.record import Kind, Record
from starling.core.routes import PoolRoute, Routes
from starling.engine.dead import DeadLetter
from starling.engine.shard import OwnedShard
from starling.errors import CallFailed, MailboxFull, MeshError, ObjectLost, OutcomeUnknown, Unreachable
from starling.provision import PoolStreams, provision_mesh, provision_pool, write_routes

from . import checks
from .agents import Asked, Do, Running, check_answer
from .asks import Ask, Said, ask_all, draw_asks, noted_in, views
from .checks import Ending
from .large import BODY, Held, Kept, Padding, has_large, objects_of
from .loop import VirtualLoop
from .plan import KEYS, MORTAL, TYPES, WITNESS, Plan, Root, roots_of
from .process import EPOCH, MESH, Pool, Process, Where
from .storm import Faults, Storm

STORM_SECONDS = 8.0
SOON = 3600.0
"""Seconds that a record must be due in, to be waited for."""
REST_BOUND = 200.0
"""Virtual seconds within which everything must have come to rest once the weather is calm."""


class Simulated(Protocol):
    """A process of the world, however it comes to its shards."""

    name: str
    store: MemoryStore
    is_alive: bool

    def kill(self) -> None: ...
    def jump(self, seconds: float) -> None: ...

    @property
    def owned(self) -> Mapping[Where, OwnedShard]: ...

    @property
    def is_idle(self) -> bool: ...


class World:
    """Everything of one seed; subclasses say what processes there are and what befalls them.

    problems: what went wrong so far.
    """

    mailbox_limits: tuple[int, ...] = (2, 5)
    """Small ones, which some pools have."""
    far = 0.0
    """Seconds of the longest delay of a message with a large body; 0: as of any other."""

    def __init__(self, seed: int, loop: VirtualLoop, trace: Callable[[str], None] | None) -> None:
        self.seed = seed
        self.loop = loop
        self.trace = trace
        self.problems: list[str] = []
        self.has_large = has_large(seed)
        self.chance = random.Random(f"world {seed}")
        self.storm = Storm(random.Random(f"storm {seed}"), Faults.draw(self.chance), trace)
        self.server = MemoryServer(wall=lambda: EPOCH + loop.time(), weather=self.storm)
        self.plan = Plan(
            random.Random(f"plan {seed}"),
            clients=self.chance.choice((1, 2)),
            roots=self.chance.choice((3, 6, 12)),
            most=40,
            seconds=STORM_SECONDS / 2,
            padding=Padding(seed) if self.has_large else None,
            far=self.far if self.has_large else 0.0,
        )
        self.ending = Ending()
        self.said: list[Said] = []
        self.pools: dict[PoolName, Pool] = {}
        self.processes: list[Simulated] = []
        self._starts = 0
        self.clients: list[Mesh] = []
        self._opened: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._senders: list[asyncio.Task[None]] = []

    def say(self, text: str) -> None:
        if self.trace is not None:
            self.trace(text)

    def fail(self, what: str, error: BaseException | None = None) -> None:
        """Note a problem."""
        self.problems.append(what if error is None else f"{what}: {_text(error)}")
        self.say(f"PROBLEM {self.problems[-1]}")

    # -- the run

    async def run(self) -> None:
        Running.begin(self.plan)
        self.loop.set_exception_handler(self._unhandled)
        self.storm.calm = True
        await self._provision()
        self.storm.calm = False
        await self.begin()
        await self._send_all()
        await self.trouble()
        await self.come_to_rest()
        if self.has_large and not self.problems:
            await self.grow_old()
        if not self.problems:
            await self._audit()
        if not self.problems:
            self._judge()

    def _unhandled(self, loop: object, context: dict[str, object]) -> None:
        error = context.get("exception")
        self.fail(str(context.get("message")), error if isinstance(error, BaseException) else None)

    async def _provision(self) -> None:
        admin = self.server.connect("admin")
        await provision_mesh(admin, MESH)
        for name, agent_type in zip(("ones", "twos"), TYPES, strict=True):
            spec = PoolStreams(
                PoolName(name),
                shards=self.chance.choice((1, 2)),
                dedupe_window=limits.DEDUPE_WINDOW,
                mailbox_limit=self.chance.choice((*self.mailbox_limits, *[limits.MAILBOX_LIMIT] * 6)),
            )
            incarnation = await provision_pool(admin, MESH, spec, known=None, chance=self.chance)
            self.pools[spec.pool] = Pool(spec.pool, agent_type, spec.shards, incarnation, spec.dedupe_window)
        routes = Routes(
            pools={p.name: PoolRoute(p.name, p.shards, p.incarnation) for p in self.pools.values()},
            agent_types={p.agent_type: p.name for p in self.pools.values()},
            subscriptions=self.plan.subscriptions,
        )
        await write_routes(admin, MESH, routes, over=0)

    def new_name(self, kind: str) -> str:
        """Return a name that no process has had."""
        self._starts += 1
        return f"{kind}{self._starts}"

    def start_process(self) -> Process:
        """Start a process that takes shards when it is told to."""
        name = self.new_name("p")
        process = Process(
            self.server,
            name,
            self.pools,
            chance=random.Random(f"{name} {self.seed}"),
            offset=self.chance.choice((0.0, 0.0, -3.0, 5.0)),
            failed=self.fail,
        )
        self.processes.append(process)
        self.say(f"{name} starts")
        return process

    # -- what subclasses say

    async def begin(self) -> None:
        """Start the first processes."""
        raise NotImplementedError

    async def trouble(self) -> None:
        """Let things happen until `STORM_SECONDS`."""
        raise NotImplementedError

    def keep_owned(self) -> None:
        """Called now and then while the world comes to rest, so that every shard has an owner."""
        raise NotImplementedError

    async def grow_old(self) -> None:
        """Called at rest where values are large: let days pass, until nothing is left that nobody needs."""

    # -- what is there

    @property
    def shards(self) -> list[Where]:
        return [(pool.name, ShardId(n)) for pool in self.pools.values() for n in range(pool.shards)]

    @property
    def living(self) -> list[Simulated]:
        return [process for process in self.processes if process.is_alive]

    # -- workload

    async def _send_all(self) -> None:
        for name, roots in roots_of(self.plan).items():
            client = Mesh(
                self.server.connect(name),
                MESH,
                name=name,
                wall=lambda: EPOCH + self.loop.time(),
                chance=random.Random(f"{name} {self.seed}"),
            )
            self.clients.append(client)
            self._senders.append(self.loop.create_task(self._client(client, name, roots)))
            asks = draw_asks(random.Random(f"asks {name} {self.seed}"), self._asked, most=6, seconds=STORM_SECONDS)
            if asks:
                self._senders.append(self.loop.create_task(self._ask(client, name, asks)))

    @property
    def _asked(self) -> list[AgentId]:
        """Agents with something to do, and whose state only grows."""
        return sorted({agent for _, agent in self.plan.actions if agent.key != MORTAL}, key=str)

    def _journal_of(self, agent: AgentId) -> tuple[Where, int]:
        pool = next(pool for pool in self.pools.values() if pool.agent_type == agent.type)
        shard = shard_of(agent.type, agent.key, pool.shards)
        return (pool.name, shard), self.server.streams[
            MeshNames(MESH).pool(pool.name).journal(shard)
        ].contents.last_sequence

    async def _ask(self, client: Mesh, name: str, asks: list[Ask]) -> None:
        await self._opened[name].wait()
        await ask_all(client, name, asks, self._journal_of, self.said)

    async def _client(self, client: Mesh, name: str, roots: list[Root]) -> None:
        while True:
            try:
                await client.open()
                break
            except MeshError:
                await asyncio.sleep(0.2)
        self._opened[name].set()
        sending: list[asyncio.Task[None]] = []
        for root in roots:
            await asyncio.sleep(max(0.0, root.at - self.loop.time()))
            keys = [(root.step.tag, agent) for agent in self.plan.targets(root.step)]
            first = self.loop.create_task(self._send(client, root))
            await asyncio.sleep(0)  # its message is queued now, in this order
            while not all(key in self.ending.accepted for key in keys):
                await asyncio.sleep(0)
            sending.append(first)
            if root.again and not self.plan.pad(root.step.tag, BODY):  # else it may be sent after the dedupe window
                sending.append(self.loop.create_task(self._send(client, root)))
        await asyncio.gather(*sending)

    async def _send(self, client: Mesh, root: Root) -> None:
        step = root.step
        keys = [(step.tag, agent) for agent in self.plan.targets(step)]
        for key in keys:
            self.ending.accepted.setdefault(key, False)
        waits: WhenFull = "wait" if root.waits else "refuse"
        user_id = step.tag if root.user_id else None
        try:
            if step.kind == "send":
                assert isinstance(step.to, AgentId)
                await client.send(step.to, Do.of(step.tag), id=user_id, timeout=1000.0, when_full=waits)
            elif step.kind == "publish":
                assert not isinstance(step.to, AgentId)
                await client.publish(step.to, Do.of(step.tag), id=user_id, timeout=1000.0, when_full=waits)
            else:
                assert isinstance(step.to, AgentId)
                check_answer(step.tag, await client.call(step.to, Asked.of(step.tag), timeout=30.0))
        except ObjectLost as error:
            self.fail(f"the answer to {step.tag}", error)
            return
        except MailboxFull as error:
            self.say(f"{step.tag} was refused: {error!r}")
            if step.kind == "send" and not root.again:
                self.ending.refused.update(keys)
            return
        except (CallFailed, OutcomeUnknown, Unreachable) as error:
            self.say(f"{step.tag} was not accepted: {error!r}")
            return
        self.say(f"{step.tag} was accepted")
        for key in keys:
            self.ending.accepted[key] = True

    # -- what may happen to a process

    def kill(self, process: Simulated) -> None:
        """End a process without a goodbye."""
        if process.is_alive:
            self.say(f"{process.name} is killed")
            process.kill()

    def freeze(self, process: Simulated, seconds: float) -> None:
        """Stop a process, and let it go on later as if nothing had happened."""
        self.say(f"{process.name} is frozen for {seconds:.1f} s")
        self.loop.freeze(process.name)
        self.loop.call_later(seconds, self.loop.thaw, process.name)

    def cut(self, process: Simulated, seconds: float) -> None:
        """Cut a process off from the store, which goes on."""
        self.say(f"{process.name} is cut off for {seconds:.1f} s")
        process.store.cut()
        self.loop.call_later(seconds, lambda: process.store.mend() if process.is_alive else None)

    # -- the end

    async def come_to_rest(self) -> None:
        """Calm: everything is mended, every shard has one owner; wait until nothing is left to do."""
        self.say("calm")
        self.storm.calm = True
        self.storm.on_publish = lambda client, subject: None
        for process in self.living:
            self.loop.thaw(process.name)
            process.store.mend()
        end = self.loop.time() + REST_BOUND
        while not self._is_at_rest():
            if self.loop.time() > end:
                self.fail(f"not at rest after {REST_BOUND:g} s: {self._unrest()}")
                return
            self.keep_owned()
            await asyncio.sleep(0.5)
        self.say("at rest")

    def serves(self, process: Simulated, where: Where) -> bool:
        """Whether a process believes to own the shard, and serves it."""
        return process.is_alive and where in process.owned and process.owned[where].serving.is_set()

    def _is_at_rest(self) -> bool:
        return (
            all(sender.done() for sender in self._senders)
            and all(sum(self.serves(process, where) for process in self.living) == 1 for where in self.shards)
            and all(process.is_idle for process in self.living)
            and not self._owes()
        )

    def _owes(self) -> bool:
        """Whether something is still to happen: a record that is due later, a cell that the table has not yet."""
        owned = [shard for process in self.living for shard in process.owned.values()]
        soon = (EPOCH + self.loop.time() + SOON) * 1000
        return any(
            shard._overlay.entries
            or shard._due.oldest_change()
            or any(due.at < soon and due.kind is not DueKind.REPLY for due in shard._due.live.values())
            for shard in owned
        )

    def _unrest(self) -> str:
        parts = [f"{sum(not sender.done() for sender in self._senders)} clients still send"]
        for process in self.living:
            for where, shard in process.owned.items():
                dirty = {key: entry.awaited for key, entry in shard._overlay.entries.items()}
                lags = {str(inlet): lag for inlet, lag in shard.lags.items()}
                serves = shard.serving.is_set()
                parts.append(
                    f"{process.name} {where[0]}/{where[1]}: serves {serves}, idle {shard.is_idle}, lags {lags}, "
                    f"cells not in the table, and whether an answer is awaited {dirty}, "
                    f"due {[(due.key, due.kind.name, due.at) for due in shard._due.live.values()]}, "
                    f"buckets behind {shard._due.oldest_change()}"
                )
        return "; ".join(parts)

    async def _audit(self) -> None:
        """End every process; a fresh one takes all shards and must find what was committed."""
        for process in self.living:
            process.kill()
        auditor = self.start_process()
        for where in self.shards:
            auditor.take(where)
        end = self.loop.time() + REST_BOUND
        while not all(self.serves(auditor, where) for where in self.shards):
            if self.loop.time() > end:
                self.fail("a fresh process could not take every shard at rest")
                return
            await asyncio.sleep(0.1)
        for pool in self.pools.values():
            for key in (*KEYS, MORTAL, WITNESS.key):
                agent = AgentId(pool.agent_type, key)
                shard = auditor.owned[pool.name, shard_of(agent.type, agent.key, pool.shards)]
                noted = noted_in(await shard.state(agent))
                if not noted.is_whole:
                    self.fail(f"{agent} has a state that is not its own: {noted}")
                tags = noted.tags
                (self.ending.ended if key == MORTAL else self.ending.received)[agent] = tags
        for agent in self.ending.ended:
            self.ending.received[agent] = self._witnessed(agent)
        await self._read_dead_letters()

    def _witnessed(self, agent: AgentId) -> list[str]:
        """What a mortal agent has handled, in order."""
        heard = (tag for tag in self.ending.received[WITNESS])
        return [tag.rpartition("!")[0] for tag in heard if self.plan.actions[tag, WITNESS].sender == str(agent)]

    async def _read_dead_letters(self) -> None:
        objects = objects_of(self.server, self.pools, MESH)
        for pool in self.pools.values():
            names = MeshNames(MESH).pool(pool.name)
            for message in checks.history(self.server, names.dead_letters):
                letter = DeadLetter.unpack(message.data)
                self.ending.letters.append(message.data)
                if letter.reason == "ObjectLost":
                    self.fail(f"a message lost its body: {letter.text}")
                tag = _tag(letter, objects)
                key = (tag, letter.envelope.target) if tag and letter.envelope else None
                if key is None or key not in self.plan.actions:
                    self.ending.odd_letters.append(f"{letter.reason} {letter.text}")
                else:
                    self.ending.dead[key] += 1
                    if letter.reason == "WorkerLost" and self._takes(pool, key[1]) > limits.CAREFUL_FROM:
                        self.ending.worn.add(key)

    def _takes(self, pool: Pool, agent: AgentId) -> int:
        shard = shard_of(agent.type, agent.key, pool.shards)
        stored = checks.history(self.server, MeshNames(MESH).pool(pool.name).journal(shard))
        return sum(Record.decode(message.data).kind is Kind.TAKE for message in stored)

    def _judge(self) -> None:
        for problem in self._problems_found():
            self.fail(problem)

    def _problems_found(self) -> Iterator[str]:
        self.ending.unsure, self.ending.steps = Running.unsure, Running.steps
        yield from checks.steps(self.ending)
        yield from checks.effects(self.plan, self.ending)
        yield from checks.order(self.plan, self.ending)
        yield from checks.timers(self.plan, self.ending)
        yield from checks.lives(self.plan, self.ending)
        records = checks.all_records(self.server, self.pools.values())
        yield from checks.journals(records)
        yield from checks.tables(self.server, self.pools.values(), records)
        objects = objects_of(self.server, self.pools, MESH)
        yield from Running.damaged
        yield from checks.large(
            self.server, list(self.pools.values()), objects, self.ending.letters, aged=self.has_large and bool(self.far)
        )
        yield from views(self.said, records, objects)


def _text(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_text(inner) for inner in error.exceptions)
    return repr(error)


def _tag(letter: DeadLetter, objects: Mapping[Held, Kept]) -> str:
    envelope = letter.envelope
    if envelope is None:
        return ""
    body = envelope.body if envelope.large is None else objects[envelope.large.pool, envelope.large.name].data
    return str(json.loads(body).get("tag", "")) if body else ""
