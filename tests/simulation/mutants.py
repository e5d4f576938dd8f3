"""Breaks each rule of the engine on purpose and looks which seed notices: `python -m tests.simulation.mutants`.

The rules, and what breaks them, are those of the checked model of the shard.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from starling.core import ids, overlay, positions
from starling.core.due import DueIndex
from starling.core.outbox import Chain
from starling.core.overlay import Overlay
from starling.core.positions import Position, Positions
from starling.core.replay import Replay
from starling.engine import journal as journals
from starling.engine import producer
from starling.engine.agenda import Agenda
from starling.engine.commit import Committer
from starling.engine.deliver import Delivery
from starling.engine.intake import Intake
from starling.engine.janitor import Janitor
from starling.engine.journal import Journal
from starling.engine.large import LargeValues
from starling.engine.objects import Objects
from starling.engine.producer import Producer
from starling.engine.queries import Queries
from starling.engine.query_client import QueryClient
from starling.engine.reading import Reading
from starling.engine.records import Records
from starling.engine.room import Room, Share
from starling.engine.shard import OwnedShard
from starling.engine.sweep import Sweep
from starling.engine.table import Table
from starling.engine.turn import Turn
from starling.engine.turn_ends import TurnEnds
from starling.engine.turn_starts import TurnStarts
from starling.engine.turns import Turns
from starling.node.ownership import Ownership
from starling_operator.plan.decide import _is_empty, _usable

from .control import ControlWorld
from .edits import DoesNotApply, all_of, edited
from .large import has_large
from .runner import Result, run_many, world_of
from .world import World

MOST_SEEDS = 600
_UNIT = Path(__file__).parents[1] / "unit"
_TESTS = (
    Path(__file__).with_name("test_holes.py"),
    _UNIT / "client/test_batch.py",
    _UNIT / "core/test_replay.py",
    _UNIT / "engine/test_ahead_of_the_outbox.py",
    _UNIT / "engine/test_journal.py",
    _UNIT / "engine/test_large_values.py",
    _UNIT / "engine/test_no_object_store.py",
    _UNIT / "engine/test_queries.py",
    _UNIT / "engine/test_room.py",
    _UNIT / "engine/test_room_for_answers.py",
    _UNIT / "operator/plan/test_decide.py",
)
_BLUNDER = re.compile(r"\b(TypeError|AttributeError|NameError|SyntaxError|ImportError|UnboundLocalError)\b")
"""What a mutant that was written badly ends with: no rule of ours caught it."""

_HASH = (
    "_fnv1a32(agent_type, key)",
    # Two pods are two processes, each with a seed of its own for `hash`.
    "(_fnv1a32(agent_type, key) + sum(__import__('tests.simulation.loop').simulation.loop.PROCESS.get().encode()))",
)


class Mutant(NamedTuple):
    """One seeded mistake.

    rule: of the model, or of the design; test: a part of the name of tests, where seeds catch it too rarely; world: the
    only kind of world to try it in; large: only seeds with large values can notice.
    """

    name: str
    rule: str
    change: Callable[[], AbstractContextManager[None]]
    test: str = ""
    world: type[World] | None = None
    large: bool = False


MUTANTS: tuple[Mutant, ...] = (
    # -- commits and takes
    Mutant(
        "a commit without a condition",
        "M4",
        lambda: edited(Journal.send, ("expect=Expect(self.last)", "expect=None")),
    ),
    Mutant(
        "an unknown commit is taken for stored",
        "M4",
        lambda: edited(
            Journal.ended,
            ('raise OutcomeUnknown(f"{self._stream}: {answer.text}")', "self.last += 1; return self.last"),
        ),
    ),
    Mutant(
        "a take keeps the epoch",
        "M1",
        lambda: edited(journals.take, ("epoch=last.epoch + 1", "epoch=last.epoch")),
    ),
    # -- acceptance
    Mutant(
        "acceptance does not look at prev",
        "M2",
        lambda: edited(positions.accepts, ("== previous", "<= previous")),
    ),
    Mutant(
        "acceptance takes everything",
        "M2",
        lambda: edited(positions.accepts, ("seen.get(source, 0) == previous", "True")),
    ),
    Mutant(
        "seen as of the latest, not as of the floor",
        "M4",
        lambda: edited(
            Positions.arrive,
            (
                "self._window.append(position)",
                "self._window.append(position); self.passed.update({} if source is None else {source: number})",
            ),
        ),
    ),
    Mutant(
        "what is done is skipped by acceptance",
        "M2",
        lambda: edited(
            Intake._judge,
            ("if accepts(", "if not self.positions._carried and accepts("),
        ),
    ),
    # -- positions
    Mutant("no done set", "M4", lambda: edited(Positions._finished_before, ("if self._carried:", "if False:"))),
    Mutant(
        "done per frame, at its first message",
        "hole 1",
        lambda: edited(Position.finish, ("self.left -= 1", "self.left = 0")),
    ),
    Mutant(
        "done per frame, at its last message",
        "hole 1",
        lambda: edited(Positions.done, ("if position.finished:", "if False:")),
    ),
    Mutant(
        "done is not carried over",
        "hole 2",
        lambda: edited(
            Positions.done,
            ("for start, end in self._carried if end > read", "for start, end in () if end > read"),
            ("for p, i in self._carried_partly.items() if p > read", "for p, i in () if p > read"),
        ),
    ),
    Mutant(
        "the floor passes what is not finished",
        "M4",
        lambda: edited(Positions.advance, ("while window and not window[0].left", "while window")),
    ),
    # -- delivery
    Mutant(
        "delivery before the commit",
        "M5",
        lambda: edited(
            Committer._send,
            (
                "            answer = asyncio.ensure_future(self._journal.send(record))\n",
                "            for frame in () if batch is None else batch.frames:\n"
                "                sending = __import__('starling.core.outbox').core.outbox.Sending\n"
                "                early = sending(frame, FrameRef(0, 0))\n"
                "                subject, headers = self._delivery._address(early)\n"
                "                asyncio.ensure_future(self._store.publish(subject, frame.body, headers))\n"
                "            answer = asyncio.ensure_future(self._journal.send(record))\n",
            ),
        ),
    ),
    Mutant(
        "the outbox is not sent again after a take",
        "M6",
        lambda: edited(OwnedShard.take, ("for ref, frame in fold.frames.items():", "for ref, frame in ():")),
    ),
    Mutant(
        "positions of answers are not compared",
        "hole 4",
        lambda: edited(Chain.stored, ("if found <= self._last_position and self._ordered:", "if False:")),
    ),
    Mutant(
        "a frame that nobody answered for is not sent again",
        "M5",
        lambda: edited(Chain.failed, ("self._sent = 0", "pass")),
    ),
    Mutant(
        "a frame of the outbox is confirmed when it is sent",
        "M5",
        lambda: edited(
            Delivery._answered,
            ("if isinstance(answer, Stored):", "if True:"),
            ("answer.sequence", "getattr(answer, 'sequence', 1 << 60)"),
        ),
    ),
    # -- the table
    Mutant(
        "a table write without a condition",
        "T5",
        lambda: edited(Table._write, ("headers, expect)", "headers)")),
    ),
    Mutant(
        "after an unknown first write the mark stays",
        "T6",
        lambda: edited(Table._settle, ("self._mark_anew = True", "pass")),
        "a_first_write_that_arrives_late",
    ),
    Mutant(
        "a first write on condition of revision 0 over a moved cell",
        "T6",
        lambda: edited(
            Table._write,
            ("Expect(self.overlay.mark, self._mark_subject)", "None"),
        ),
    ),
    Mutant(
        "a read counts from any replica",
        "T8",
        lambda: edited(Table._answer, ("answer.up_to >= needed", "True"), ("answer.up_to is not None and ", "")),
    ),
    Mutant(
        "S without the mark",
        "T8",
        lambda: edited(Overlay.marked, ("self.reached = max(self.reached, sequence)", "pass")),
        "a_replica_that_has_not_seen",
    ),
    Mutant(
        "S without own writes",
        "T8",
        lambda: edited(Overlay.acknowledged, ("self.reached = max(self.reached, revision)", "pass")),
    ),
    Mutant(
        "S does not rise when an equal version is found",
        "hole 3 of the table",
        lambda: edited(Overlay.found, ("self.reached = max(self.reached, revision)", "pass")),
        "an_equal_version",
    ),
    Mutant(
        "a cell leaves the overlay when it is sent",
        "T4",
        lambda: edited(
            Table.write_round,
            ("entry.awaited = True  #", "overlay.entries.pop(key, None)  #"),
        ),
    ),
    Mutant(
        "a cell leaves the overlay with an older answer",
        "T4",
        lambda: edited(Overlay.acknowledged, ("if entry.journal == journal:", "if True:")),
    ),
    # -- replay and purge
    Mutant(
        "a gap in the replay is not noticed",
        "T3",
        lambda: edited(Replay.apply, ("if record.previous != self.last:", "if False:")),
        "gap",
    ),
    Mutant(
        "what was read ahead of another journal is believed",
        "T3",
        lambda: edited(Reading._next, ("if page[0] == last:", "if True:")),
        "made_anew_since",
    ),
    Mutant(
        "what was read ahead has a hole",
        "T3",
        lambda: edited(Reading._next, ("return page[1:]", "return page[2:] or page[1:]")),
        "only_what_came_since",
    ),
    Mutant(
        "what was purged since it was read ahead is not asked for anew",
        "T3",
        lambda: edited(Reading._next, ("if page[0] == last:", "if page[0].sequence >= last.sequence:")),
        "purged_since_is_read_anew",
    ),
    Mutant(
        "a snapshot forgets unconfirmed frames",
        "T2",
        lambda: edited(Replay._snapshot, ("for ref in record.frame_refs if", "for ref in () if")),
    ),
    Mutant(
        "a snapshot forgets cells that the table may not have",
        "T2",
        lambda: edited(Replay._snapshot, ("for ref in record.cell_refs if", "for ref in () if")),
    ),
    Mutant(
        "the journal is purged without regard to cells",
        "T9",
        lambda: edited(OwnedShard._oldest_needed, ("self._overlay.oldest(),", "None,")),
    ),
    Mutant(
        "the journal is purged without regard to frames",
        "T9",
        lambda: edited(OwnedShard._oldest_needed, ("self._outbox.oldest_record()", "None")),
    ),
    Mutant(
        "the journal is purged past the newest snapshot",
        "T9",
        lambda: edited(
            overlay.purge_bound,
            ("if not snapshot:", "if False:"),
            ("min(own_last, snapshot,", "min(own_last, own_last,"),
        ),
    ),
    Mutant(
        "frames are purged before their floor is committed",
        "M9",
        lambda: edited(
            Janitor.purge,
            ("allowed = floor if", "allowed = self._committer._intakes[inlet].positions.last_read if"),
        ),
    ),
    # -- due records
    Mutant(
        "a due record stays when its message is done",
        "M7",
        lambda: edited(Records._work_done, ("elif outcome.moves_to is None:", "elif False:")),
    ),
    Mutant(
        "the running message is not parked with those behind it",
        "hole 6",
        lambda: edited(Turns.park, ("if work.due or work.inlet", "if not depth or work.due or work.inlet")),
    ),
    Mutant(
        "records that hold an agent up are run when they are due, not first",
        "M7",
        lambda: edited(Agenda.restore, ("held.setdefault(agent_of(due), []).append(due)", "self._push(due)")),
    ),
    Mutant(
        "a new owner does not know of records since the table's bucket",
        "T12",
        lambda: edited(DueIndex.restore, ("for change in changes:", "for change in ():")),
    ),
    Mutant(
        "a large fan-out is not waited for",
        "section 5",
        lambda: all_of(
            edited(Turns._turn, ("or activation.pieces:", "or False:")),
            edited(Turns._schedule, ("if activation.pieces:", "if False:")),
        ),
    ),
    # -- timers, and the end of agents
    Mutant(
        "a cancelled timer's record stays",
        "section 4",
        lambda: edited(Turns._timers, ("outcome.undue += self._leave(", "(")),
    ),
    Mutant(
        "a recurring timer ends with its first time",
        "section 4",
        lambda: edited(Turns._went_well, ("self._again_later(work, envelope, outcome)", "pass")),
    ),
    Mutant(
        "an agent that ends keeps its state",
        "section 4",
        lambda: edited(Turns._destroy, ("outcome.cell(activation.key,", "(lambda *_: None)(activation.key,")),
    ),
    Mutant(
        "an agent that ends takes parked messages with it",
        "section 4",
        lambda: edited(DueIndex._enter, ("elif due.kind in _LATER and", "elif due.kind is not DueKind.REPLY and")),
    ),
    # -- queries
    Mutant(
        "a query runs on what is not committed",
        "section 5",
        lambda: edited(Queries._begin, (" or not activation.is_settled", "")),
    ),
    Mutant(
        "a query's view is made of the newest state",
        "section 5",
        lambda: edited(Queries._committed, ("return activation.committed,", "return activation.data,")),
    ),
    Mutant(
        "an answer of a replaced owner counts",
        "section 3",
        lambda: edited(QueryClient.query, (" and reply.epoch >= asked.epoch", "")),
        test="answer_of_an_older_owner",
    ),
    # -- full mailboxes
    Mutant(
        "a refused message counts as stored",
        "section 9",
        lambda: edited(
            Producer._repeat,
            ("if isinstance(answer, Stored):", "if isinstance(answer, Stored) or isinstance(answer, Refused):"),
            ("Accepted(answer.sequence, answer.duplicate and", "Accepted(0, False and"),
        ),
    ),
    Mutant(
        "a patient message is refused by a full mailbox",
        "section 9",
        lambda: edited(producer._is_passing, ("(patient and", "(False and")),
        test="sender_that_waits_is_stored",
    ),
    Mutant(
        "turns start however much of what others left is stored nowhere",
        "section 5",
        lambda: edited(
            vars(TurnStarts)["_is_full"].fget, ("if self.unstored_bytes >", "if False and self.unstored_bytes >")
        ),
        test="left_is_in_no_record",
    ),
    Mutant(
        "messages from outside have their turns whatever is undelivered",
        "section 5",
        lambda: edited(Turns._turn, ("if self._outbox_is_full and", "if False and")),
        test="while_the_target_takes_nothing",
    ),
    Mutant(
        "what agents send waits for what they have not delivered",
        "section 5",
        lambda: edited(Turns._turn, (" and activation.is_only_from_outside", "")),
        test="while_the_target_takes_nothing",
    ),
    # -- calls and steps
    Mutant("a reply is not recorded", "M10", lambda: edited(Turns._reply, ("if envelope.repeatable:", "if False:"))),
    Mutant(
        "a call is not saved",
        "M10",
        lambda: edited(
            Turn._call,
            ("saved = await self._saved(name)", "saved = None"),
            ('f"{name} {self.work.attempt}"', 'f"{name} {self._shard.wall()}"'),
        ),
    ),
    Mutant(
        "a step is not saved",
        "M11",
        lambda: edited(Turn._step, ('await self._save(f"step-{name}", data, ())', "pass")),
    ),
    Mutant(
        "what was saved is not looked for",
        "M11",
        lambda: edited(Turn._saved, ("if self.work.fresh:", "if True:")),
    ),
    # -- takes and releases
    Mutant(
        "a release may follow a commit of unknown outcome",
        "M4",
        lambda: edited(Journal.send, ("if self._is_over:", "if False:")),
        "after_a_record_of_unknown_outcome",
    ),
    Mutant(
        "a take over an old read counts as a fence",
        "M1",
        lambda: edited(journals.take, ("except Fenced as error:", "except ZeroDivisionError as error:")),
        "a_take_over_an_old_read",
    ),
    Mutant(
        "shards are taken before the routes are known",
        "section 6",
        lambda: edited(Ownership._may_matter, ("or not self._routes.heard.is_set()", "")),
    ),
    # -- the operator
    Mutant(
        "a pod goes without having said that it owns nothing",
        "section 7",
        lambda: edited(_is_empty, (" and not pod.member.shards and", " or")),
        world=ControlWorld,
    ),
    Mutant(
        "a report from before the map counts",
        "section 7",
        lambda: edited(_is_empty, (" and pod.member.map_rev >= current.rev", "")),
        world=ControlWorld,
    ),
    Mutant(
        "the shards of a lost pod stay where they are",
        "section 7",
        lambda: edited(_usable, ("if not lost and (", "if True and (")),
        test="shards_leave_a_pod_once_it_is_lost",
    ),
    # -- large values
    Mutant(
        "large: a turn is committed before its objects are put",
        "section 5",
        lambda: edited(
            Turns._spill,
            (
                "await self.large.put(turn.large, keys=_keys_of(outcome))",
                "later = self.large.put(turn.large, keys=_keys_of(outcome)); "
                "asyncio.get_running_loop().call_later(0.3, lambda: asyncio.ensure_future(later))",
            ),
        ),
        large=True,
    ),
    Mutant(
        "large: a turn waits for ever for an object store that is gone",
        "section 6",
        lambda: edited(LargeValues._put, ("elif await self", "elif False and await self")),
        "without_an_object_store",
    ),
    Mutant(
        "large: a turn that finds no store for its objects has done all the same what it did",
        "section 6",
        lambda: edited(
            Turns._spill,
            ("ran = self._settings", "self._went_well(activation, turn, outcome, started); ran = self._settings"),
        ),
        "no_store_takes",
    ),
    Mutant(
        "large: a body goes before the commit that ends its use",
        "section 5",
        lambda: all_of(
            edited(Committer._apply, ("self._large.committed(outcome)", "pass")),
            edited(
                Committer._send,
                (
                    "            sent = self._settings.timer()\n",
                    "            sent = self._settings.timer()\n"
                    "            for outcome in () if batch is None else batch.outcomes:\n"
                    "                self._large.committed(outcome)\n",
                ),
            ),
        ),
        large=True,
    ),
    Mutant(
        "large: the first of those that share a body removes it",
        "section 5",
        lambda: edited(Objects.done, ("if len(found) >= reference.share:", "if True:")),
        large=True,
    ),
    Mutant(
        "large: a message that waits for a further attempt has ended",
        "section 5",
        lambda: edited(LargeValues.committed, (" or not outcome.ends", "")),
        large=True,
    ),
    Mutant(
        "large: a dead letter needs its body no more",
        "section 5",
        lambda: edited(LargeValues.committed, (" or outcome.dead is not None", "")),
        large=True,
    ),
    Mutant(
        "large: the answer of a repeated call goes with its first reader",
        "M10",
        lambda: edited(TurnEnds._packed, ("share=0 if envelope.repeatable else 1", "share=1")),
        large=True,
    ),
    Mutant(
        "large: a further try uses the place of the one before",
        "section 5",
        lambda: edited(
            Objects.put,
            ('nuid = f"{reference.name}-{self._tries}"', 'nuid = f"{reference.name}-{attempt}"'),
        ),
        large=True,
    ),
    Mutant(
        "large: chunks count in whatever order they are stored",
        "section 5",
        lambda: edited(Objects._chunks, (" if sequences == sorted(sequences) else None", "")),
        large=True,
    ),
    Mutant(
        "large: all bodies are fetched at once",
        "section 5",
        lambda: edited(Room._let_in, ("if self._active and ", "if False and ")),
        "stay_under_the_bound",
    ),
    Mutant(
        "large: a turn that waits for a call holds up the one that is called",
        "section 5",
        lambda: edited(Share.calls, ("self.change(0, waiting)", "pass")),
        "hold_room_and_call",
    ),
    Mutant(
        "large: a turn that waits for room for an answer holds up the others",
        "section 5",
        lambda: all_of(
            edited(Share.ask, ("self.change(0, 1)", "pass")),
            edited(Share.has_more, ("self._waits -= 1", "pass")),
        ),
        "come_to_their_ends",
    ),
    Mutant(
        "large: answers need no room",
        "section 5",
        lambda: edited(Turn._make_room, ("if self.has_ended:", "if True:")),
        "large_answers_at_once",
    ),
    Mutant(
        "large: room for an answer that comes after the turn is never given back",
        "section 5",
        lambda: edited(Turn._make_room, ("if self.has_ended:", "if False:")),
        "leaves_behind",
    ),
    Mutant(
        "large: room for answers is kept past the turn",
        "section 5",
        lambda: edited(Turn.ended, ("self.work.share.leave()", "pass")),
        "large_answers_at_once",
    ),
    Mutant(
        "large: states need no room",
        "section 5",
        lambda: edited(TurnStarts._load_large, ("await self._enter(share, large.size_bytes)", "pass")),
        "large_states_are_loaded",
    ),
    Mutant(
        "large: a description that is there already is put again",
        "section 5",
        lambda: edited(Objects._describe, (", expect=Expect(0, subject)", "")),
        "an_object_is_described_once",
    ),
    Mutant(
        "large: bytes that are not those of the reference will do",
        "section 5",
        lambda: edited(Objects.get, ("if not reference.fits(data):", "if False:")),
        "not_those_of_the_reference",
    ),
    Mutant(
        "large: the sweep removes the object of a cell's present version",
        "section 5",
        lambda: edited(Sweep._is_replaced, ("or reference.name != one.name", "or True")),
        large=True,
    ),
    Mutant(
        "large: the sweep believes a replica that lags",
        "section 5",
        lambda: edited(
            Objects.delete_old,
            ("if found is None or found.time >= older_than:", "if found is None:"),
            ("if not isinstance(answer, Stored):", "if False:"),
        ),
        "said_to_be_needed_meanwhile",
    ),
    Mutant(
        "large: nobody says that a dead letter needs its body",
        "section 5",
        lambda: edited(Sweep._held, ("if self._shard == 0:", "if False:")),
        large=True,
    ),
    Mutant(
        "large: nobody says that a due record needs its body",
        "section 5",
        lambda: edited(Sweep._held, ("keys = list(self._due.live)", "keys = []")),
        large=True,
    ),
    Mutant(
        "large: bodies are never swept",
        "section 5",
        lambda: edited(Sweep.look, ("older_than=now - age_of(one.name)", "older_than=now - 1000 * DAY")),
        large=True,
    ),
    Mutant(
        "large: what was never finished stays",
        "section 5",
        lambda: edited(Objects.remove_unfinished, ("if last is not None and last.time < older_than:", "if False:")),
        large=True,
    ),
    # -- the rest
    Mutant("the hash of an agent is Python's own", "section 3", lambda: edited(ids.shard_of, _HASH)),
    Mutant(
        "the outside's repeats have ids of their own",
        "section 9",
        lambda: all_of(
            edited(Producer._repeat, ("headers = {MESSAGE_ID: message_id,", "headers = {")),
            edited(Producer._send_alone, ("headers = {MESSAGE_ID: item.message_id,", "headers = {")),
        ),
    ),
    Mutant(
        "a failed turn keeps its state",
        "section 5",
        lambda: edited(Turns._failed, ("self.residents.roll_back(activation)", "pass")),
    ),
)


def main() -> int:
    """Exit code 0 when every mutant is caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("--seeds", type=int, default=MOST_SEEDS, help="at most, for each")
    parser.add_argument("--only", default="", help="a part of the names of those to run")
    parser.add_argument("--first", type=int, default=0, help="leave out so many")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS[given.first :] if given.only in mutant.name]
    caught = sum(_run(mutant, given.seeds, given.workers) for mutant in chosen)
    print(f"{len(chosen)} mutants, {caught} caught")
    return 0 if caught == len(chosen) else 1


def _run(mutant: Mutant, seeds: int, workers: int) -> bool:
    try:
        with mutant.change():
            if mutant.test:
                return _fails(mutant)
            found, count = first_failure(seeds, workers, mutant)
    except DoesNotApply as error:
        print(f"NOT APPLIED  {mutant.name} ({mutant.rule}): {error}", flush=True)
        return False
    if found is None:
        print(f"SURVIVED     {mutant.name} ({mutant.rule}): {count} seeds", flush=True)
        return False
    if _BLUNDER.search(found.problems[0]):
        print(f"BLUNDER      {mutant.name} ({mutant.rule}): seed {found.seed}, {found.problems[0]}", flush=True)
        return False
    print(f"caught       {mutant.name} ({mutant.rule}): seed {found.seed}, {found.problems[0][:110]}", flush=True)
    return True


def _fails(mutant: Mutant) -> bool:
    """Whether the mutant's own test fails."""
    with redirect_stdout(StringIO()):
        code = pytest.main(["-q", "-p", "no:cacheprovider", *map(str, _TESTS), "-k", mutant.test])
    is_caught = code is pytest.ExitCode.TESTS_FAILED
    print(f"{'caught' if is_caught else 'SURVIVED':12} {mutant.name} ({mutant.rule}): test {mutant.test}", flush=True)
    return is_caught


def first_failure(seeds: int, workers: int, mutant: Mutant) -> tuple[Result | None, int]:
    """Return the first result with a problem, if any, and how many seeds were run."""
    count = 0
    world = mutant.world
    chosen = [seed for seed in range(seeds * (1 if world is None else 5)) if world in (None, world_of(seed))]
    if mutant.large:
        chosen = [seed for seed in range(seeds * 5) if has_large(seed)]
    for result in run_many(chosen, workers=workers):
        count += 1
        if result.problems:
            return result, count
    return None, count


if __name__ == "__main__":
    sys.exit(main())
