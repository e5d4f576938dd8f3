"""What a pod knows of the others: who is there, since when one is not, and who is silent."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from starling.core import limits
from starling.core.ids import PodName
from starling.core.names import MeshNames, bucket_stream, bucket_subject, member_key

if TYPE_CHECKING:
    from starling.core.takes import Presence

    from tests.unit.node.conftest import Pod, World

OTHER = PodName("p-1")


def seen(pod: Pod) -> Presence:
    return pod.worker.members.presence(OTHER)


@pytest.fixture
async def pair(world: World) -> tuple[Pod, Pod]:
    await world.pool(1)
    await world.map("p-1")
    one, two = world.start("p-0"), world.start("p-1")
    await world.until(lambda: two.owned == {0} and seen(one).member is not None)
    return one, two


async def test_a_member_is_renewed_and_stays(world: World, pair: tuple[Pod, Pod]) -> None:
    one, two = pair
    await world.pass_by(limits.MEMBER_TTL * 3)
    assert seen(one).member == two.worker.members.own
    assert one.worker.members.present == ("p-0", "p-1")


async def test_absence_counts_from_the_expiry_of_the_key(world: World, pair: tuple[Pod, Pod]) -> None:
    one, two = pair
    await two.crash()
    await world.until(lambda: seen(one).member is None, bound=limits.MEMBER_TTL + 2)
    since = seen(one).absent_since
    assert since is not None
    assert abs(since - asyncio.get_running_loop().time()) < 0.5
    await world.pass_by(5)
    assert seen(one).absent_since == since


async def test_after_a_reconnect_absence_counts_anew_and_ten_seconds_later(world: World, pair: tuple[Pod, Pod]) -> None:
    """An outage longer than the time to live empties the bucket: nobody is absent because of that."""
    one, two = pair
    await two.crash()
    await world.until(lambda: seen(one).member is None)
    one.store.cut()
    await world.pass_by(60)
    assert seen(one).absent_since is None
    one.store.mend()
    mended = one.store.connected_since
    assert mended is not None
    assert seen(one).absent_since == mended + limits.RECONNECT_GRACE


async def test_a_process_that_is_gone_is_silent_after_two_questions(world: World, pair: tuple[Pod, Pod]) -> None:
    one, two = pair
    await world.map("p-0")  # so that somebody asks
    await two.crash()
    took = await world.until(lambda: seen(one).silent)
    assert 2 * limits.LIVENESS_INTERVAL - 0.1 <= took <= 3 * limits.LIVENESS_INTERVAL + 0.5


async def test_a_new_process_of_the_pod_is_not_silent(world: World, pair: tuple[Pod, Pod]) -> None:
    one, two = pair
    await world.map("p-9")  # a pod that is not there: everybody asks for signs of life of the owner
    await two.crash()
    await world.until(lambda: seen(one).silent)
    again = world.start("p-1", "s2")
    await world.until(lambda: seen(one).member == again.worker.members.own and not seen(one).silent)


async def test_a_pod_that_leaves_in_good_order_takes_its_entry_with_it(world: World, pair: tuple[Pod, Pod]) -> None:
    one, two = pair
    two.worker.stop(at_once=True)
    await world.until(two.task.done)
    assert await world.until(lambda: seen(one).member is None) < 1


async def test_an_entry_that_cannot_be_read_is_logged_and_the_last_good_one_stays(
    world: World, pair: tuple[Pod, Pod], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = pair
    bucket = MeshNames("m").members
    with caplog.at_level(logging.ERROR):
        await (await world.store.publish(bucket_subject(bucket, member_key(world.names.pool, OTHER)), b"{"))
        await world.until(lambda: any("cannot be read" in record.message for record in caplog.records), bound=2)
    assert seen(one).member == two.worker.members.own
    assert await world.store.stream_info(bucket_stream(bucket)) is not None


async def test_nobody_counts_as_present_that_drains_or_is_not_ready(world: World, pair: tuple[Pod, Pod]) -> None:
    one, two = pair
    two.worker.members.describe(draining=True)
    await world.until(lambda: one.worker.members.present == ("p-0",), bound=2)
    two.worker.members.describe(draining=False, ready=False)
    await world.pass_by(1)
    assert one.worker.members.present == ("p-0",)
