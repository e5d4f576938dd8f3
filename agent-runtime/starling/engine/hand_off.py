"""When a shard that is to be handed over may stop: its agents are not to stand still for one that is in a long turn."""

from __future__ import annotations

import asyncio
from typing import Final

from starling.core import limits
from starling.engine.turns import Turns

FIRST_HOLD: Final = 0.025
"""Seconds for which no turn starts, to let those that run end; twice as long at each further try."""


async def hold_when_short(turns: Turns, until: float) -> bool:
    """Wait for a moment at which the running turns end soon, and return with none running and none started.

    Nothing is known of how long a turn will take, but what has run for a while goes on for a while: as long as a turn
    is older than the hold, all go on, and when a hold was in vain they do so too, until those that made it so have
    ended. So what a hand-off costs other agents is about the length of the turns that are usual here.
    until: the loop's time. Returns False when it has passed; then turns go on.
    """
    loop = asyncio.get_running_loop()
    hold = FIRST_HOLD
    while loop.time() < until:
        long = turns.running_since(loop.time() - hold)
        if not long:
            turns.hold()
            if await turns.wait_idle(hold):
                return True
            turns.go_on()
            long = turns.running_since(loop.time())
        hold = min(hold * 2, limits.TURN_END_GRACE)
        if long:
            await asyncio.wait(long, timeout=max(0.0, until - loop.time()))
    return False
