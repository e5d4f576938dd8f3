"""What may go wrong between a client and the store: consulted by every connection, nothing by default."""

from __future__ import annotations

from typing import NamedTuple


class Trip(NamedTuple):
    """How a message travels. Seconds.

    arrives: until it is in the store, None: never. answers: from then until the answer is heard, None: never.
    late: it goes a way of its own, so that what is sent after it may arrive before it, even after its connection
    was cut; other messages of one connection arrive in the order in which they were sent.
    """

    arrives: float | None = 0.0
    answers: float | None = 0.0
    late: bool = False


class Weather:
    """Calm: everything arrives, in order, without delay. Faults are subclasses of it.

    client: the name given to `MemoryServer.connect`. A store that is given no weather at all takes a shorter way
    and answers without a switch of tasks.
    """

    def publish(self, client: str, subject: str) -> Trip:
        """How a publish travels."""
        return Trip()

    def request(self, client: str) -> Trip:
        """How a request (reads, purges, questions about streams) travels; unanswered ones raise Unreachable."""
        return Trip()

    def signal(self, client: str, subject: str) -> float | None:
        """Seconds until a core message is heard, None: it is lost."""
        return 0.0

    def delivery(self, client: str, stream: str) -> float:
        """Seconds until a stored message reaches a reader; order is kept."""
        return 0.0

    def replica(self, client: str, stream: str) -> tuple[int, int] | None:
        """Which follower (0 or 1) answers a direct read and how many changes behind; None: the leader."""
        return None

    def cut(self, client: str) -> float | None:
        """What becomes of a message that was under way at a cut: seconds until it arrives late, None: it is lost."""
        return None
