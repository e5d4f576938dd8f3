"""The members of a pool as one pod sees them, its own entry among them, and who is silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from starling.core import limits
from starling.core.ids import PodName, PoolName
from starling.core.membership import Member
from starling.core.names import MeshNames, bucket_key, bucket_stream, bucket_subject, member_key
from starling.core.takes import Presence
from starling.errors import DecodeError, MeshError, Unreachable
from starling.ports.store import Signal, Store, is_removal

log = logging.getLogger(__name__)


class Members:
    """Watches the members of one pool, publishes our own, and asks for signs of life.

    on_change is called whenever somebody came, went or said something new.
    """

    def __init__(self, store: Store, mesh: str, pool: PoolName, own: Member, on_change: Callable[[], None]) -> None:
        self._store = store
        self._names = MeshNames(mesh)
        self._pool = pool
        self._bucket = self._names.members
        self._on_change = on_change
        self.own = own
        self._members: dict[PodName, Member] = {}
        self._absent_since: dict[PodName, float] = {}
        self._refusals: dict[PodName, int] = {}
        self._dirty = asyncio.Event()
        self._read_once = asyncio.Event()

    # -- what is known

    def presence(self, pod: PodName) -> Presence:
        """What we know of a pod; absence counts from the later of: last seen, and our connection plus ten seconds."""
        member = self._members.get(pod)
        silent = self._refusals.get(pod, 0) >= 2
        since = self._store.connected_since
        if member is not None or since is None:
            return Presence(member, None, silent)
        known = self._absent_since.setdefault(pod, asyncio.get_running_loop().time())
        return Presence(None, max(known, since + limits.RECONNECT_GRACE), silent)

    @property
    def present(self) -> tuple[PodName, ...]:
        """Ready members that are not draining, with us."""
        pods = {pod for pod, member in self._members.items() if member.ready and not member.draining}
        if self.own.ready and not self.own.draining:
            pods.add(self.own.pod)
        return tuple(sorted(pods))

    # -- our own entry

    def describe(self, **changes: object) -> None:
        """Change our own entry; it is published soon, and every three seconds anyway."""
        changed = replace(self.own, **changes)  # type: ignore[arg-type]
        if changed != self.own:
            self.own = changed
            self._dirty.set()

    async def publish(self) -> None:
        """Renew our entry every three seconds, and soon after each change, until cancelled."""
        subject = bucket_subject(self._bucket, member_key(self._pool, self.own.pod))
        while True:
            try:
                self._dirty.clear()
                await (await self._store.publish(subject, self.own.encode()))
            except Unreachable as error:
                log.debug("member not renewed", extra={"error": str(error)})
            try:
                async with asyncio.timeout(limits.MEMBER_RENEWAL):
                    await self._dirty.wait()
                await asyncio.sleep(0.02)  # what changes together is written together
            except TimeoutError:
                continue

    async def withdraw(self) -> None:
        """Remove our entry, so that nobody waits for it to expire."""
        subject = bucket_subject(self._bucket, member_key(self._pool, self.own.pod))
        try:
            await (await self._store.publish(subject, b"", {"KV-Operation": "DEL"}))
        except MeshError as error:
            log.debug("member entry left to expire", extra={"error": str(error)})

    # -- the others

    async def watch(self) -> None:
        """Follow the members of the pool until cancelled."""
        subject = bucket_subject(self._bucket, f"{self._pool}.*")
        reader = await self._store.reader(bucket_stream(self._bucket), subject, after=None)
        loop = asyncio.get_running_loop()
        try:
            while True:
                for message in await reader.read(256, limits.MIB):
                    pod = PodName(bucket_key(self._bucket, message.subject).removeprefix(f"{self._pool}."))
                    if is_removal(message):
                        self._members.pop(pod, None)
                        self._absent_since[pod] = loop.time()
                    else:
                        self._seen(pod, message.data)
                self._on_change()
        finally:
            await reader.close()

    def _seen(self, pod: PodName, data: bytes) -> None:
        try:
            member = Member.decode(data)
        except DecodeError:
            log.exception("member entry cannot be read", extra={"pod": pod})
            return
        before = self._members.get(pod)
        self._members[pod] = member
        self._absent_since.pop(pod, None)
        if before is None or before.start != member.start:
            self._refusals.pop(pod, None)

    async def answer(self, signal: Signal) -> None:
        """Answer the liveness subject."""
        await self._store.signal(signal.reply, self.own.start.encode())

    async def ask(self, pods: Callable[[], set[PodName]]) -> None:
        """Ask the pods that matter for a sign of life twice a second, until cancelled."""
        names = self._names.pool(self._pool)
        while True:
            await asyncio.sleep(limits.LIVENESS_INTERVAL)
            for pod in sorted(pods() - {self.own.pod}):
                try:
                    answer = await self._store.ask(names.alive(pod), b"", timeout=limits.LIVENESS_INTERVAL)
                except Unreachable:
                    continue  # a network that is cut says nothing about the pod
                if answer is not None:
                    self._refusals[pod] = 0
                else:
                    self._refusals[pod] = self._refusals.get(pod, 0) + 1
                    if self._refusals[pod] == 2:
                        log.info("pod is silent", extra={"pod": pod})
                        self._on_change()
