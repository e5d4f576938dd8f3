"""Frames that nobody should send: random bytes, wrong values, true frames with bytes changed, wrong headers."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgpack
from starling.core.ids import ShardId
from starling.core.names import PoolNames


def frames_of_garbage(
    names: PoolNames, shards: int, count: int, chance: random.Random
) -> Iterator[tuple[str, bytes, dict[str, str] | None]]:
    """Yield subject, body and headers: random bytes, wrong msgpack, true frames with bytes changed, wrong headers."""
    genuine = [_genuine(kind, key) for kind in ("counter", "nobody") for key in ("garbage1", "garbage2")]
    for number in range(count):
        shard = ShardId(chance.randrange(shards))
        lane = chance.choice(("o.n", "o.u", "f.n", "f.u", "o.n"))
        mailbox = names.mailbox_subjects(shard).removesuffix(">")
        subject = chance.choice(
            (f"{mailbox}{lane}",) * 8 + (names.queries(shard), names.taken(shard), names.again(shard))
        )
        kind = number % 5
        if kind == 0:
            yield subject, chance.randbytes(chance.randrange(200)), None
        elif kind == 1:
            yield subject, msgpack.packb(_value(chance, 3)), {"St-V": "1"}
        elif kind == 2:
            yield subject, _mutated(chance.choice(genuine), chance), {"St-V": "1"}
        elif kind == 3:
            headers = {"St-V": "1", "St-Src": f"garbage.{shard}", "St-No": _word(chance), "St-Prev": _word(chance)}
            yield subject, chance.choice(genuine), headers
        else:
            yield subject, chance.choice(genuine), {"St-V": _word(chance), "St-Settled": _word(chance)}


def _genuine(kind: str, key: str) -> bytes:
    body = {"i": "garbage", "t": "Add", "b": b'{"amount":0}', "a": f"{kind}/{key}", "c": 1}
    return bytes(msgpack.packb([body]))


def _mutated(frame: bytes, chance: random.Random) -> bytes:
    changed = bytearray(frame)
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(changed))
        match chance.randrange(3):
            case 0:
                changed[place] = chance.randrange(256)
            case 1:
                del changed[place:]
                changed += b"\x00"
            case _:
                changed[place:place] = chance.randbytes(3)
    return bytes(changed)


def _value(chance: random.Random, depth: int) -> object:
    match chance.randrange(6 if depth else 4):
        case 0:
            return chance.randrange(-(2**40), 2**40)
        case 1:
            return chance.randbytes(8)
        case 2:
            return None
        case 3:
            return "garbage"
        case 4:
            return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
        case _:
            keys = ("i", "t", "b", "a", "c", "h", "ch", "dl")
            return {chance.choice(keys): _value(chance, depth - 1) for _ in range(chance.randrange(4))}


def _word(chance: random.Random) -> str:
    return chance.choice(("", "-1", "0", "1", "99999999999999999999", "x", "1.5", "\u00e9", str(chance.random())))
