"""An event loop under virtual time, with a seeded scheduler: the same seed runs the same way, to the callback."""

from __future__ import annotations

import asyncio
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from typing import Any

PROCESS: ContextVar[str] = ContextVar("process", default="")
"""Name of the simulated process that a callback belongs to; "" for the world itself."""


class Stuck(Exception):
    """Nothing is ready and nothing is scheduled: whoever waits would wait for ever."""


class SimTask(asyncio.Task[Any]):
    """A task with a hash that does not depend on its address, so that sets of tasks have an order."""

    _made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        SimTask._made += 1
        self._number = SimTask._made
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.BaseEventLoop):
    """Time jumps to the next timer when nothing is ready; what is ready runs in an order drawn from `chance`.

    A frozen process runs none of its callbacks until it is thawed: a stopped or overloaded machine.
    """

    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_made = 0
        self._frozen: dict[str, list[asyncio.Handle]] = {}
        self.passes = 0
        SimTask._made = 0
        self.set_task_factory(_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._now

    @classmethod
    def running(cls) -> VirtualLoop:
        """The loop that runs this code."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, cls)
        return loop

    async def until(self, time: float) -> None:
        """Wait until the virtual time is there."""
        await asyncio.sleep(max(0.0, time - self._now))

    def freeze(self, process: str) -> None:
        """Hold all callbacks of a process."""
        self._frozen.setdefault(process, [])

    def thaw(self, process: str) -> None:
        """Let them go again; nothing happens to a process that is not frozen."""
        self._ready.extend(self._frozen.pop(process, ()))

    # Callbacks: as BaseEventLoop does it, without what only real time and sockets need.

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heappush(self._timers, (when, self._timers_made, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays where it is, and is passed over when its time comes."""

    def _process_events(self, event_list: Sequence[Any]) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """There is nobody to wake: one thread."""

    def _run_once(self) -> None:
        self.passes += 1
        ready, timers = self._ready, self._timers
        if self._frozen:
            self._hold_back()
        count = len(ready)
        if count == 2:
            if self._chance.random() < 0.5:
                ready.rotate(1)
        elif count > 2:
            mixed = list(ready)
            ready.clear()
            self._chance.shuffle(mixed)
            ready.extend(mixed)
        while timers and timers[0][2].cancelled():
            heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise Stuck("nothing is ready and nothing is scheduled")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _hold_back(self) -> None:
        handles = list(self._ready)
        self._ready.clear()
        for handle in handles:
            held = self._frozen.get(handle._context.get(PROCESS, ""))  # type: ignore[attr-defined]
            (self._ready if held is None else held).append(handle)


def _task(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], context: Context | None = None) -> SimTask:
    return SimTask(coro, loop=loop) if context is None else SimTask(coro, loop=loop, context=context)


def run(loop: VirtualLoop, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine to its end on the loop, then end what is left, and close the loop."""
    events.set_event_loop(loop)
    try:
        return loop.run_until_complete(main())
    finally:
        for process in list(loop._frozen):
            loop.thaw(process)
        _end_all(loop)
        events.set_event_loop(None)
        loop.close()


def _end_all(loop: VirtualLoop) -> None:
    for _ in range(10):
        tasks = sorted(asyncio.all_tasks(loop), key=hash)
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
