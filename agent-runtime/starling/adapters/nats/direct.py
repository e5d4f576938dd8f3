"""Direct gets: last values and pages, answered by any replica."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from starling.adapters.nats import wire
from starling.adapters.nats.link import Msg
from starling.adapters.nats.requests import Requests
from starling.adapters.nats.streams import Streams
from starling.core import limits
from starling.errors import SpecError, Unreachable
from starling.ports.store import LastValues, Message

MAX_SUBJECTS: Final = 1024
_PAGE_MESSAGES: Final = 1024
_PAGE_BYTES: Final = 4 * limits.MIB


class DirectGets:
    """Reads without a consumer. Raises Unreachable; UnknownPool when there is no such stream."""

    def __init__(self, requests: Requests, streams: Streams) -> None:
        self._requests = requests
        self._streams = streams

    async def last(self, stream: str, subject: str) -> Message | None:
        """See `Store.last`."""
        answer = await self._requests.one(_address(stream), json.dumps({"last_by_subj": subject}).encode())
        if wire.status(answer) is None:
            return wire.direct_message(answer)
        await self._check_end(stream, answer)
        return None

    async def last_values(self, stream: str, subjects: Sequence[str]) -> LastValues:
        """See `Store.last_values`. What 4 MiB do not hold is asked for again; `up_to` is then the smallest heard."""
        if len(subjects) > MAX_SUBJECTS:
            raise SpecError("subjects", f"{len(subjects)} in one request, at most {MAX_SUBJECTS}")
        found: dict[str, Message] = {}
        up_to: list[int | None] = []
        missing = list(subjects)
        while missing:
            ask = {"multi_last": missing, "max_bytes": _PAGE_BYTES}
            batch, left, reached = await self._batch(stream, ask)
            found.update((message.subject, message) for message in batch)
            up_to.append(reached)
            if not left:
                break
            missing = [subject for subject in missing if subject not in found]
        known = [sequence for sequence in up_to if sequence is not None]
        return LastValues(found, min(known) if known and len(known) == len(up_to) else None)

    async def page(self, stream: str, subject: str, first: int) -> Sequence[Message]:
        """See `Store.page`: at most 1,024 messages and about 4 MiB."""
        ask = {
            "seq": max(1, first),
            "next_by_subj": subject,
            "batch": _PAGE_MESSAGES,
            "max_bytes": _PAGE_BYTES,
        }
        batch, _, _ = await self._batch(stream, ask)
        return batch

    async def _batch(self, stream: str, ask: dict[str, Any]) -> tuple[list[Message], int, int | None]:
        """Return messages, how many more there are, and the sequence that the replica had reached if it says so."""
        messages, end = await self._requests.many(_address(stream), json.dumps(ask).encode())
        await self._check_end(stream, end)
        headers = end.headers or {}
        reached = headers.get("Nats-UpTo-Sequence")
        left = int(headers.get("Nats-Num-Pending", 0))
        return [wire.direct_message(one) for one in messages], left, None if reached is None else int(reached)

    async def _check_end(self, stream: str, end: Msg) -> None:
        status = wire.status(end)
        if status in (wire.END_OF_BATCH, wire.NOT_FOUND):
            return
        if status == wire.NO_RESPONDERS:
            await self._streams.check_exists(stream)
        raise Unreachable(f"stream {stream} answers {status} {(end.headers or {}).get('Description', '')}".rstrip())


def _address(stream: str) -> str:
    return f"$JS.API.DIRECT.GET.{stream}"
