"""What must hold after a run, against the plan and against the history of every stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from starling.adapters.memory import MemoryServer
from starling.core.due import is_transient
from starling.core.ids import AgentId, PoolName, ShardId
from starling.core.names import MeshNames, bucket_key, bucket_stream, parse_cell_key
from starling.core.overlay import TableValue
from starling.core.record import Cell, Kind, Record
from starling.ports.store import Message, is_removal

from .agents import Key
from .large import BODY, Held, Kept, Timed, announced, lasting, leftovers, remaining
from .plan import NEVER_SET, Action, Plan, children, is_sure
from .process import MESH, Pool, Where


@dataclass(slots=True)
class Ending:
    """How a run ended. accepted: roots whose sender was told that they are stored, by agent in the order of sending;
    received: tags that each agent has handled; dead: tags of dead letters by agent; refused: roots that found the
    mailbox full whenever they were sent; worn: dead letters whose owner was lost in each attempt; ended: tags in
    the states of mortal agents; letters: all dead letters as they are stored."""

    accepted: dict[Key, bool] = field(default_factory=dict)
    received: dict[AgentId, list[str]] = field(default_factory=dict)
    dead: Counter[Key] = field(default_factory=Counter)
    odd_letters: list[str] = field(default_factory=list)
    unsure: set[Key] = field(default_factory=set)
    steps: Mapping[str, list[int]] = field(default_factory=dict)
    refused: set[Key] = field(default_factory=set)
    worn: set[Key] = field(default_factory=set)
    letters: list[bytes] = field(default_factory=list)
    ended: dict[AgentId, list[str]] = field(default_factory=dict)


def effects(plan: Plan, ending: Ending) -> Iterator[str]:
    """P1 and P2: every accepted message had its effect once or is a dead letter, and nothing else has."""
    must: dict[Key, bool] = dict(ending.accepted)
    waiting = list(must)
    had = {(tag, agent): count for agent, tags in ending.received.items() for tag, count in Counter(tags).items()}
    while waiting:
        key = waiting.pop()
        if had.get(key):
            for step, child in children(plan, plan.actions[key]):
                waiting.append((child.tag, child.agent))
                must.setdefault((child.tag, child.agent), is_sure(step, child))
    loose = descendants(plan, ending.unsure)
    for key, sure in must.items():
        if key not in loose:
            yield from _outcome(plan.actions[key], sure, had.get(key, 0), ending.dead[key], worn=key in ending.worn)
    asked = {
        (child.tag, child.agent)
        for key in plan.actions
        for step, child in children(plan, plan.actions[key])
        if step.kind == "call"
    }
    called = descendants(plan, asked)
    for key, count in had.items():
        if key in must or key in loose:
            continue
        # a turn that failed for good may have called before
        if key not in called:
            yield f"P2: {_name(key)} took effect, but nobody sent it"
        elif count > plan.actions[key].times:
            yield f"P2: {_name(key)} took effect {count} times"
    yield from (f"P2: {_name(key)} was refused, and took effect" for key in ending.refused if had.get(key))
    yield from (f"dead letter of nothing that was sent: {text}" for text in ending.odd_letters)


def descendants(plan: Plan, keys: Iterable[Key]) -> set[Key]:
    """These actions and all that come of them."""
    found = set(keys)
    waiting = list(found)
    while waiting:
        for _, child in children(plan, plan.actions[waiting.pop()]):
            key = (child.tag, child.agent)
            if key not in found:
                found.add(key)
                waiting.append(key)
    return found


def steps(ending: Ending) -> Iterator[str]:
    """A step's result that a turn went on with is the result of every later attempt."""
    for key, results in ending.steps.items():
        if len(set(results)) > 1:
            yield f"the step of turn {key} gave its attempts {results}"


def _outcome(action: Action, sure: bool, effects_: int, letters: int, *, worn: bool) -> Iterator[str]:
    name = _name((action.tag, action.agent))
    if effects_ > action.times:
        yield f"P2: {name} took effect {effects_} times"
    if effects_ and action.cancelled == NEVER_SET:
        yield f"P2: {name} took effect, but the turn that set the timer has cancelled it"
    if letters > 1:
        yield f"P2: {name} has {letters} dead letters"
    if effects_ and letters:
        yield f"P2: {name} took effect and is a dead letter"
    if action.is_poison and effects_:
        yield f"P2: {name} never succeeds, and took effect"
    if not sure or action.is_call:
        return
    if not letters and effects_ < action.times:
        yield f"P1: {name} was accepted and is lost" if not effects_ else f"P1: {name} happened {effects_} times only"
    if letters and not action.is_poison and not action.calls and not worn:
        yield f"P1: {name} is a dead letter without a reason"


def timers(plan: Plan, ending: Ending) -> Iterator[str]:
    """A timer does not run once the turn that takes it back has its effect."""
    loose = descendants(plan, ending.unsure)
    for agent, tags in ending.received.items():
        for index, tag in enumerate(tags):
            action = plan.actions.get((tag, agent))
            if action is not None and action.cancels in tags[index:] and (tag, agent) not in loose:
                yield f"{agent} ran timer {action.cancels} after {tag} had taken it back"


def lives(plan: Plan, ending: Ending) -> Iterator[str]:
    """What a mortal agent knows is what it has handled since it last ended itself."""
    for agent, tags in ending.ended.items():
        handled = ending.received.get(agent, [])
        last = max((index for index, tag in enumerate(handled) if plan.actions[tag, agent].destroys), default=-1)
        if tags != handled[last + 1 :]:
            yield f"{agent} has handled {handled}, and knows {tags}"


def _name(key: Key) -> str:
    return f"{key[0]} at {key[1]}"


def order(plan: Plan, ending: Ending) -> Iterator[str]:
    """P3: what one sender sent to one agent was handled in the order of sending."""
    sent: dict[Key, list[str]] = {}
    for tag, agent in ending.accepted:
        if plan.pad(tag, BODY):
            continue  # its body is stored first, while its client sends the next one
        sent.setdefault((plan.actions[tag, agent].sender, agent), []).append(tag)
    for sender, tags in ending.received.items():
        for tag in dict.fromkeys(tags):
            action = plan.actions.get((tag, sender))
            for step, child in children(plan, action) if action else ():
                if step.kind in ("send", "publish", "witness") and not step.delay:
                    lane = "urgent" if step.urgent else "normal"
                    sent.setdefault((f"{sender} ({lane})", child.agent), []).append(child.tag)
    loose = descendants(plan, ending.unsure)
    for (sender_name, agent), tags in sent.items():
        wanted = [tag for tag in tags if (tag, agent) not in loose and not plan.actions[tag, agent].is_call]
        place = {tag: index for index, tag in enumerate(wanted)}
        got = [tag for tag in ending.received.get(agent, ()) if tag in place]
        if got != sorted(got, key=place.__getitem__):
            yield f"P3: {agent} handled {got} of {sender_name}, who sent {[tag for tag in wanted if tag in got]}"


def journals(records: Records) -> Iterator[str]:
    """P4: each record follows the one that its writer knew, epochs only grow, and only an owner commits."""
    for (pool, shard), found in records.items():
        yield from _journal(f"journal {pool}/{shard}", found)


def _journal(name: str, found: Sequence[tuple[int, Record]]) -> Iterator[str]:
    previous, last = 0, None
    for sequence, record in found:
        if record.previous != previous:
            yield f"P4: {name}: record {sequence} follows {record.previous}, but {previous} was the last"
        if last is not None:
            yield from _follows(f"{name}: record {sequence}", last, record)
        previous, last = sequence, record


def _follows(name: str, last: Record, record: Record) -> Iterator[str]:
    if record.kind is Kind.TAKE:
        if record.epoch != last.epoch + 1:
            yield f"P4: {name} takes with epoch {record.epoch} after {last.epoch}"
        return
    if record.epoch != last.epoch:
        yield f"P4: {name} of epoch {record.epoch} stands after epoch {last.epoch}"
    if last.kind in (Kind.FREE, Kind.BORN):
        yield f"P4: {name} is a {record.kind} of a shard that has no owner"
    for inlet, floor in last.floors.items():
        if record.floors.get(inlet, 0) < floor:
            yield f"{name}: floor of {inlet} went back from {floor} to {record.floors.get(inlet, 0)}"


Records = Mapping[Where, Sequence[tuple[int, Record]]]
"""Sequence and record of everything that was ever in each journal, purged ones too."""


def all_records(server: MemoryServer, pools: Iterable[Pool]) -> Records:
    """Read all journals."""
    return {
        (pool.name, shard): [
            (message.sequence, Record.decode(message.data))
            for message in history(server, MeshNames(MESH).pool(pool.name).journal(shard))
        ]
        for pool in pools
        for shard in map(ShardId, range(pool.shards))
    }


def history(server: MemoryServer, stream: str) -> list[Message]:
    """Every message that was ever stored in a stream."""
    replicas = server.streams[stream].replicas
    assert replicas is not None
    return [change for change in replicas.changes if isinstance(change, Message)]


def timed(server: MemoryServer, pool: Pool, shard: ShardId) -> list[tuple[float, Record]]:
    """Every record of a journal, with the time at which it was stored."""
    stored = history(server, MeshNames(MESH).pool(pool.name).journal(shard))
    return [(message.time, Record.decode(message.data)) for message in stored]


def large(
    server: MemoryServer, pools: Sequence[Pool], objects: Mapping[Held, Kept], letters: Sequence[bytes], *, aged: bool
) -> Iterator[str]:
    """What is referred to is there, whole; and once all ages are over, nothing else is."""
    journals: list[tuple[PoolName, Timed]] = []
    for pool in pools:
        names = MeshNames(MESH).pool(pool.name)
        yield from announced(objects, history(server, names.dead_letters))
        for shard in map(ShardId, range(pool.shards)):
            journals.append((pool.name, journal := timed(server, pool, shard)))
            yield from lasting(objects, pool.name, journal)
            yield from announced(objects, history(server, names.mailbox(shard)))
    if aged:
        yield from remaining(objects, journals, letters)
        yield from leftovers(server, [pool.name for pool in pools], MESH)


def tables(server: MemoryServer, pools: Iterable[Pool], records: Records) -> Iterator[str]:
    """The table only has what the journal committed, never goes back, and has the newest of every cell in the end."""
    for pool in pools:
        names = MeshNames(MESH).pool(pool.name)
        committed: dict[ShardId, Mapping[tuple[int, str], Cell]] = {}
        newest: dict[str, int] = {}
        for shard in map(ShardId, range(pool.shards)):
            found = records[pool.name, shard]
            committed[shard] = {(at, key): cell for at, record in found for key, cell in record.cells.items()}
            newest.update({key: at for at, key in committed[shard]})
            for (at, key), last in committed[shard].items():
                if newest[key] == at and last.data is None and is_transient(key):
                    del newest[key]  # its key never comes back: what the table has of it, nobody reads
        stored: dict[str, int] = {}
        for message in history(server, bucket_stream(names.table)):
            key = bucket_key(names.table, message.subject)
            if is_removal(message):
                continue
            value = TableValue.decode(message.data)
            before, stored[key] = stored.get(key, 0), value.journal
            if value.journal < before:
                yield f"table: {key} went back from version {before} to {value.journal}"
            parsed = parse_cell_key(key)
            if parsed is None:
                continue
            cell = committed[parsed[0]].get((value.journal, key))
            if cell is None or cell.data != value.data:
                yield f"table: version {value.journal} of {key} was never committed so"
        for key, at in newest.items():
            if stored.get(key) != at:
                yield f"table: {key} has version {stored.get(key)} at rest, {at} was committed"
