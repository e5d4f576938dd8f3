"""One connection to NATS that is made anew until we close it.

Each is a fresh `Link`, and nothing that was not sent before a cut is sent after it: it would come seconds late.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable
from typing import Final

from starling.adapters.nats.greeting import Address, greet
from starling.adapters.nats.link import Heard, Link
from starling.core import limits
from starling.errors import SpecError, TooLarge, Unreachable

log = logging.getLogger(__name__)

RECONNECT_WAIT: Final = 0.25
CONNECT_TIMEOUT: Final = 2.0
_CLOSE_TIMEOUT: Final = 1.0
_MAX_UNSENT: Final = limits.MIB


class Subscribed:
    """Interest in a subject that outlives connections; closed once."""

    def __init__(self, connection: Connection, subject: str, heard: Heard) -> None:
        self._connection = connection
        self.subject = subject
        self.heard = heard
        self.sid = b""
        """On the present connection."""

    async def close(self) -> None:
        """Hear no more; idempotent."""
        self._connection.forget(self)


class Connection:
    """Sends and subscribes while connected; raises Unreachable at once while not.

    life: number of connections made so far; what was set up on the server for an earlier one may be gone.
    """

    def __init__(self, servers: list[str], *, name: str, credentials: str | None) -> None:
        self._servers = servers
        self._addresses = [Address(server) for server in servers]
        self._name = name
        self._credentials = credentials
        self._link: Link | None = None
        self._subscriptions: set[Subscribed] = set()
        self._watching: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._since: float | None = None
        self._problem = "never connected"
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._inboxes = 0
        self.server_version = ""
        """Version of the server we were last connected to."""
        self.life = 0
        self.changed: list[Callable[[], None]] = []
        """Called after each loss and each new connection, in the loop."""

    async def open(self, timeout: float) -> None:
        """Make the first connection. Raises Unreachable after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._connect()
        except TimeoutError as error:
            raise Unreachable(f"no NATS server at {', '.join(self._servers)}: {self._problem}") from error
        self._watching = asyncio.create_task(self._watch(), name="watch the NATS connection")

    async def close(self) -> None:
        """Close when what was sent is on its way, within a second; idempotent."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})
        for subscribed in tuple(self._subscriptions):
            self.forget(subscribed)
        self._lost()
        if self._link is not None:
            await self._link.close(_CLOSE_TIMEOUT)

    @property
    def connected_since(self) -> float | None:
        """The loop's time at which the present connection was made; None while it is away."""
        return self._since if self._link is not None and self._link.is_open else None

    @property
    def max_payload(self) -> int:
        """Bytes that one message may have, headers included, as the server says."""
        return limits.MIB if self._link is None else self._link.max_payload

    def new_inbox(self) -> str:
        """Return a subject nobody else uses; it holds for the life of this object."""
        self._inboxes += 1
        return f"{self._inbox}{self._inboxes}"

    async def send(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Hand a message to the socket. Raises Unreachable when nothing was sent, TooLarge, SpecError."""
        link = self._here()
        if link.unsent_bytes > _MAX_UNSENT:
            await self._wait_until_sent(link)
        if len(data) > link.max_payload:
            raise TooLarge(f"{len(data)} bytes, the server takes {link.max_payload}")
        try:
            link.publish(subject, data, reply, headers)
        except ValueError as error:
            raise SpecError("subject", f"{subject!r} or a header of it is not valid: {error}") from error

    def hand_over(self, subject: str, data: bytes, reply: str = "") -> bool:
        """Hand a question to the socket, or, without `reply`, an answer, which goes before all else of its moment.

        False when the socket takes nothing more now. Raises as `send`.
        """
        link = self._here()
        if len(data) > link.max_payload:
            raise TooLarge(f"{len(data)} bytes, the server takes {link.max_payload}")
        if link.unsent_bytes > _MAX_UNSENT:
            return False
        try:
            if reply:
                link.publish(subject, data, reply, None)
            else:
                link.answer(subject, data)
        except ValueError as error:
            raise SpecError("subject", f"{subject!r} is not valid: {error}") from error
        return True

    async def subscribe(self, subject: str, heard: Heard) -> Subscribed:
        """Hear a subject on this and every later connection; the server knows it when this returns.

        heard: called in the loop, from the socket; it must not wait. Raises Unreachable, SpecError.
        """
        link = self._here()
        subscribed = Subscribed(self, subject, heard)
        try:
            subscribed.sid = link.subscribe(subject, heard)
        except ValueError as error:
            raise SpecError("subject", f"{subject!r} is not valid") from error
        self._subscriptions.add(subscribed)
        try:
            await _settle(link)
        except BaseException as error:
            self.forget(subscribed)
            if isinstance(error, OSError | TimeoutError):
                raise Unreachable(f"could not subscribe to {subject}: {error}") from error
            raise
        return subscribed

    def forget(self, subscribed: Subscribed) -> None:
        """End a subscription; idempotent."""
        if subscribed in self._subscriptions:
            self._subscriptions.discard(subscribed)
            if self._link is not None and self._link.is_open:
                self._link.unsubscribe(subscribed.sid)

    def _here(self) -> Link:
        """Return the present connection. Raises Unreachable."""
        link = self._link
        if self._since is None or link is None or not link.is_open:
            raise Unreachable(f"not connected to NATS: {self._problem}")
        return link

    async def _wait_until_sent(self, link: Link) -> None:
        deadline = asyncio.get_running_loop().time() + limits.STORE_TIMEOUT
        while link.unsent_bytes > _MAX_UNSENT:
            if not link.is_open or asyncio.get_running_loop().time() > deadline:
                raise Unreachable("the NATS server takes no more data")
            await asyncio.sleep(0.002)
        if not link.is_open:
            raise Unreachable(f"not connected to NATS: {self._problem}")

    async def _watch(self) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            link = self._link
            if link is None or link.is_open:
                continue
            self._problem = link.problem
            log.warning("connection to NATS lost", extra={"problem": self._problem})
            self._lost()
            await self._connect()
            log.info("connected to NATS again", extra={"life": self.life})

    def _lost(self) -> None:
        if self._since is not None:
            self._since = None
            self._tell()

    def _tell(self) -> None:
        for callback in tuple(self.changed):
            callback()

    async def _connect(self) -> None:
        """Try until it works. A server that listens and never greets costs one connect timeout."""
        while True:
            addresses = self._addresses[:]
            random.shuffle(addresses)
            for address in addresses:
                if await self._try(address):
                    return
            await asyncio.sleep(RECONNECT_WAIT * random.uniform(0.5, 1.5))

    async def _try(self, address: Address) -> bool:
        link: Link | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                link = await greet(address, name=self._name, credentials=self._credentials, changed=self._look.set)
                for subscribed in tuple(self._subscriptions):
                    subscribed.sid = link.subscribe(subscribed.subject, subscribed.heard)
                await link.ping()
        except BaseException as error:
            if link is not None:
                link.abort("not ready in time")
            if not isinstance(error, Exception):
                raise
            self._problem = str(error) or type(error).__name__
            log.debug("no connection to NATS", extra={"problem": self._problem})
            return False
        self._link = link
        self.server_version = str(link.greeting.result().get("version", ""))
        self.life += 1
        self._since = asyncio.get_running_loop().time()
        self._tell()
        return True


async def _settle(link: Link) -> None:
    """Wait until the server has seen what was sent so far. Raises ConnectionError, TimeoutError."""
    async with asyncio.timeout(CONNECT_TIMEOUT):
        await link.ping()
