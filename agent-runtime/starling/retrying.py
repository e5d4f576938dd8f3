"""Calls to the outside world, tried again within one attempt of a turn."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar, overload

import tenacity
from pydantic import ValidationError

from starling.core.retry import is_retryable
from starling.core.severity import Category, status_of, verdict
from starling.errors import MeshError, OutsideFailed, RetryLater, SpecError
from starling.seconds import checked_seconds

P = ParamSpec("P")
T = TypeVar("T")

Decision = Callable[[BaseException], bool]

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes after which the same request may succeed."""
MAX_RETRIES: Final = 100


def is_passing(error: BaseException) -> bool:
    """Whether trying again may help: not for wrong requests, for agents that are not there, nor for bugs.

    By class and status code: timeouts, broken connections, RetryLater, a model or service that is busy.
    """
    if not is_retryable(error) or isinstance(error, (SpecError, ValidationError)):
        return False
    status = status_of(error)
    if status is not None and status >= 400:
        return status in _PASSING
    if isinstance(error, MeshError):
        return isinstance(error, (RetryLater, OutsideFailed, TimeoutError))
    return verdict(error).category in (Category.TIMEOUT, Category.NETWORK)


class Retrying:
    """Calls functions, and calls them again after a growing pause while they raise something that passes.

    retries: further tries after the first, 0 for none; first, cap: seconds of pause, doubling, spread over half of it;
    timeout: seconds for everything, after which no further try starts, None for no bound; when: says of an error
    whether it passes. In the end the last error is raised as it was, with `attempts` (a note says so too).
    It is made once and used by many turns.
    """

    def __init__(
        self,
        retries: int = 3,
        *,
        first: float = 0.1,
        cap: float = 5.0,
        timeout: float | None = None,
        when: Decision = is_passing,
    ) -> None:
        if not isinstance(retries, int) or not 0 <= retries <= MAX_RETRIES:
            raise SpecError("retries", f"is {retries!r}; give 0 to {MAX_RETRIES}")
        for name, value in (("first", first), ("cap", cap)):
            if not value >= 0:
                raise SpecError(name, f"is {value!r} s; give 0 or more")
        if timeout is not None:
            checked_seconds(timeout)
        self._retries = retries
        self._first = first
        self._cap = cap
        self._timeout = timeout
        self._when = when

    @overload
    async def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns; a plain one runs in a thread, so that it never blocks the loop.

        Raises the last error. Cancelled, it stops waiting at once; a thread runs to its end unheard.
        """
        run = _asynchronous(function)
        async for attempt in self._attempts():
            with attempt:
                try:
                    return await run(*args, **kwargs)
                except Exception as error:
                    _note(error, attempt.retry_state.attempt_number)
                    raise
        raise AssertionError("the last error has been raised")  # pragma: no cover

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorate an async function."""
        if not inspect.iscoroutinefunction(function):
            raise SpecError(
                getattr(function, "__qualname__", repr(function)), "is not async; use `await retrying.call(function)`"
            )

        @functools.wraps(function)
        async def again(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call(function, *args, **kwargs)

        return again

    def _attempts(self) -> tenacity.AsyncRetrying:
        stop = tenacity.stop_after_attempt(self._retries + 1)
        return tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            stop=stop if self._timeout is None else stop | tenacity.stop_after_delay(self._timeout),
            wait=_pause(self._first, self._cap),
            retry=tenacity.retry_if_exception(self._when),
            reraise=True,
        )


def _pause(first: float, cap: float) -> Callable[[tenacity.RetryCallState], float]:
    doubling = tenacity.wait_exponential(multiplier=first, max=cap, exp_base=2)
    spread = tenacity.wait_random(0.5, 1.0)
    return lambda state: doubling(state) * spread(state)


def _asynchronous(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        return function

    async def in_thread(*args: Any, **kwargs: Any) -> Any:
        result = await asyncio.to_thread(function, *args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return in_thread


def _note(error: Exception, attempts: int) -> None:
    """Say how often it was tried: as an attribute, and where the traceback is read."""
    with contextlib.suppress(AttributeError):  # a class with slots has the note only
        error.attempts = attempts  # type: ignore[attr-defined]
    if attempts > 1:
        notes = getattr(error, "__notes__", [])
        notes[:] = [note for note in notes if not note.startswith("tried ")]
        error.add_note(f"tried {attempts} times")
