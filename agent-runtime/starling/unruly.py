"""What handlers and hooks raise that nobody should: the trouble of one message or agent, never of its shard."""

from __future__ import annotations

import asyncio
from typing import Any


def is_from_outside(raised: BaseException, task: asyncio.Task[Any] | None, *, cancelled: bool | None = None) -> bool:
    """Whether what came out of somebody's code is not of that code's making, and has to go on to our caller.

    A person interrupts; the task is cancelled; or the loop has ended, and what is left is closed. task: in which the
    code runs. cancelled: whether it is we who cancel the task, where the caller knows it; None: ask the task.
    """
    match raised:
        case KeyboardInterrupt():
            return True
        case asyncio.CancelledError():
            return task is None or bool(task.cancelling()) if cancelled is None else cancelled
        case GeneratorExit():
            return not _is_running(task)
    return False


def as_error(raised: BaseException, who: str = "the handler") -> Exception:
    """Return what counts as the error of somebody's code that raised this; who: raised it, for the text."""
    if isinstance(raised, Exception):
        return raised
    if isinstance(raised, asyncio.CancelledError):
        made = RuntimeError(f"what {who} waited for was cancelled")
    else:
        made = RuntimeError(f"{who} raised {type(raised).__name__}, which is no Exception: {raised}")
    made.__cause__ = raised
    return made


def _is_running(task: asyncio.Task[Any] | None) -> bool:
    """Whether this is called in a step of the task."""
    try:
        return task is not None and asyncio.current_task() is task
    except RuntimeError:
        return False
