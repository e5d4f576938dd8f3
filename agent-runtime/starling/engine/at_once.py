"""Coroutines that mostly do not wait, started where they are made: no task, no turn of the loop."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


def started(publish: Coroutine[Any, Any, Awaitable[T]]) -> Awaitable[T]:
    """Start it now and return what it returns: for a store's `publish`, which nearly never waits to hand over.

    Where it does wait, the result first goes on with it. Raises what it raises before its first wait.
    """
    try:
        waits_for = publish.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    return _both(publish, waits_for)


def at_once(job: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None] | None:
    """Run it now; return the task that finishes it where it has to wait. Raises what it raises before that."""
    try:
        waits_for = job.send(None)
    except StopIteration:
        return None
    return asyncio.get_running_loop().create_task(_rest(job, waits_for), name=name)


async def _rest(job: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await going_on(job, waits_for)


async def _both(publish: Coroutine[Any, Any, Awaitable[T]], waits_for: Any) -> T:
    return await (await going_on(publish, waits_for))


@types.coroutine
def going_on(job: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """Finish a coroutine that was started without a task and has come to wait for something."""
    while True:
        thrown: BaseException | None = None
        try:
            yield waits_for
        except BaseException as error:
            thrown = error
        try:
            waits_for = job.send(None) if thrown is None else job.throw(thrown)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
