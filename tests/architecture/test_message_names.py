"""Two test modules may have message classes of one name; the other one is in the folder `names`."""

from __future__ import annotations

from dataclasses import dataclass

from starling import message
from starling.messages import decode, encode


@message
@dataclass
class SameName:
    here: int = 1


def test_a_name_that_another_test_module_uses_too_is_ours_in_our_tests() -> None:
    assert encode(SameName()) == ("SameName", b'{"here":1}')
    assert decode("SameName", b'{"here":3}') == SameName(3)
