"""The weather of one seed: which faults there are, and how often."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from starling.adapters.memory import Trip, Weather

OPERATOR = "operator"
"""The client whose messages always arrive: the simulated operator is not under test here."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely each fault is for a message, from 0 to 1; a seed has some of them, not all.

    lost: never stored, never answered; unanswered: stored, the answer is lost; late: nothing is heard, and it is stored
    up to 20 s later; overtaken: stored and answered, but behind what was sent after it; request: a read or purge
    without an answer; lag: a direct read from a follower, and `behind` how many changes at most; slow: a message
    that takes up to half a second instead of milliseconds; deaf: a core message that is lost; stalled: a consumer that
    gets nothing for up to 3 s, and then all at once.
    """

    lost: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0
    overtaken: float = 0.0
    request: float = 0.0
    lag: float = 0.0
    behind: int = 0
    slow: float = 0.0
    deaf: float = 0.0
    stalled: float = 0.0

    @classmethod
    def draw(cls, chance: random.Random) -> Faults:
        """Return the faults of a seed."""

        def some(most: float) -> float:
            return chance.choice((0.0, 0.0, most / 4, most))

        return cls(
            lost=some(0.06),
            unanswered=some(0.08),
            late=some(0.08),
            overtaken=some(0.2),
            request=some(0.05),
            lag=some(0.8),
            behind=chance.choice((1, 3, 10, 30)),
            slow=some(0.3),
            deaf=some(0.3),
            stalled=some(0.1),
        )


class Storm(Weather):
    """Faults by chance until `calm` is set. on_publish: told of each message before it leaves."""

    def __init__(self, chance: random.Random, faults: Faults, trace: Callable[[str], None] | None) -> None:
        self._chance = chance
        self._faults = faults
        self._trace = trace
        self.calm = False
        self.on_publish: Callable[[str, str], None] = lambda client, subject: None

    def _pause(self) -> float:
        chance = self._chance.random
        return chance() * (0.5 if chance() < self._faults.slow else 0.004)

    def publish(self, client: str, subject: str) -> Trip:
        self.on_publish(client, subject)
        trip = Trip(0.001, 0.001) if client == OPERATOR else self._trip()
        if self._trace is not None:
            self._trace(f"{client} publishes {subject} {_words(trip)}")
        return trip

    def _trip(self) -> Trip:
        chance, faults = self._chance.random, self._faults
        if self.calm:
            return Trip(0.001, 0.001)
        pause, drawn = self._pause(), chance()
        if drawn < faults.lost:
            return Trip(None, None)
        drawn -= faults.lost
        if drawn < faults.unanswered:
            return Trip(pause, None)
        drawn -= faults.unanswered
        if drawn < faults.late:
            return Trip(pause + chance() * 20.0, None, late=True)
        drawn -= faults.late
        if drawn < faults.overtaken:
            return Trip(pause + chance() * 1.0, self._pause(), late=True)
        return Trip(pause, self._pause())

    def request(self, client: str) -> Trip:
        if self.calm or client == OPERATOR:
            return Trip(0.001, 0.001)
        if self._chance.random() < self._faults.request:
            return Trip(None, None) if self._chance.random() < 0.5 else Trip(self._pause(), None)
        return Trip(self._pause(), self._pause())

    def signal(self, client: str, subject: str) -> float | None:
        if self.calm:
            return 0.001
        return None if self._chance.random() < self._faults.deaf else self._pause()

    def delivery(self, client: str, stream: str) -> float:
        if self.calm:
            return 0.001
        chance = self._chance.random
        return chance() * 3.0 if chance() < self._faults.stalled else self._pause()

    def replica(self, client: str, stream: str) -> tuple[int, int] | None:
        if client == OPERATOR or self._chance.random() >= self._faults.lag:
            return None
        behind = 0 if self.calm else self._chance.randint(0, self._faults.behind)
        return self._chance.randint(0, 1), behind

    def cut(self, client: str) -> float | None:
        return None if self.calm or self._chance.random() < 0.5 else self._chance.random() * 5.0


def _words(trip: Trip) -> str:
    if trip.arrives is None:
        return "- lost"
    words = f"+{trip.arrives:.3f} s"
    if trip.answers is None:
        words += ", no answer"
    return f"{words}, on its own way" if trip.late else words
