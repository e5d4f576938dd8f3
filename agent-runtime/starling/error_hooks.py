"""Error hooks: methods of an agent that are told of its handlers' errors, by class.

    @on_error(ModelFailed)
    async def model_failed(self, error: ModelFailed, ctx: Context) -> None:
        await self.client.close()

The turn has failed by then: what it sent is not sent, its policy says whether it is tried again, and the instance is
dropped: the next turn finds the state of the last good one in a new instance. A hook changes nothing of that, and a
hook that fails is logged beside the first error, not instead of it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starling.errors import SpecError
from starling.unruly import is_from_outside

if TYPE_CHECKING:
    from starling.context import Context

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])

log = logging.getLogger(__name__)

_MARK: Final = "__starling_on_error__"
TIMEOUT: Final = 5.0
"""Seconds that a hook may take; the agent's next turn waits for it."""


def on_error(*classes: type[Exception]) -> Callable[[F], F]:
    """Mark a method as the hook for errors of these classes and those derived from them; the nearest class decides."""
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            raise SpecError("on_error", f"{cls!r} is no class of errors; write @on_error(ValueError)")
    if not classes:
        raise SpecError("on_error", "name the classes of errors: @on_error(ValueError)")

    def mark(method: F) -> F:
        name = getattr(method, "__qualname__", repr(method))
        if not inspect.iscoroutinefunction(method):
            raise SpecError(name, "an error hook must be `async def`, so that it never blocks the pod")
        if len(inspect.signature(method).parameters) != 3:
            raise SpecError(name, "an error hook takes `self`, the error and the context")
        setattr(method, _MARK, classes)
        return method

    return mark


class ErrorHooks:
    """The error hooks of one agent class."""

    __slots__ = ("_by_class",)

    def __init__(self, by_class: dict[type[BaseException], Callable[..., Coroutine[Any, Any, Any]]]) -> None:
        self._by_class = by_class

    def covers(self, error: BaseException) -> bool:
        """Whether there is a hook for the error."""
        return any(cls in self._by_class for cls in type(error).__mro__)

    async def run(self, agent: Any, error: BaseException, ctx: Context) -> None:
        """Tell the nearest hook. Never raises, but when cancelled or interrupted."""
        hook = next(self._by_class[cls] for cls in type(error).__mro__ if cls in self._by_class)
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(TIMEOUT):
                await hook(agent, error, ctx)
        except BaseException as raised:
            if is_from_outside(raised, task):
                raise
            log.exception("an error hook failed", extra={"hook": hook.__qualname__, "about": type(error).__name__})


def error_hooks_of(cls: type) -> ErrorHooks | None:
    """Return the class's hooks, None without any. Raises SpecError when two are for the same errors."""
    found: dict[type[BaseException], Callable[..., Coroutine[Any, Any, Any]]] = {}
    for name in sorted(dir(cls)):
        method = inspect.getattr_static(cls, name, None)
        for error in getattr(method, _MARK, ()):
            other = found.setdefault(error, method)
            if other is not method:
                raise SpecError(f"{cls.__qualname__}.{name}", f"is for {error.__name__} as {other.__name__!r} is")
    return ErrorHooks(found) if found else None
