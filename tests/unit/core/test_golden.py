"""The stored and wire forms of version 1, byte for byte: what is in a journal today must be readable for ever.

A test that fails here means that data of users would not load. Do not change the bytes; add a version.
"""

from __future__ import annotations

import pytest
from starling.core.due import Due, DueBody, DueKind
from starling.core.envelope import Envelope, open_frame
from starling.core.ids import AgentId, PoolName, ShardId, TopicId
from starling.core.names import Inlet, Lane, Origin
from starling.core.overlay import TableValue
from starling.core.record import (
    DEAD,
    Cell,
    CellRef,
    Done,
    Frame,
    FrameRef,
    Kind,
    Record,
    ReplyRecord,
    Source,
    Target,
    born,
)
from starling.core.reply import Reply

OUTSIDE, FRAMES = Inlet(Origin.OUTSIDE, Lane.NORMAL), Inlet(Origin.FRAMES, Lane.NORMAL)
TARGET = Target(PoolName("airports"), "inc12345", ShardId(3), "n")
LETTERS = Target(PoolName("airports"), "inc12345", ShardId(0), DEAD)
SOURCE = Source("inc12345.7", Lane.NORMAL)
OWNER = "airports-0/0011223344556677"

RECORDS = {
    Kind.BORN: born("inc12345"),
    Kind.TAKE: Record(kind=Kind.TAKE, previous=1, epoch=1, owner=OWNER, map_rev=3, barren=1),
    Kind.COMMIT: Record(
        kind=Kind.COMMIT,
        previous=2,
        epoch=1,
        owner=OWNER,
        map_rev=3,
        floors={OUTSIDE: 4, FRAMES: 300},
        done={FRAMES: Done(((302, 305), (400, 400)), {301: (0, 2)})},
        seen={SOURCE: 12},
        counters={TARGET: 2, LETTERS: 1},
        frames=(
            Frame(TARGET, 1, 0, b"\x90"),
            Frame(TARGET, 2, 1, b"\x90"),
            Frame(LETTERS, 1, 0, b"letter", "m-a/k-5"),
        ),
        confirmed={TARGET: 1},
        cells={"0.a.airport.EWR.state": Cell(1, b'{"movements":1}'), "0.a.airport.JFK.state": Cell(2, None)},
        replies=(ReplyRecord("st.dev.r.c.1", b"reply"),),
    ),
    Kind.SNAPSHOT: Record(
        kind=Kind.SNAPSHOT,
        previous=3,
        epoch=1,
        owner=OWNER,
        map_rev=3,
        incarnation="inc12345",
        floors={OUTSIDE: 4, FRAMES: 300},
        seen={SOURCE: 12},
        counters={TARGET: 2, LETTERS: 1},
        frame_refs=(FrameRef(3, 1), FrameRef(3, 2)),
        cell_refs=(CellRef(3, "0.a.airport.EWR.state"),),
    ),
    Kind.FREE: Record(
        kind=Kind.FREE, previous=4, epoch=1, map_rev=4, snapshot=4, floors={OUTSIDE: 5, FRAMES: 305}, owed=True
    ),
}

RECORD_BYTES = {
    Kind.BORN: bytes.fromhex("85a17601a2707600a16ba4626f726ea16500a2696ea8696e633132333435"),
    Kind.TAKE: bytes.fromhex(
        "87a17601a2707601a16ba474616b65a16501a16fbb616972706f7274732d302f30303131323233333434353536363737a16d03a2626101"
    ),
    Kind.COMMIT: bytes.fromhex(
        "8ea17601a2707602a16ba6636f6d6d6974a16501a16fbb616972706f7274732d302f3030313132323333343435353636"
        "3737a16d03a16682a36f2e6e04a3662e6ecd012ca16481a3662e6e929292cd012ecd013192cd0190cd019081cd012d92"
        "0002a1739193aa696e6331323334352e37a16e0ca16e9295a8616972706f727473a8696e63313233343503a16e0295a8"
        "616972706f727473a8696e63313233343500a46465616401a1789398a8616972706f727473a8696e63313233343503a1"
        "6e0100c40190a098a8616972706f727473a8696e63313233343503a16e0201c40190a098a8616972706f727473a8696e"
        "63313233343500a4646561640100c4066c6574746572a76d2d612f6b2d35a1799195a8616972706f727473a8696e6331"
        "3233343503a16e01a16382b5302e612e616972706f72742e4557522e73746174659201c40f7b226d6f76656d656e7473"
        "223a317db5302e612e616972706f72742e4a464b2e73746174659202c0a272709192ac73742e6465762e722e632e31c4"
        "057265706c79"
    ),
    Kind.SNAPSHOT: bytes.fromhex(
        "8ca17601a2707603a16ba4736e6170a16501a16fbb616972706f7274732d302f30303131323233333434353536363737"
        "a16d03a2696ea8696e633132333435a16682a36f2e6e04a3662e6ecd012ca1739193aa696e6331323334352e37a16e0c"
        "a16e9295a8616972706f727473a8696e63313233343503a16e0295a8616972706f727473a8696e63313233343500a464"
        "65616401a2787292920301920302a26372919203b5302e612e616972706f72742e4557522e7374617465"
    ),
    Kind.FREE: bytes.fromhex(
        "88a17601a2707604a16ba466726565a16501a16d04a2736e04a16682a36f2e6e05a3662e6ecd0131a26f77c3"
    ),
}

# What came with due records, in the same version: older records simply have none.
DUE_RECORDS = [
    (
        Record(
            kind=Kind.COMMIT,
            previous=5,
            epoch=2,
            owner=OWNER,
            due_added=(
                Due("0.d.airport.EWR.17-0", 1357016400000, DueKind.RETRY, "376949"),
                Due("0.t.airport.EWR.daily.u", 1357020000000, DueKind.TIMER, "376950", "daily", "u"),
            ),
            due_removed=(("0.d.airport.EWR.11-0", "376948-1"),),
            cells={"0.d.airport.EWR.17-0": Cell(0, b"body")},
        ),
        bytes.fromhex(
            "88a17601a2707605a16ba6636f6d6d6974a16502a16fbb616972706f7274732d302f3030313132323333343435353636"
            "3737a16381b4302e642e616972706f72742e4557522e31372d309200c404626f6479a264759296b4302e642e61697270"
            "6f72742e4557522e31372d30cf0000013bf47b008000a6333736393439a0a16e96b7302e742e616972706f72742e4557"
            "522e6461696c792e75cf0000013bf4b1ef0003a6333736393530a56461696c79a175a264649192b4302e642e61697270"
            "6f72742e4557522e31312d30a83337363934382d31"
        ),
    ),
    (
        Record(
            kind=Kind.SNAPSHOT,
            previous=6,
            epoch=2,
            owner=OWNER,
            incarnation="inc12345",
            due_buckets=("376949", "376950"),
        ),
        bytes.fromhex(
            "87a17601a2707606a16ba4736e6170a16502a16fbb616972706f7274732d302f30303131323233333434353536363737"
            "a2696ea8696e633132333435a2646292a6333736393439a6333736393530"
        ),
    ),
]

DUE_BODIES = {
    "95c4018002cb404e000000000000a0cb41d4389b54200000": DueBody(
        envelope=b"\x80", attempt=2, every=60.0, stored=1357016400.5
    ),
    "95c4018000cb0000000000000000a9302033202a202a202acb0000000000000000": DueBody(envelope=b"\x80", cron="0 3 * * *"),
}

ENVELOPES = [
    Envelope(
        id="2013-01-01T05:00/UA1545",
        type="Departed",
        body=b'{"late":2}',
        target=AgentId("flight", "UA1545"),
        content_type="application/json",
        sender=AgentId("airport", "EWR"),
        topic=TopicId("airport.departed", "EWR"),
        reply="st.dev.r.c.1",
        trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        created=1357016400000,
        priority=3,
        not_before=1357016401000,
        deadline=1357016430000,
        headers={"who": "me"},
        attempt=2,
        chain=("a/k", "b/k"),
        unknown={"later": 1},
    ),
    Envelope(id="i", type="T", body=b"", target=AgentId("a", "k")),
]

FRAME_BYTES = bytes.fromhex(
    "92de0011a169b7323031332d30312d30315430353a30302f554131353435a174a84465706172746564a162c40a7b226c"
    "617465223a327da16192a6666c69676874a6554131353435a26374b06170706c69636174696f6e2f6a736f6ea17392a7"
    "616972706f7274a3455752a2747092b0616972706f72742e6465706172746564a3455752a172ac73742e6465762e722e"
    "632e31a27472d93730302d30616637363531393136636434336464383434386562323131633830333139632d62376164"
    "3662373136393230333333312d3031a163cf0000013bf47b0080a17003a26e62cf0000013bf47b0468a2646ccf000001"
    "3bf47b75b0a16881a377686fa26d65a2617402a2636892a3612f6ba3622f6ba56c617465720184a169a169a174a154a1"
    "62c400a16192a161a16b"
)

TABLE_VALUES = {
    "94012902c4027b7d": TableValue(41, 2, b"{}"),
    "94012a02c0": TableValue(42, 2, None),
}

REPLIES = {
    "86a169a163a161a3612f6ba162c40131a174a3696e74a165a0a178a0": Reply("c", "a/k", b"1", "int"),
    "86a169a163a161a3612f6ba162c400a174a0a165aa56616c75654572726f72a178a178": Reply(
        "c", "a/k", error="ValueError", text="x"
    ),
}


@pytest.mark.parametrize("kind", Kind)
def test_a_record_of_each_kind_written_by_the_first_version_still_decodes(kind: Kind) -> None:
    assert Record.decode(RECORD_BYTES[kind]) == RECORDS[kind]


@pytest.mark.parametrize("kind", Kind)
def test_a_record_is_still_written_so_that_the_first_version_reads_it(kind: Kind) -> None:
    assert RECORDS[kind].encode() == RECORD_BYTES[kind]


@pytest.mark.parametrize(("record", "data"), DUE_RECORDS)
def test_a_record_with_due_records_is_written_and_read_as_ever(record: Record, data: bytes) -> None:
    assert Record.decode(data) == record
    assert record.encode() == data


@pytest.mark.parametrize(("data", "body"), DUE_BODIES.items())
def test_a_due_records_body_still_decodes(data: str, body: DueBody) -> None:
    assert DueBody.decode(bytes.fromhex(data)) == body


@pytest.mark.row("RT-11", part="an older one is accepted")
def test_a_frame_of_the_first_version_still_opens() -> None:
    assert [Envelope.from_map(value) for value in open_frame(FRAME_BYTES)] == ENVELOPES


@pytest.mark.parametrize(("data", "value"), TABLE_VALUES.items())
def test_a_table_value_of_the_first_version_still_decodes(data: str, value: TableValue) -> None:
    assert TableValue.decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(("data", "reply"), REPLIES.items())
def test_a_reply_of_the_first_version_still_decodes(data: str, reply: Reply) -> None:
    assert Reply.unpack(bytes.fromhex(data)) == reply
