"""Pods and their shards: by map, in place, adopted, moved and left, with nobody in control but the map."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from starling.core import limits
from starling.core.ids import PodName, ShardId
from starling.core.membership import ShardMap
from starling.core.names import MeshNames, bucket_subject
from starling.core.record import Kind, born
from starling.core.takes import Right, TakeView, right_to_take
from starling.engine import shard
from starling.engine.journal import Journal
from starling.engine.reading import Reading
from starling.engine.shard import OwnedShard
from starling.errors import Fenced, MeshError, Unreachable
from starling.node import ownership
from starling.ports.store import StreamSpec

if TYPE_CHECKING:
    from tests.unit.node.conftest import Pod, World


async def first_of_two(world: World) -> tuple[Pod, Pod]:
    """Start two pods, the first of which runs the only shard."""
    await world.pool(1)
    await world.map("p-0")
    one, two = world.start("p-0"), world.start("p-1")
    await world.until(lambda: one.owned == {0})
    return one, two


async def test_each_pod_takes_what_the_map_names_it_for_and_says_so(world: World) -> None:
    await world.pool(4)
    await world.map("p-0", "p-1", "p-0", "p-1")
    rights: list[tuple[int, Right]] = []
    one, two = world.start("p-0"), world.start("p-1")
    one.worker.ownership.on_take = lambda shard, right: rights.append((shard, right))
    await world.until(lambda: one.owned == {0, 2} and two.owned == {1, 3})
    assert rights == [(0, Right.FREE), (2, Right.FREE)]
    assert one.worker.not_ready == ""
    await world.pass_by(1)
    assert dict(one.worker.members.own.shards) == {0: 1, 2: 1}
    assert one.worker.members.own.map_rev == 1
    assert one.worker.members.present == ("p-0", "p-1")


async def test_a_move_is_a_release_and_a_take_at_once(world: World) -> None:
    one, two = await first_of_two(world)
    await world.map("p-1")
    took = await world.until(lambda: two.owned == {0})
    assert one.owned == set()
    assert took < 2.0, "it heard of the release and did not wait for anybody to be overdue"
    record = await world.last()
    assert (record.owner.split("/")[0], record.epoch, record.map_rev) == ("p-1", 2, 2)


async def test_an_owner_goes_on_until_the_next_one_has_read_the_journal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await first_of_two(world)
    may_read = asyncio.Event()
    ahead = Reading.ahead

    async def slow(self: Reading) -> None:
        await may_read.wait()
        await ahead(self)

    monkeypatch.setattr(Reading, "ahead", slow)
    await world.map("p-1")
    await world.pass_by(1.0)
    assert one.owned == {0}
    may_read.set()
    took = await world.until(lambda: two.owned == {0})
    assert took < 0.5


@pytest.mark.parametrize("problem", [None, Unreachable("away")], ids=["reads for ever", "cannot read"])
async def test_an_owner_does_not_wait_for_ever_for_the_next_one_to_read_the_journal(
    world: World, monkeypatch: pytest.MonkeyPatch, problem: MeshError | None
) -> None:
    one, two = await first_of_two(world)

    async def never(self: Reading) -> None:
        if problem is not None:
            raise problem
        await asyncio.Event().wait()

    monkeypatch.setattr(Reading, "ahead", never)
    await world.map("p-1")
    left = await world.until(lambda: one.owned == set())
    assert limits.PREPARE_WAIT - 0.1 <= left < limits.PREPARE_WAIT + 1.0
    took = await world.until(lambda: two.owned == {0})
    assert took < 2.0, "what it could not read ahead it reads now"


async def test_an_owner_waits_while_the_next_one_reads_one_journal_after_the_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.pool(4)
    await world.map("p-0", "p-0", "p-0", "p-0")
    one, two = world.start("p-0"), world.start("p-1")
    await world.until(lambda: len(one.owned) == 4)
    ahead, under_way = Reading.ahead, 0

    async def slow(self: Reading) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        end = asyncio.get_running_loop().time() + 0.75 * limits.PREPARE_WAIT
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0)
        under_way -= 1
        await ahead(self)

    monkeypatch.setattr(Reading, "ahead", slow)
    await world.map("p-1", "p-1", "p-1", "p-1")
    for number in range(1, 5):
        took = await world.until(lambda: len(two.owned) == number)  # noqa: B023 - called before the next one
        assert 0.75 * limits.PREPARE_WAIT - 0.1 <= took < limits.PREPARE_WAIT
    assert one.owned == set()


async def test_an_owner_does_not_wait_for_a_pod_that_is_not_there(world: World) -> None:
    await world.pool(1)
    await world.map("p-0")
    one = world.start("p-0")
    await world.until(lambda: one.owned == {0})
    await world.map("p-1")
    left = await world.until(lambda: one.owned == set())
    assert left < 0.5


async def test_the_next_owner_reads_on_while_the_present_one_cannot_let_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await first_of_two(world)
    idle = asyncio.Event()
    monkeypatch.setattr(shard, "hold_when_short", lambda turns, until: idle.wait())
    reads: list[float] = []
    ahead = Reading.ahead

    async def counted(self: Reading) -> None:
        reads.append(asyncio.get_running_loop().time())
        await ahead(self)

    monkeypatch.setattr(Reading, "ahead", counted)
    await world.map("p-1")
    await world.pass_by(3.0)
    assert one.owned == {0}
    assert len(reads) >= 4
    assert max(later - earlier for earlier, later in pairwise(reads)) < 1.0
    idle.set()
    took = await world.until(lambda: two.owned == {0})
    assert took < 0.5


async def test_a_restarted_pod_takes_in_place_without_waiting(world: World) -> None:
    await world.pool(2)
    await world.map("p-0", "p-0")
    pod = world.start("p-0")
    await world.until(lambda: pod.owned == {0, 1})
    await pod.crash()
    again = world.start("p-0", "s2")
    took = await world.until(lambda: again.owned == {0, 1})
    assert took < 2.0
    assert (await world.last()).owner == "p-0/s2"


async def test_orphans_are_adopted_by_one_pod_after_their_time(world: World) -> None:
    await world.pool(1)
    await world.map("p-0")
    pods = {name: world.start(name) for name in ("p-0", "p-1", "p-2")}
    await world.until(lambda: pods["p-0"].owned == {0})
    await pods["p-0"].crash()
    waited = await world.until(lambda: pods["p-1"].owned | pods["p-2"].owned == {0})
    assert waited >= limits.ORPHAN_AFTER
    assert waited < limits.MEMBER_TTL + limits.ORPHAN_AFTER + 10
    assert not pods["p-1"].owned & pods["p-2"].owned
    await world.pass_by(10)
    assert (await world.last()).epoch == 2, "nobody took it again"


async def test_a_shard_that_was_adopted_is_adopted_again_when_its_new_owner_goes_too(world: World) -> None:
    """The map still names the first pod, which is back: the rule by which it adopts must not wait for an heir."""
    await world.pool(1)
    await world.map("p-0")
    pods = {name: world.start(name) for name in ("p-0", "p-1", "p-2")}
    await world.until(lambda: pods["p-0"].owned == {0})
    await pods["p-0"].crash()
    await world.until(lambda: pods["p-1"].owned | pods["p-2"].owned == {0})
    back = world.start("p-0", "s2")
    await world.pass_by(5)
    assert back.owned == set(), "the map that names it was acted on already"
    heir = next(name for name in ("p-1", "p-2") if pods[name].owned)
    await pods[heir].crash()
    await world.until(lambda: back.owned == {0})


async def test_a_pod_that_adopted_and_is_started_again_takes_in_place_although_the_map_names_another(
    world: World,
) -> None:
    await world.pool(1)
    await world.map("p-0")
    pods = {name: world.start(name) for name in ("p-0", "p-1")}
    await world.until(lambda: pods["p-0"].owned == {0})
    await pods["p-0"].crash()
    await world.until(lambda: pods["p-1"].owned == {0})
    world.start("p-0", "s2")
    await world.pass_by(5)
    await pods["p-1"].crash()
    again = world.start("p-1", "s2")
    took = await world.until(lambda: again.owned == {0})
    assert took < 2.0


async def test_a_map_that_changes_between_the_look_and_the_take_is_followed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.pool(1)
    await world.map("p-0")
    one, two = world.start("p-0"), world.start("p-1")
    newer = ShardMap(2, {ShardId(0): PodName("p-1")})

    def look(view: TakeView, now: float) -> Right | None:
        right = right_to_take(view, now)
        if right is Right.FREE and view.pod == "p-0":
            one.worker.ownership._new_map(newer.encode())
        return right

    monkeypatch.setattr(ownership, "right_to_take", look)
    await world.until(lambda: one.worker.ownership.map.rev == 2)
    await world.map("p-1")
    await world.until(lambda: two.owned == {0} and not one.owned)


async def test_a_pod_without_an_answer_from_the_store_adopts_nothing(world: World) -> None:
    one, two = await first_of_two(world)
    two.store.cut()
    await world.pass_by(60)
    assert two.worker.not_ready == "no connection to NATS"
    two.store.mend()
    await world.pass_by(60)
    assert (one.owned, two.owned) == ({0}, set())
    assert (await world.last()).epoch == 1


async def test_an_owner_that_was_cut_off_and_replaced_stops_when_it_can_hear_again(world: World) -> None:
    one, two = await first_of_two(world)
    one.store.cut()
    await world.map("p-1")
    await world.until(lambda: two.owned == {0})
    one.store.mend()
    await world.until(lambda: one.owned == set())
    await world.pass_by(30)
    assert (one.owned, two.owned) == (set(), {0})
    assert (await world.last()).epoch == 2


async def test_an_owner_that_hears_of_its_successor_and_is_refused_a_record_as_well_is_fenced_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.pool(1)
    await world.map("p-0")
    run = OwnedShard.run

    async def refused_at_its_end(shard: OwnedShard) -> None:
        try:
            await run(shard)
        except asyncio.CancelledError:
            raise ExceptionGroup("shard", [Fenced("somebody else appended")]) from None

    monkeypatch.setattr(OwnedShard, "run", refused_at_its_end)
    one = world.start("p-0")
    await world.until(lambda: one.owned == {0})
    one.worker.ownership._replaced(one.worker.ownership._slots[ShardId(0)])
    await world.until(lambda: one.owned == set())
    assert one.worker.ownership.fenced == 1


async def test_a_fenced_pod_waits_longer_each_time_before_it_asks_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.pool(1)
    taken: list[float] = []

    async def refused(*args: object, **kwargs: object) -> OwnedShard:
        taken.append(asyncio.get_running_loop().time())
        raise Fenced("somebody else was faster")

    monkeypatch.setattr(OwnedShard, "take", refused)
    await world.map("p-0")
    world.start("p-0")
    await world.until(lambda: len(taken) >= 8, bound=400)
    pauses = [after - before for before, after in pairwise(taken)]
    for pause, least in zip(pauses, (1, 2, 4, 8, 16, 32, 60), strict=True):
        assert least <= pause < least + 1.5


async def test_a_late_record_of_the_process_before_us_does_not_keep_us_from_taking(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.pool(1)
    await world.map("p-0")
    first = world.start("p-0")
    await world.until(lambda: first.owned == {0})
    await first.crash()
    take, refusals = OwnedShard.take, 2

    async def refused(*args: Any, **kwargs: Any) -> OwnedShard:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise Fenced("a record of the process before us came late")
        return await take(*args, **kwargs)

    monkeypatch.setattr(OwnedShard, "take", refused)
    second = world.start("p-0", "s2")
    await world.until(lambda: second.owned == {0}, bound=20)
    assert (await world.last()).owner == "p-0/s2"


async def test_a_shard_that_ends_in_a_mistake_of_ours_is_logged_and_tried_again_while_others_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await world.pool(2)
    await world.map("p-0", "p-0")
    runs = 0
    run = OwnedShard.run

    async def broken(self: OwnedShard) -> None:
        nonlocal runs
        if self.shard == 1:
            runs += 1
            if runs <= 3:
                raise ZeroDivisionError("a mistake")
        await run(self)

    monkeypatch.setattr(OwnedShard, "run", broken)
    with caplog.at_level(logging.ERROR):
        pod = world.start("p-0")
        took = await world.until(lambda: pod.owned == {0, 1})
    assert runs == 4
    assert took >= 3 * limits.FENCED_PAUSE_FIRST
    assert [record.exc_info is not None for record in caplog.records if record.message == "shard dropped"] == [True] * 3


async def test_a_shard_whose_journal_is_gone_makes_the_pod_not_ready_and_stops_only_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.pool(2)
    await world.map("p-0", "p-0")
    await world.store.delete_stream(world.names.journal(ShardId(0)))
    pod = world.start("p-0")
    await world.until(lambda: pod.owned == {1} and bool(pod.worker.ownership.lost))
    await world.pass_by(30)
    assert list(pod.worker.ownership.lost) == [0]
    assert "shard 0: JournalLost: there is no stream st_m_p_j_0" in pod.worker.not_ready
    assert pod.owned == {1}
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


async def test_a_shard_whose_mailbox_is_gone_makes_the_pod_not_ready_until_it_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.pool(2)
    await world.map("p-0", "p-0")
    name = world.names.mailbox(ShardId(0))
    subjects = (world.names.mailbox_subjects(ShardId(0)),)
    await world.store.delete_stream(name)
    pod = world.start("p-0")
    await world.until(lambda: pod.owned == {1} and bool(pod.worker.ownership.lost))
    await world.pass_by(30)
    assert f"shard 0: MailboxLost: there is no stream {name}: restore it" in pod.worker.not_ready
    assert pod.owned == {1}
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    await world.store.ensure_stream(StreamSpec(name=name, subjects=subjects))
    await world.until(lambda: pod.owned == {0, 1})
    assert pod.worker.not_ready == ""


async def test_a_journal_that_comes_back_is_taken(world: World) -> None:
    """Pods may start before the streams of their pool are there."""
    await world.pool(2)
    await world.map("p-0", "p-0")
    name = world.names.journal(ShardId(0))
    await world.store.delete_stream(name)
    pod = world.start("p-0")
    await world.until(lambda: bool(pod.worker.ownership.lost))
    await world.store.ensure_stream(StreamSpec(name=name, subjects=(world.names.journal_subject(ShardId(0)),)))
    await world.pass_by(10)
    assert "is empty: it was made without its first record" in pod.worker.not_ready
    await (await world.store.publish(world.names.journal_subject(ShardId(0)), born(world.incarnation).encode()))
    await world.until(lambda: pod.owned == {0, 1})
    assert pod.worker.not_ready == ""


async def test_a_journal_of_another_incarnation_is_not_taken_again_and_again(world: World) -> None:
    await world.pool(1)
    world.incarnation = "another1"
    await world.map("p-0")
    pod = world.start("p-0")
    await world.until(lambda: bool(pod.worker.ownership.lost))
    await world.pass_by(120)
    assert "another1" in pod.worker.not_ready
    assert (await world.last()).epoch == 1


async def test_a_map_that_cannot_be_read_or_is_older_changes_nothing(world: World) -> None:
    await world.pool(1)
    await world.map("p-0", rev=5)
    one, two = world.start("p-0"), world.start("p-1")
    await world.until(lambda: one.owned == {0})
    subject = bucket_subject(MeshNames("m").maps, "p")
    await (await world.store.publish(subject, b"no map"))
    await world.pass_by(2)
    await (await world.store.publish(subject, b'{"rev": 4, "shards": {"0": "p-1"}}'))
    await world.pass_by(10)
    assert (one.owned, two.owned) == ({0}, set())
    assert one.worker.ownership.map.rev == 5


async def test_a_pod_that_is_to_be_emptied_takes_and_adopts_nothing(world: World) -> None:
    await world.pool(2)
    await world.map("p-0", "p-9", draining=("p-0",))
    pod = world.start("p-0")
    await world.pass_by(60)
    assert pod.owned == set()
    assert (await world.last()).kind is Kind.BORN


async def test_a_pod_that_stops_waits_for_the_map_and_then_leaves_its_shards_free(world: World) -> None:
    await world.pool(2)
    await world.map("p-0", "p-0")
    one, two = world.start("p-0"), world.start("p-1")
    await world.until(lambda: one.owned == {0, 1})
    one.worker.stop()
    await world.until(lambda: two.worker.members.presence(PodName("p-0")).member is not None)
    await world.pass_by(1)
    draining = two.worker.members.presence(PodName("p-0")).member
    assert draining is not None
    assert draining.draining
    await world.map("p-1", "p-0")  # the control plane moves one of them in time
    await world.until(lambda: two.owned == {0})
    assert one.owned == {1}
    await world.until(one.task.done)
    record = await world.last(1)
    assert (record.kind, record.owner) == (Kind.FREE, "")
    await world.until(lambda: two.worker.members.presence(PodName("p-0")).member is None, bound=5)


async def test_a_pod_that_is_told_to_end_at_once_does_not_wait_for_the_map(world: World) -> None:
    await world.pool(1)
    await world.map("p-0")
    pod = world.start("p-0")
    await world.until(lambda: pod.owned == {0})
    pod.worker.stop(at_once=True)
    assert await world.until(pod.task.done) < 2.0
    assert (await world.last()).kind is Kind.FREE


async def test_an_idle_owner_compares_the_journal_at_every_renewal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells it that it was replaced: it hears no signal, and commits nothing."""
    await world.pool(1)
    await world.map("p-0")
    pod = world.start("p-0")
    await world.until(lambda: pod.owned == {0})
    held = await world.last()
    journal = Journal(world.store, world.names, ShardId(0), 2)
    await journal.append(
        type(held)(kind=Kind.TAKE, previous=2, epoch=held.epoch + 1, owner="p-7/x", map_rev=held.map_rev, barren=1)
    )
    noticed = await world.until(lambda: pod.owned == set(), bound=30)
    assert noticed <= limits.MEMBER_RENEWAL + 0.5


async def test_a_shard_that_its_owner_dropped_goes_soon_to_the_pod_that_a_newer_map_names(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.pool(1)
    run, failing = OwnedShard.run, asyncio.Event()

    async def cut_off(self: OwnedShard) -> None:
        running = asyncio.ensure_future(run(self))
        failed = asyncio.ensure_future(failing.wait())
        try:
            await asyncio.wait({running, failed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            running.cancel()
            failed.cancel()
            await asyncio.gather(running, failed, return_exceptions=True)
        raise Unreachable("the journal's server stands still")

    monkeypatch.setattr(OwnedShard, "run", cut_off)
    await world.map("p-0")
    one, two = world.start("p-0"), world.start("p-1")
    await world.until(lambda: one.owned == {0})
    monkeypatch.setattr(OwnedShard, "run", run)
    failing.set()
    await world.until(lambda: not one.owned)
    await world.map("p-1")  # before it takes the shard again
    took = await world.until(lambda: two.owned == {0})
    assert one.owned == set()
    assert one.worker.ownership.takes == 1
    assert took < limits.MEMBER_GRACE + 1.5
    await world.pass_by(5)
    assert (await world.last()).epoch == 2, "nobody took it again"


async def test_a_message_that_says_the_shard_was_taken_is_believed_only_if_the_journal_says_so(world: World) -> None:
    await world.pool(1)
    await world.map("p-0")
    pod = world.start("p-0")
    await world.until(lambda: pod.owned == {0})
    running = pod.worker.ownership.owned[ShardId(0)]
    await world.store.signal(world.names.taken(ShardId(0)), b"999")
    await world.pass_by(2)
    assert pod.worker.ownership.owned == {ShardId(0): running}
    assert pod.worker.ownership.fenced == 0


async def test_a_store_that_is_away_at_the_take_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.pool(1)
    left = 3
    take = OwnedShard.take

    async def away(*args: object, **kwargs: object) -> OwnedShard:
        nonlocal left
        left -= 1
        if left >= 0:
            raise Unreachable("away")
        return await take(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(OwnedShard, "take", away)
    await world.map("p-0")
    pod = world.start("p-0")
    await world.until(lambda: pod.owned == {0}, bound=10)
    assert pod.worker.ownership.fenced == 0
