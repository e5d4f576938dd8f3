"""Calls between pods: answers with both ids and only after the commit, errors with class and text, no hanging."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starling import AgentId
from starling.core.ids import ShardId
from starling.core.record import Kind, Record
from starling.core.reply import Reply
from starling.errors import CallCycle, CallTimeout, CantHandle, HandlerFailed, UnknownAgentType
from starling.ports.store import Signal

from tests.integration.probes import Break, CallOn, Nap, Numbered, Tell, Unhandled

if TYPE_CHECKING:
    from tests.integration.conftest import Cluster, Pool

CALLER = {"caller": "tests.integration.probes:Caller"}
RECORDER = {"recorder": "tests.integration.probes:Recorder"}


@pytest.fixture
async def pools(cluster: Cluster) -> tuple[Pool, Pool]:
    """Callers in one pod, recorders in another."""
    callers = await cluster.pool("callers", agents=CALLER, shards=2)
    recorders = await cluster.pool("recorders", agents=RECORDER)
    for pool in (callers, recorders):
        await pool.map(f"{pool.name}-0")
        pool.start(f"{pool.name}-0")
    await callers.owns("callers-0", 0, 1)
    await recorders.owns("recorders-0", 0)
    return callers, recorders


@pytest.mark.row("RT-17")
async def test_a_reply_carries_both_ids_and_is_heard_only_after_the_commit(
    cluster: Cluster, pools: tuple[Pool, Pool]
) -> None:
    _, recorders = pools
    recorder = AgentId("recorder", "k")
    heard: list[tuple[Reply, Record]] = []
    first = asyncio.Event()
    checks: set[asyncio.Task[None]] = set()

    async def compare(signal: Signal) -> None:
        """Look into the journal at the moment at which the reply is heard."""
        names = recorders.names
        reply = Reply.unpack(signal.data)
        records = [
            Record.decode(message.data)
            for message in await cluster.store.page(names.journal(ShardId(0)), names.journal_subject(ShardId(0)), 1)
        ]
        heard.extend((reply, record) for record in records if reply.pack() in [made.body for made in record.replies])
        first.set()

    def note(signal: Signal) -> None:
        task = asyncio.get_running_loop().create_task(compare(signal))
        checks.add(task)

    await cluster.store.listen(f"st.{cluster.mesh}.r.>", note)
    async with cluster.client() as mesh:
        await mesh.send(recorder, Numbered("me", 1))
        state = await mesh.call(recorder, Tell())
        assert state.count == 1
    async with asyncio.timeout(30):
        await first.wait()
    ((reply, record),) = heard
    assert record.kind is Kind.COMMIT
    assert reply.by == "recorder/k"
    (request,) = [one for one in await recorders.mailbox() if one["t"] == "Tell"]
    assert reply.call == request["i"]


async def test_an_agent_calls_an_agent_of_another_shard_and_gets_its_answer(
    cluster: Cluster, pools: tuple[Pool, Pool]
) -> None:
    callers, _ = pools
    a, b = (AgentId("caller", callers.key("caller", shard)) for shard in (0, 1))
    async with cluster.client() as mesh:
        assert await mesh.call(a, CallOn([str(b)])) == f"{a} {b}"


@pytest.mark.row("RT-4", part="a call cycle is refused with its path")
async def test_a_call_cycle_over_two_shards_is_refused_with_its_path(
    cluster: Cluster, pools: tuple[Pool, Pool]
) -> None:
    callers, _ = pools
    a, b = (AgentId("caller", callers.key("caller", shard)) for shard in (0, 1))
    async with cluster.client() as mesh:
        with pytest.raises(CallCycle) as raised:
            await mesh.call(a, CallOn([str(b), str(a)]))
        assert str(raised.value) == f"{a} -> {b} -> {a}"
        with pytest.raises(CallCycle, match=f"^{a} -> {a}$"):
            await mesh.call(a, CallOn([str(a)]))


@pytest.mark.row("RT-19")
async def test_an_unknown_agent_type_is_a_look_up_error_within_a_second(
    cluster: Cluster, pools: tuple[Pool, Pool]
) -> None:
    callers, _ = pools
    nobody = AgentId("nobody_runs_this", "k")
    async with cluster.client() as mesh:
        for asked in (mesh.call(nobody, Tell()), mesh.send(nobody, Tell())):
            with pytest.raises(UnknownAgentType, match="'nobody_runs_this'") as raised:
                async with asyncio.timeout(1):
                    await asked
            assert isinstance(raised.value, LookupError)
        with pytest.raises(UnknownAgentType, match="'nobody_runs_this'"):  # the same out of a turn of another pod
            async with asyncio.timeout(5):
                await mesh.call(AgentId("caller", callers.key("caller", 0)), CallOn([str(nobody)]))


@pytest.mark.row("RT-20", part="a request")
async def test_a_message_that_no_handler_takes_is_refused_by_the_other_pod(
    cluster: Cluster, pools: tuple[Pool, Pool]
) -> None:
    async with cluster.client() as mesh:
        with pytest.raises(CantHandle, match=r"recorder.*Unhandled"):
            await mesh.call(AgentId("recorder", "k"), Unhandled(), timeout=30)


@pytest.mark.row("RT-21", part="names class and text", completes=True)
async def test_an_error_of_a_handler_in_another_pod_arrives_with_class_name_and_text(
    cluster: Cluster, pools: tuple[Pool, Pool]
) -> None:
    async with cluster.client() as mesh:
        with pytest.raises(HandlerFailed) as raised:
            await mesh.call(AgentId("caller", "k"), Break("x"))
        assert (raised.value.kind, raised.value.text) == ("ValueError", "x")
    log = await asyncio.to_thread(next(pod for pod in cluster.pods if pod.name == "callers-0").log.read_text)
    assert "Traceback" in log
    assert "ValueError: x" in log


@pytest.mark.row("RT-18", part="a typed error at the deadline, never a hang", completes=True)
async def test_a_call_that_nobody_answers_ends_at_its_deadline(cluster: Cluster, pools: tuple[Pool, Pool]) -> None:
    async with cluster.client() as mesh:
        with pytest.raises(CallTimeout, match=r"did not answer Nap within 0\.3 s|the deadline of Nap passed"):
            await mesh.call(AgentId("caller", "k"), Nap(20.0), timeout=0.3)
        assert await mesh.call(AgentId("caller", "k"), CallOn([])) == "caller/k"


@pytest.mark.row("RT-18", part="the callee is killed")
async def test_a_call_outlives_the_pod_that_was_answering_it(
    cluster: Cluster, pools: tuple[Pool, Pool], tmp_path: Path
) -> None:
    callers, _ = pools
    note = tmp_path / "note"
    async with cluster.client() as mesh:
        calling = asyncio.ensure_future(mesh.call(AgentId("caller", "k"), Nap(0.5, str(note)), timeout=30))

        async def started() -> bool:
            return await asyncio.to_thread(note.exists)

        await cluster.until(started)
        pod = next(pod for pod in cluster.pods if pod.name == "callers-0")
        pod.kill()
        await pod.ended()
        callers.start("callers-0")
        assert await calling == "awake"
