"""Callers that have missed their replies: they ask, and what was sent is sent again."""

from __future__ import annotations

import asyncio

from starling.core import limits
from starling.core.sent_replies import SentReplies
from starling.engine.answers import Answers
from starling.ports.store import Signal


class Missed:
    """Answers all who ask in the same moment with one look at what was sent, and each with its own reply only.

    A thousand callers that wait for long turns ask at once: a look for each would hold up the shard, and a message of
    many replies sent to each would be a flood.
    """

    def __init__(self, sent: SentReplies, answers: Answers) -> None:
        self._sent = sent
        self._answers = answers
        self._asked: set[str] = set()
        self._any = asyncio.Event()

    def heard(self, signal: Signal) -> None:
        """Note an address that a caller asks for; what is none, or one too many, is left out."""
        if len(signal.data) <= limits.ADDRESS_BYTES and len(self._asked) < limits.ASKED_AT_ONCE:
            self._asked.add(signal.data.decode(errors="replace"))
            self._any.set()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            await self._any.wait()
            self._any.clear()
            asked, self._asked = self._asked, set()
            for reply_to, body in self._sent.find(asked):
                self._answers.put(reply_to, body)
            await asyncio.sleep(limits.ASKED_PAUSE)
