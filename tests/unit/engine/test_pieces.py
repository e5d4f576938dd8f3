"""Parts of a large fan-out read back as what was sent, in order."""

from __future__ import annotations

import pytest
from starling.core import limits
from starling.core.ids import PoolName, ShardId
from starling.core.record import Target
from starling.engine.pieces import pieces, unpack_piece
from starling.errors import DecodeError

TARGETS = [Target(PoolName("p"), "inc", ShardId(shard), lane) for shard in range(3) for lane in "nu"]


def test_messages_come_out_of_their_parts_in_order_with_the_lanes_that_they_go_to() -> None:
    sends = [(TARGETS[n % len(TARGETS)], bytes([n]) * (limits.PIECE_BYTES // 4)) for n in range(10)]
    parts = pieces(sends)
    assert len(parts) > 1
    assert [send for part in parts for send in unpack_piece(part)] == sends


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\x01", b"\x91\x92\x01\x02"], ids=repr)
def test_what_is_no_part_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match="piece of a fan-out"):
        unpack_piece(data)
