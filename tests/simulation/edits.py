"""Changes one function of the real code for a while: a mutant is what a reviewer could have let through."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType
from typing import Any


class DoesNotApply(Exception):
    """The code that a mutant changes is not there any more: write the mutant anew."""


@contextmanager
def edited(function: Callable[..., Any], *edits: tuple[str, str]) -> Iterator[None]:
    """Run with `function` as if its source had the second text in place of the first; each stands there once."""
    function = getattr(function, "__func__", function)
    assert isinstance(function, FunctionType)
    code = _compiled(function, edits)
    original = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = original


def _compiled(function: FunctionType, edits: tuple[tuple[str, str], ...]) -> CodeType:
    lines, first = inspect.getsourcelines(function)
    source = "".join(lines)
    for old, new in edits:
        if source.count(old) != 1:
            raise DoesNotApply(f"{function.__qualname__} has {source.count(old)} times {old!r}")
        source = source.replace(old, new)
    module = sys.modules[function.__module__]
    whole = inspect.getsource(module).splitlines(keepends=True)
    whole[first - 1 : first - 1 + len(lines)] = [source]
    made = compile("".join(whole), inspect.getsourcefile(function) or "edited", "exec", dont_inherit=True)
    return _find(made, function.__qualname__)


def _find(code: CodeType, name: str) -> CodeType:
    waiting = [code]
    while waiting:
        one = waiting.pop()
        if one.co_qualname == name:
            return one
        waiting.extend(inner for inner in one.co_consts if isinstance(inner, CodeType))
    raise DoesNotApply(f"{name} is not there after the edit")


@contextmanager
def all_of(*contexts: Any) -> Iterator[None]:
    """Enter several contexts as one."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield
