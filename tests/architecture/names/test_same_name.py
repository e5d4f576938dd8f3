"""The other half of `test_message_names.py`, one folder up."""

from __future__ import annotations

from dataclasses import dataclass

from starling import message
from starling.messages import decode, encode


@message
@dataclass
class SameName:
    there: str = "a"


def test_a_name_that_another_test_module_uses_too_is_ours_in_our_tests() -> None:
    assert encode(SameName()) == ("SameName", b'{"there":"a"}')
    assert decode("SameName", b'{"there":"b"}') == SameName("b")
