"""State of older versions: one function a version, each making the next version's fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from pydantic_core import from_json, to_json

from starling.errors import SpecError, StateUnreadable

F = TypeVar("F", bound="Callable[..., Any] | staticmethod[..., Any] | classmethod[Any, ..., Any]")

Fields = dict[str, Any]
Step = Callable[[Fields], Fields]

STATE: Final = "state"
_MARK: Final = "__starling_migrates__"


def migrate(version: int, cells: str = STATE) -> Callable[[F], F]:
    """Make the fields of version `version + 1` from those of `version`.

    Stands above `@staticmethod` or `@classmethod`; takes the stored fields as plain JSON and returns the new ones.
    cells: the field of the class whose cells it is for, when they are not the state. Migrators run one after the
    other, up to the `version` of the class; they have to stay as long as state of their version may be stored. The
    oldest may go, but those of the state that are there must lead on to the class's version: SpecError for a gap.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SpecError("migrate", f"{version!r} is no version; give the whole number that it migrates from, 1 or more")

    def mark(method: F) -> F:
        function = inspect.unwrap(method.__func__ if isinstance(method, (staticmethod, classmethod)) else method)
        if inspect.iscoroutinefunction(function):
            raise SpecError(function.__qualname__, "a migrator is a plain function, not `async def`")
        setattr(function, _MARK, (version, cells))
        return method

    return mark


class Migrations:
    """The migrators of one agent class. They lead to `version`, what its code writes."""

    __slots__ = ("_agent_type", "_steps", "version")

    def __init__(self, agent_type: str, version: int, steps: Mapping[tuple[str, int], Step]) -> None:
        self._agent_type = agent_type
        self._steps = dict(steps)
        self.version = version

    def upgraded(self, data: bytes, version: int, cells: str = STATE) -> bytes:
        """Return stored bytes as of our version, the same ones when they are of it already.

        A state needs a migrator for each version on the way; cells without one are taken as they are.
        Raises StateUnreadable: no migrator, a version newer than the code, or a migrator that failed.
        """
        if version == self.version:
            return data
        where = f"{cells} of {self._agent_type}"
        if version > self.version:
            raise StateUnreadable(
                f"{where}: stored by version {version}, and this code is of version {self.version}; deploy newer code"
            )
        try:
            fields = from_json(data)
        except ValueError as error:
            raise StateUnreadable(f"{where}: {error}") from error
        for old in range(version, self.version):
            step = self._steps.get((cells, old))
            if step is not None:
                fields = self._step(where, step, old, fields)
            elif cells == STATE:
                raise StateUnreadable(
                    f"{where}: stored by version {version}, and no @migrate({old}) leads on to version {self.version}"
                )
        return to_json(fields, inf_nan_mode="constants")

    def _step(self, where: str, step: Step, old: int, fields: Fields) -> Fields:
        try:
            made = step(fields)
        except Exception as error:
            raise StateUnreadable(f"{where}: @migrate({old}) failed: {type(error).__name__}: {error}") from error
        if not isinstance(made, dict):
            raise StateUnreadable(f"{where}: @migrate({old}) returned {type(made).__name__}, not the new fields")
        return made


def migrations_of(cls: type, agent_type: str, version: int, cells: frozenset[str]) -> Migrations:
    """Return the migrators of a class. cells: names of its fields of cells. Raises SpecError."""
    steps: dict[tuple[str, int], Step] = {}
    for name in dir(cls):
        static = inspect.getattr_static(cls, name, None)
        function = static.__func__ if isinstance(static, (staticmethod, classmethod)) else static
        mark = getattr(inspect.unwrap(function), _MARK, None) if callable(function) else None
        if mark is None:
            continue
        where = f"{cls.__qualname__}.{name}"
        old, target = mark
        if not isinstance(static, (staticmethod, classmethod)):
            raise SpecError(where, "a migrator has no agent yet: put @staticmethod or @classmethod under @migrate")
        if old >= version:
            raise SpecError(where, f"migrates from version {old}, the class is of version {version}; raise `version=`")
        if target != STATE and target not in cells:
            raise SpecError(where, f"migrates {target!r}, which is no field of cells of {cls.__qualname__}")
        if (target, old) in steps:
            raise SpecError(where, f"is a second migrator from version {old} of {target}")
        steps[target, old] = getattr(cls, name)
    _check_whole(cls, version, {old for target, old in steps if target == STATE})
    return Migrations(agent_type, version, steps)


def _check_whole(cls: type, version: int, migrated: set[int]) -> None:
    """Migrators of the state from the oldest version on must lead all the way; those of older ones may be gone."""
    missing = [old for old in range(min(migrated, default=version), version) if old not in migrated]
    if missing:
        raise SpecError(
            f"{cls.__qualname__}.version",
            f"is {version}, and state of version {min(migrated)} does not get there: add @migrate({missing[0]}), "
            f"which makes the fields of version {missing[0] + 1}",
        )
