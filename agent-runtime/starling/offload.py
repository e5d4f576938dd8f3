"""CPU-bound work in other processes, so that it does not hold up the turns of this one."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, ParamSpec, TypeVar

from starling.errors import SpecError, SystemFailed

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_PROCESSES: Final = 64
WAITING_PER_PROCESS: Final = 4
"""How many calls may wait in the pool for each process; further ones wait outside, where they can be cancelled."""


class Offload:
    """A bounded pool of processes, started by its first call. Close it."""

    def __init__(self, processes: int | None = None) -> None:
        """processes: at most so many at once, default one for each core. Raises SpecError."""
        count = (os.cpu_count() or 1) if processes is None else processes
        if not isinstance(count, int) or not 1 <= count <= MAX_PROCESSES:
            raise SpecError("processes", f"is {processes!r}; give 1 to {MAX_PROCESSES}")
        self._count = count
        self._pool: ProcessPoolExecutor | None = None
        self._room = asyncio.Semaphore(count * WAITING_PER_PROCESS)
        self._closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns in another process: one of a module, with arguments that can be pickled.

        Raises what it raises; SpecError for what cannot be sent there; SystemFailed when its process dies. Cancelled
        before it starts, it never runs; later, it runs to its end unheard.
        """
        if self._closed:
            raise SystemFailed("the process pool of this worker is closed")
        try:
            pickle.dumps((function, args, kwargs))
        except Exception as error:  # pickle raises whatever an object's own methods raise
            name = getattr(function, "__qualname__", repr(function))
            raise SpecError("offload", f"{name} and its arguments must be picklable: {error}") from error
        async with self._room:
            pool = self._started()
            future: Future[T] = pool.submit(function, *args, **kwargs)
            try:
                return await asyncio.wrap_future(future)
            except BrokenProcessPool as error:
                if self._pool is pool:
                    self._pool = None
                    pool.shutdown(wait=False, cancel_futures=True)
                why = "the worker ends" if self._closed else "it may have run out of memory"
                raise SystemFailed(f"a process of the pool died: {why}") from error
            finally:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # spawn: a fork would copy this process's threads, locks and connections in whatever state they are
            self._pool = ProcessPoolExecutor(
                self._count, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet
            )
        return self._pool

    async def close(self) -> None:
        """End the processes; what runs in them is lost, as after a crash."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for process in list((pool._processes or {}).values()):
            process.terminate()  # what it computes could take for ever
        await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)


def _quiet() -> None:
    """Leave it to the worker to answer Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_shared: dict[asyncio.AbstractEventLoop, Offload] = {}


async def offload(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in the process pool of this worker; see `Offload.run`."""
    loop = asyncio.get_running_loop()
    pool = _shared.get(loop)
    if pool is None:
        pool = _shared[loop] = Offload()
    return await pool.run(function, *args, **kwargs)


async def close_offload() -> None:
    """End the pool of this worker, if it was used; the next call starts another."""
    pool = _shared.pop(asyncio.get_running_loop(), None)
    if pool is not None:
        await pool.close()
