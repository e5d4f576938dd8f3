"""What counted effects say: lost, doubled, out of order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Effects(NamedTuple):
    """Messages whose effect is missing, came twice, or came at another place than its number says."""

    lost: int
    doubled: int
    out_of_order: int


def effects(sent: int, handled: int, not_above_last: int, left_out: int) -> Effects:
    """Judge the messages of one sender to one agent, numbered from 1.

    not_above_last: messages whose number was not above the highest before it; left_out: numbers that were passed over.
    A message that came twice is one of the first kind, one that is missing one of the second; what is left is disorder.
    """
    lost, doubled = max(0, sent - handled), max(0, handled - sent)
    return Effects(lost, doubled, max(not_above_last - doubled, left_out - lost, 0))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Effects against what was accepted, over both hops. unsure: sent, but nobody said that it was stored."""

    accepted: int
    lost: int
    doubled: int
    out_of_order: int
    unsure: int = 0
    reason: str = ""

    @property
    def ok(self) -> bool:
        return not (self.lost or self.doubled or self.out_of_order or self.unsure or self.reason)
