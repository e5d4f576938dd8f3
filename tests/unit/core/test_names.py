"""Names on the message store: each is built and parsed in one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.core import names
from starling.core.ids import AgentId, PodName, PoolName, ShardId, TopicId
from starling.core.names import INLETS, Inlet, Lane, MeshNames, Origin

MESH = MeshNames("m")
POOL = MESH.pool(PoolName("p"))
SHARD = ShardId(7)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("built", "name"),
    [
        (MESH.maps, "st_m_maps"),
        (MESH.members, "st_m_members"),
        (MESH.routes, "st_m_routes"),
        (MESH.replies("c"), "st.m.r.c"),
        (POOL.mailbox(SHARD), "st_m_p_m_7"),
        (POOL.journal(SHARD), "st_m_p_j_7"),
        (POOL.table, "st_m_p_table"),
        (POOL.dead_letters, "st_m_p_dead"),
        (POOL.dead_subject, "st.m.p.dead"),
        (POOL.journal_subject(SHARD), "st.m.p.j.7"),
        (POOL.mailbox_subjects(SHARD), "st.m.p.m.7.>"),
        (POOL.inlet_subject(SHARD, Inlet(Origin.OUTSIDE, Lane.NORMAL)), "st.m.p.m.7.o.n"),
        (POOL.inlet_subject(SHARD, Inlet(Origin.FRAMES, Lane.URGENT)), "st.m.p.m.7.f.u"),
        (POOL.taken(SHARD), "st.m.p.taken.7"),
        (POOL.free("*"), "st.m.p.free.*"),
        (POOL.alive(PodName("p-0")), "st.m.p.alive.p-0"),
        (POOL.wake, "st.m.p.wake"),
        (POOL.queries(SHARD), "st.m.p.q.7"),
        (POOL.cancel(SHARD), "st.m.p.cancel.7"),
        (POOL.again(SHARD), "st.m.p.again.7"),
        (POOL.drain(PodName("p-0")), "st.m.p.drain.p-0"),
        (POOL.replay_subject(5), "st.m.p.dead.replay.5"),
        (POOL.replay_subjects, "st.m.p.dead.replay.*"),
        (names.agents_key(PoolName("p")), "agents.p"),
        (names.mark_key(SHARD), "7.mark"),
        (names.member_key(PoolName("p"), PodName("p-0")), "p.p-0"),
        (names.topic_subject("m", TopicId("airport.movement", "EWR")), "st.m.t.airport=2Emovement"),
        (names.bucket_stream("b"), "KV_b"),
        (names.bucket_subject("b", "k"), "$KV.b.k"),
        (names.bucket_key("b", "$KV.b.k.l"), "k.l"),
    ],
)
def test_names_are_those_that_were_agreed(built: str, name: str) -> None:
    assert built == name


@given(KEYS, KEYS)
def test_a_cell_key_reads_back(key: str, cell: str) -> None:
    agent = AgentId("air.port", key)
    made = names.cell_key(SHARD, agent, cell)
    assert made.count(".") == 4
    assert names.parse_cell_key(made) == (SHARD, agent, cell)


@pytest.mark.parametrize("key", ["7.mark", "7.a.t.k", "7.d.t.k.1-0", "7.a.t.k.c.more"])
def test_other_table_keys_are_no_state_cells(key: str) -> None:
    assert names.parse_cell_key(key) is None


def test_an_inlet_reads_back_from_its_text() -> None:
    assert [Inlet.parse(str(inlet)) for inlet in INLETS] == list(INLETS)
    assert Inlet.parse("f.u") == Inlet(Origin.FRAMES, Lane.URGENT)


@pytest.mark.parametrize("text", ["", "x.n", "o.x", "o"])
def test_a_text_that_is_no_inlet_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        Inlet.parse(text)
