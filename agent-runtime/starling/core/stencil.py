"""Messages of one turn on the wire: what they share is packed once."""

from __future__ import annotations

from collections.abc import Mapping

from starling.core.envelope import NORMAL_PRIORITY, Envelope, pack
from starling.core.ids import AgentId, TopicId
from starling.core.reference import Reference

_BLANK = AgentId("nobody", "nobody")


class Stencil:
    """Packs envelopes that differ in id, type, body and target only: 2 us less for each than `Envelope.pack`.

    created, not_before: milliseconds since 1970.
    """

    __slots__ = ("_head", "_head_of_large")

    def __init__(
        self,
        sender: AgentId,
        *,
        topic: TopicId | None = None,
        trace: str = "",
        created: int = 0,
        priority: int = NORMAL_PRIORITY,
        not_before: int = 0,
        headers: Mapping[str, str],
    ) -> None:
        blank = Envelope(
            id="",
            type="",
            body=b"",
            target=_BLANK,
            sender=sender,
            topic=topic,
            trace=trace,
            created=created,
            priority=priority,
            not_before=not_before,
            headers=headers,
        ).pack()
        shared = blank[1 + len(_own("", "", b"", _BLANK)) :]
        self._head = b"%c%b" % (blank[0], shared)
        self._head_of_large = b"%c%b" % (blank[0] + 1, shared)

    def pack(
        self, message_id: str, type_name: str, body: bytes, target: AgentId, large: Reference | None = None
    ) -> bytes:
        """Return one envelope; large: where its body is instead."""
        if large is None:
            return self._head + _own(message_id, type_name, body, target)
        return self._head_of_large + _own(message_id, type_name, b"", target) + pack(("bb", large))[1:]


def _own(message_id: str, type_name: str, body: bytes, target: AgentId) -> bytes:
    """The entries as they stand in a map: an array of keys and values without its first byte looks the same."""
    return pack(("i", message_id, "t", type_name, "b", body, "a", (target.type, target.key)))[1:]
