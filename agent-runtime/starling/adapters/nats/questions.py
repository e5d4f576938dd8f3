"""Questions to other processes: their answers come many in one message where they come together."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from starling.adapters.nats import wire
from starling.adapters.nats.connection import Connection
from starling.adapters.nats.inbox import Inbox
from starling.adapters.nats.link import Msg
from starling.core.replies import MANY, address, spread


class Questions(Inbox[bytes | None]):
    """Questions and the first answer to each."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._many = f"{self._inbox}.{MANY}"

    def ask(self, subject: str, data: bytes, timeout: float) -> Coroutine[Any, Any, bytes | None]:
        """Return the first answer; None when nobody listens. Raises Unreachable, also after `timeout` seconds."""
        self._number += 1
        return self._ask(subject, data, address(self._inbox, self._number), timeout)

    def _heard(self, message: Msg) -> None:
        if message.subject != self._many:
            nobody = wire.status(message) == wire.NO_RESPONDERS
            self._answered(message.subject, None if nobody else message.data)
            return
        for token, data in spread(message.data):
            self._answered(f"{self._inbox}.{token}", data)
