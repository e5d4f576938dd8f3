"""Large objects: one object store per pool, in the layout of JetStream's object store (ADR-20).

An object is chunks on one subject and a description on another, written last: without it the object is not there.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from typing import Any, Final, NamedTuple

from starling.core import limits
from starling.core.absence import has_been_long
from starling.core.ids import PoolName
from starling.core.names import (
    MESSAGE_ID,
    MeshNames,
    described_object,
    object_chunks,
    object_description,
    object_mark,
    object_stream,
)
from starling.core.reference import Reference
from starling.core.reply import Reply
from starling.core.routes import ZSTD
from starling.engine import compression
from starling.engine.routes_view import RoutesView
from starling.errors import MeshError, ObjectLost, UnknownPool, Unreachable
from starling.ports.store import Expect, Message, Refused, Store, Stored

log = logging.getLogger(__name__)

CHUNK: Final = 128 * limits.KIB
UNDER_WAY: Final = 16
"""Chunks that wait for their answers together."""
TRIES: Final = 5
LOOKS: Final = 12
"""How often a replica that lags is asked again before an object counts as lost: for about five seconds."""
ENCODING: Final = "encoding"
"""In a description's metadata: how the content is packed."""
_ALL: Final = 1 << 62
_AT_ONCE: Final = 500


class Described(NamedTuple):
    """What is known of an object. time: when it was put, or last said to be needed; key: of the cell that it is."""

    name: str
    key: str
    time: float


class Contents(NamedTuple):
    """What is stored of an object. encoding: how it is packed, "" if it is not."""

    data: bytes
    encoding: str = ""

    def digest(self, reference: Reference) -> bytes:
        """SHA-256 of what is stored, for whoever reads it as JetStream's object store has it."""
        return hashlib.sha256(self.data).digest() if self.encoding else reference.digest

    def metadata(self) -> dict[str, str]:
        return {ENCODING: self.encoding} if self.encoding else {}


class Objects:
    """The object stores of one mesh, over one connection. routes: which of them are to be packed; None: none."""

    def __init__(self, store: Store, mesh: str, routes: RoutesView | None = None) -> None:
        self._store = store
        self._routes = routes
        self._names = MeshNames(mesh)
        self._tries = 0

    async def put(self, reference: Reference, data: bytes, *, key: str = "") -> None:
        """Store the bytes. key: of the cell that they are. Raises Unreachable when nobody can say that they are stored;
        UnknownPool."""
        bucket = self._bucket(reference.pool)
        packed = await compression.packed(data) if self._packs(reference.pool) else None
        stored = Contents(data) if packed is None else Contents(packed, ZSTD)
        for attempt in range(TRIES):
            nuid = f"{reference.name}-{self._tries}"  # never used again: a chunk that was given up may arrive late
            self._tries += 1
            sequences = await self._chunks(bucket, nuid, stored.data)
            if sequences is not None:
                await self._describe(bucket, reference, stored, nuid, sequences, key)
                return
            await self._store.purge(object_stream(bucket), object_chunks(bucket, nuid), below=_ALL)
            await asyncio.sleep(0.05 * 2**attempt)
        raise _not_stored(reference)

    async def _chunks(self, bucket: str, nuid: str, data: bytes) -> list[int] | None:
        """Return the positions of the chunks; None when they are not all there in order."""
        subject = object_chunks(bucket, nuid)
        sequences: list[int] = []
        for start in range(0, len(data), CHUNK * UNDER_WAY):
            part = [data[at : at + CHUNK] for at in range(start, min(start + CHUNK * UNDER_WAY, len(data)), CHUNK)]
            for answering in [await self._store.publish(subject, chunk) for chunk in part]:
                answer = await answering
                if isinstance(answer, Refused) and answer.why == "no-stream":
                    raise UnknownPool(f"there is no object store {bucket}; is the pool applied?")
                if not isinstance(answer, Stored):
                    return None
                sequences.append(answer.sequence)
        return sequences if sequences == sorted(sequences) else None

    def _packs(self, pool: PoolName) -> bool:
        route = None if self._routes is None else self._routes.current.pools.get(pool)
        return route is not None and route.large_compression == ZSTD

    async def _describe(
        self, bucket: str, reference: Reference, stored: Contents, nuid: str, sequences: list[int], key: str
    ) -> None:
        """Store the description, once: one that was given up may arrive late, so its chunks stay."""
        description = {
            "name": reference.name,
            "bucket": bucket,
            "nuid": nuid,
            "size": len(stored.data),
            "chunks": len(sequences),
            "digest": "SHA-256=" + base64.urlsafe_b64encode(stored.digest(reference)).decode(),
            "metadata": {"first": str(sequences[0]), "key": key, **stored.metadata()},
        }
        headers = {MESSAGE_ID: nuid}
        data, subject = json.dumps(description).encode(), object_description(bucket, reference.name)
        for attempt in range(TRIES):
            answer = await (await self._store.publish(subject, data, headers, expect=Expect(0, subject)))
            if isinstance(answer, Stored):
                return
            if isinstance(answer, Refused) and answer.why == "conflict":  # an earlier one of ours is as good
                found = await self._store.last(object_stream(bucket), subject)
                if found is not None and _parsed(found)["nuid"] != nuid:
                    await self._store.purge(object_stream(bucket), object_chunks(bucket, nuid), below=_ALL)
                return
            await asyncio.sleep(0.05 * 2**attempt)
        raise _not_stored(reference)

    async def get(self, reference: Reference) -> bytes:
        """Return the bytes. Raises ObjectLost when they are missing or not those that were put, ObjectUnreadable when
        this process lacks what unpacks them; Unreachable."""
        bucket = self._bucket(reference.pool)
        try:
            description = await self._description(bucket, reference.name)
            data = b"" if description is None else await self._plain(reference, description)
        except UnknownPool as error:
            raise ObjectLost(f"object {reference.name} is lost with its store {bucket}") from error
        if description is None:
            raise ObjectLost(f"object {reference.name} of {bucket} is missing")
        if not reference.fits(data):
            raise ObjectLost(f"object {reference.name} of {bucket} is damaged: {len(data)} bytes that are not its own")
        return data

    async def _description(self, bucket: str, name: str) -> Message | None:
        for look in range(LOOKS):
            found = await self._store.last(object_stream(bucket), object_description(bucket, name))
            if found is not None:
                return found
            await asyncio.sleep(min(0.02 * 2**look, 1.0))
        return None

    async def _content(self, bucket: str, description: Message) -> bytes:
        value = _parsed(description)
        subject, first = object_chunks(bucket, value["nuid"]), int(value["metadata"]["first"])
        chunks: list[bytes] = []
        empty = 0
        while len(chunks) < value["chunks"] and empty < LOOKS:
            page = await self._store.page(object_stream(bucket), subject, first)
            if not page:
                await asyncio.sleep(min(0.02 * 2**empty, 1.0))
                empty += 1
                continue
            chunks += [message.data for message in page]
            first = page[-1].sequence + 1
        return b"".join(chunks)

    async def _plain(self, reference: Reference, description: Message) -> bytes:
        """Return the content, unpacked if it was packed."""
        data = await self._content(self._bucket(reference.pool), description)
        encoding = _parsed(description)["metadata"].get(ENCODING, "")
        return await compression.unpacked(data, encoding, reference) if encoding else data

    async def answer(self, reply: Reply) -> Reply:
        """Return the reply with its body, and remove the object if this is its only reader. Raises ObjectLost."""
        if reply.large is None:
            return reply
        body = await self.get(reply.large)
        if reply.large.share:
            try:
                await self.delete(reply.large.pool, reply.large.name)
            except MeshError as error:  # the answer is here; the sweep finds what is left
                log.debug("object of an answer not removed", extra={"error": str(error)})
        return reply._replace(body=body, large=None)

    async def done(self, reference: Reference, who: str) -> None:
        """One of those that share an object is done with it: the last one removes it. Saying so again is no harm."""
        if reference.share <= 1:
            await self.delete(reference.pool, reference.name)
            return
        bucket = self._bucket(reference.pool)
        stream, marks = object_stream(bucket), object_mark(bucket, reference.name, "*")
        await (await self._store.publish(object_mark(bucket, reference.name, who), b""))
        found: set[str] = set()
        first = 1
        while page := await self._store.page(stream, marks, first):
            found.update(message.subject for message in page)
            first = page[-1].sequence + 1
        if len(found) >= reference.share:
            await self.delete(reference.pool, reference.name)

    async def is_gone(self, pool: PoolName, since: float) -> bool:
        """Whether a pool that has had no object store since then (by the loop's clock) has none for good, as far as
        anybody can say: for too long on one unbroken connection, and the server says so too."""
        if not has_been_long(since, self._store.connected_since, asyncio.get_running_loop().time()):
            return False
        try:
            return await self._store.stream_info(object_stream(self._bucket(pool))) is None
        except Unreachable:
            return False

    async def delete(self, pool: PoolName, name: str) -> None:
        """Remove an object; nothing happens when it is not there. Raises Unreachable, UnknownPool."""
        bucket = self._bucket(pool)
        found = await self._store.last(object_stream(bucket), object_description(bucket, name))
        if found is not None:
            await self._remove(bucket, name, found)

    async def delete_old(self, pool: PoolName, name: str, *, older_than: float) -> bool:
        """Remove an object unless it was put, or said to be needed, after `older_than` (seconds since 1970).

        A replica that lags may not know of that: the stream itself is asked. Raises as `delete`.
        """
        bucket = self._bucket(pool)
        found = await self._store.last(object_stream(bucket), object_description(bucket, name))
        if found is None or found.time >= older_than:
            return False
        answer = await (await self._store.publish(found.subject, found.data, expect=Expect(found.sequence)))
        if not isinstance(answer, Stored):
            return False
        await self._remove(bucket, name, found)
        return True

    async def _remove(self, bucket: str, name: str, description: Message) -> None:
        stream = object_stream(bucket)
        await self._store.purge(stream, object_chunks(bucket, _parsed(description)["nuid"]), below=_ALL)
        await self._store.purge(stream, object_mark(bucket, name, "*"), below=_ALL)
        await self._store.purge(stream, description.subject, below=_ALL)

    async def names(self, pool: PoolName) -> list[str]:
        """Return the names of the objects of a pool, in no order. Raises Unreachable, UnknownPool."""
        bucket = self._bucket(pool)
        info = await self._store.stream_info(object_stream(bucket))
        if info is None:
            raise UnknownPool(f"there is no object store {bucket}")
        found = (described_object(bucket, subject) for subject in info.subjects)
        return [name for name in found if name is not None]

    async def described(self, pool: PoolName) -> list[Described]:
        """Return all objects of a pool, in no order. Raises Unreachable, UnknownPool."""
        bucket = self._bucket(pool)
        names = await self.names(pool)
        found: list[Described] = []
        for start in range(0, len(names), _AT_ONCE):
            subjects = [object_description(bucket, name) for name in names[start : start + _AT_ONCE]]
            answer = await self._store.last_values(object_stream(bucket), subjects)
            for message in answer.found.values():
                value = _parsed(message)
                found.append(Described(value["name"], value["metadata"].get("key", ""), message.time))
        return found

    async def touch(self, pool: PoolName, name: str, *, older_than: float) -> None:
        """Say that an object is still needed, unless that was said after `older_than` (seconds since 1970)."""
        bucket = self._bucket(pool)
        stream, subject = object_stream(bucket), object_description(bucket, name)
        found = await self._store.last(stream, subject)
        if found is None or found.time >= older_than:
            return
        answer = await (await self._store.publish(subject, found.data, expect=Expect(found.sequence)))
        if isinstance(answer, Stored):
            await self._store.purge(stream, subject, below=answer.sequence)

    async def remove_unfinished(self, pool: PoolName, prefix: str, *, older_than: float) -> None:
        """Remove the chunks of objects that were never finished, and whose names start so."""
        bucket = self._bucket(pool)
        stream = object_stream(bucket)
        info = await self._store.stream_info(stream)
        subjects = () if info is None else tuple(info.subjects)
        finished = {described_object(bucket, subject) for subject in subjects}
        for subject in subjects:
            nuid = subject.rpartition(".")[2]
            if subject != object_chunks(bucket, nuid) or not nuid.startswith(prefix):
                continue
            if nuid.rpartition("-")[0] not in finished:
                last = await self._store.last(stream, subject)
                if last is not None and last.time < older_than:
                    await self._store.purge(stream, subject, below=_ALL)

    def _bucket(self, pool: PoolName) -> str:
        return self._names.pool(pool).objects


def _not_stored(reference: Reference) -> Unreachable:
    return Unreachable(f"object {reference.name} of {reference.size_bytes} bytes was not stored")


def _parsed(description: Message) -> dict[str, Any]:
    try:
        value = json.loads(description.data)
        if isinstance(value["nuid"], str) and isinstance(value["chunks"], int) and value["metadata"]["first"].isdigit():
            return value  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ObjectLost(f"description {description.subject} cannot be read: {error!r}") from error
    raise ObjectLost(f"description {description.subject} does not say where the chunks are")
