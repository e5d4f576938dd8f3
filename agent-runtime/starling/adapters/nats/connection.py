"""One connection to NATS that is made anew until we close it. Only this package imports nats-py.

Each connection is a fresh nats-py client. Its own reconnect would send what was buffered before the cut, seconds
late; it closes for good on some server errors; and it waits for the old socket's buffer to empty first, which
takes minutes when the peer has vanished.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from starling.core import limits
from starling.errors import SpecError, TooLarge, Unreachable

log = logging.getLogger(__name__)

Heard = Callable[[Msg], Awaitable[None]]

PING_INTERVAL: Final = 5
MAX_OUTSTANDING_PINGS: Final = 2
RECONNECT_WAIT: Final = 0.25
CONNECT_TIMEOUT: Final = 2
_LOOK_INTERVAL: Final = 0.25
_CANCELS: Final = 10
_FOREVER: Final = 86_400
_MAX_UNSENT: Final = limits.MIB
_LIBRARY_ERRORS: Final = (OSError, nats_errors.Error, TimeoutError)


class Subscribed:
    """Interest in a subject that outlives connections; closed once."""

    def __init__(self, connection: Connection, subject: str, heard: Heard) -> None:
        self._connection = connection
        self.subject = subject
        self.heard = heard
        self.current: NatsSubscription | None = None

    async def close(self) -> None:
        """Hear no more; idempotent."""
        await self._connection.forget(self)


class Connection:
    """Sends and subscribes while connected; raises Unreachable at once while not.

    life: number of connections made so far; what was set up on the server for an earlier one may be gone.
    """

    def __init__(self, servers: list[str], *, name: str, credentials: str | None) -> None:
        self._servers = servers
        self._name = name
        self._credentials = credentials
        self._client = Client()
        self._subscriptions: set[Subscribed] = set()
        self._flushes: dict[Client, set[asyncio.Task[None]]] = {}
        """Those under way, by client."""
        self._watching: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._since: float | None = None
        self._problem = "never connected"
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
        """Close; idempotent."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})
        self._lost()
        await self._retire(self._client, self._subscriptions)
        self._subscriptions.clear()

    @property
    def connected_since(self) -> float | None:
        """The loop's time at which the present connection was made; None while it is away."""
        return self._since if self._client.is_connected else None

    @property
    def server_version(self) -> str:
        """Version of the server we are connected to."""
        version = self._client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    @property
    def max_payload(self) -> int:
        """Bytes that one message may have, headers included, as the server says."""
        return self._client.max_payload

    def new_inbox(self) -> str:
        """Return a subject nobody else uses; it holds for the life of this object."""
        return self._client.new_inbox()

    async def send(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Hand a message to the socket. Raises Unreachable when nothing was sent, TooLarge, SpecError."""
        client = self._client
        if self._since is None or not client.is_connected:
            raise Unreachable(f"not connected to NATS: {self._problem}")
        if client.pending_data_size > _MAX_UNSENT:
            await self._wait_until_sent(client)
        try:
            await client.publish(subject, data, reply, headers)
        except nats_errors.MaxPayloadError as error:
            raise TooLarge(f"{len(data)} bytes, the server takes {client.max_payload}") from error
        except (nats_errors.BadSubjectError, nats_errors.BadHeaderError) as error:
            raise SpecError("subject", f"{subject!r} or a header of it is not valid: {error}") from error
        except nats_errors.Error as error:
            raise Unreachable(f"not connected to NATS: {error}") from error

    async def subscribe(self, subject: str, heard: Heard) -> Subscribed:
        """Hear a subject on this and every later connection; the server knows it when this returns.

        Raises Unreachable.
        """
        if self.connected_since is None:
            raise Unreachable(f"not connected to NATS: {self._problem}")
        subscribed = Subscribed(self, subject, heard)
        self._subscriptions.add(subscribed)
        try:
            subscribed.current = await self._client.subscribe(subject, cb=heard)
            await self._settle(self._client)
        except _LIBRARY_ERRORS as error:
            await self.forget(subscribed)
            raise Unreachable(f"could not subscribe to {subject}: {error}") from error
        return subscribed

    async def forget(self, subscribed: Subscribed) -> None:
        """End a subscription; idempotent."""
        self._subscriptions.discard(subscribed)
        await _unsubscribe(subscribed)

    async def _wait_until_sent(self, client: Client) -> None:
        deadline = asyncio.get_running_loop().time() + limits.STORE_TIMEOUT
        while client.pending_data_size > _MAX_UNSENT:
            if not client.is_connected or asyncio.get_running_loop().time() > deadline:
                raise Unreachable("the NATS server takes no more data")
            await asyncio.sleep(0.002)

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_INTERVAL):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            if self._client.is_connected:
                continue
            log.warning("connection to NATS lost", extra={"problem": self._problem})
            old = self._client
            self._lost()
            await self._retire(old, self._subscriptions)
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
            client = Client()
            try:
                await _bounded(self._try(client), 2 * CONNECT_TIMEOUT * len(self._servers))
                break
            except Exception as error:
                self._problem = str(error) or type(error).__name__
                log.debug("no connection to NATS", extra={"problem": self._problem})
            except asyncio.CancelledError:
                await self._retire(client, ())
                raise
            await self._retire(client, self._subscriptions)
            await asyncio.sleep(RECONNECT_WAIT * random.uniform(0.5, 1.5))
        self._client = client
        self.life += 1
        self._since = asyncio.get_running_loop().time()
        self._tell()

    async def _try(self, client: Client) -> None:
        await client.connect(
            self._servers,
            name=self._name,
            user_credentials=self._credentials,
            # Reconnecting is ours, see above; with it switched off nats-py would not call back before it closes.
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]  # seconds, fractions work
            connect_timeout=CONNECT_TIMEOUT,
            ping_interval=PING_INTERVAL,
            max_outstanding_pings=MAX_OUTSTANDING_PINGS,
            pending_size=0,  # nothing is kept for later, and no publish waits inside the library
            error_cb=self._noticed,
            disconnected_cb=self._cut,
            closed_cb=self._cut,
        )
        for subscribed in tuple(self._subscriptions):
            subscribed.current = await client.subscribe(subscribed.subject, cb=subscribed.heard)
        await self._settle(client)

    async def _settle(self, client: Client) -> None:
        """Wait until the server has seen what was sent so far. Raises TimeoutError.

        In a task of its own, which ends by itself or with the client: a pong that finds its flush cancelled or timed
        out ends nats-py's read loop without a word, and the process is deaf until pings have failed, 12 s later.
        """
        flush = asyncio.get_running_loop().create_task(_flush_twice(client), name="flush")
        flushes = self._flushes.setdefault(client, set())
        flushes.add(flush)
        flush.add_done_callback(flushes.discard)
        done, _ = await asyncio.wait({flush}, timeout=CONNECT_TIMEOUT)
        if not done:
            raise TimeoutError("the server has not seen it in time")
        flush.result()

    async def _retire(self, client: Client, subscriptions: set[Subscribed] | tuple[()]) -> None:
        """Close a client for good, whatever state it is in, within a second."""
        await _retire(client, subscriptions)
        flushes = self._flushes.pop(client, set())
        for flush in flushes:
            flush.cancel()
        await asyncio.gather(*flushes, return_exceptions=True)

    async def _noticed(self, error: Exception) -> None:
        self._problem = str(error) or type(error).__name__
        if isinstance(error, nats_errors.SlowConsumerError):
            log.error("messages dropped: the process is too slow", extra={"subject": error.subject})
        elif isinstance(error, _LIBRARY_ERRORS):
            log.debug("NATS client", extra={"problem": self._problem})
        else:
            log.error("error in the handling of a message", exc_info=error)

    async def _cut(self) -> None:
        self._look.set()


async def _flush_twice(client: Client) -> None:
    """Twice, since nats-py's ping overtakes what its flusher has not written yet; after the first it has."""
    await client.flush(timeout=_FOREVER)
    await client.flush(timeout=_FOREVER)


async def _unsubscribe(subscribed: Subscribed) -> None:
    current, subscribed.current = subscribed.current, None
    if current is None:
        return
    try:
        await current.unsubscribe()
    except _LIBRARY_ERRORS as error:
        log.debug("unsubscribed from a lost connection", extra={"problem": str(error)})


async def _retire(client: Client, subscriptions: set[Subscribed] | tuple[()]) -> None:
    """Close a client for good, whatever state it is in, within a second: a vanished peer never takes its bytes."""
    for subscribed in tuple(subscriptions):
        await _unsubscribe(subscribed)
    try:
        await _bounded(client.close(), 1.0)
    except Exception as error:  # a library in the middle of a failure may raise anything
        log.debug("closed a broken connection", extra={"problem": repr(error)})


async def _bounded(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Run what may swallow a cancellation, as nats-py does in places; TimeoutError after about `seconds`."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        for _ in range(_CANCELS):
            if task.done():
                break
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
    if task.cancelled() or not task.done():
        raise TimeoutError
    task.result()
