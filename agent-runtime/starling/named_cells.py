"""Named cells: parts of an agent's state that are loaded on demand and written when they changed.

class Yard(Agent[YardState]):
    tracks = cells(Track)       # any number of them, by name
    history = cell(History)     # one

    @event
    async def arrived(self, message: Arrived) -> None:
        track = await self.tracks.get(message.track)
        track.trains.append(message.train)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from starling.codec import Codec
from starling.core import limits
from starling.core.record import Cell
from starling.core.reference import MARK, cell_reference
from starling.errors import DecodeError, SpecError, StateUnreadable, TooLarge
from starling.messages import is_record
from starling.migrations import STATE, Migrations

T = TypeVar("T")

MAX_NAME_BYTES: Final = 128
KEEP_BYTES: Final = 256 * limits.KIB
"""Encoded cells that an agent keeps in memory from one turn to the next."""
INDEX: Final = "_cells"
"""The hidden cell: names of all cells of the agent but its state, so that whoever destroys or exports it finds them."""

Reader = Callable[[Sequence[str]], Awaitable[Mapping[str, Cell | None]]]
"""Reads cells of one agent by name: the newest version that its turns have made."""


class _Declared(Generic[T]):
    __slots__ = ("_owner", "cls", "field")

    def __init__(self, cls: type[T], field: str = "", owner: CellSet | None = None) -> None:
        self.cls = cls
        self.field = field
        self._owner = owner

    def __set_name__(self, owner: type, name: str) -> None:
        self.field = name

    def __get__(self, instance: object | None, owner: type | None = None) -> Self:
        return self if instance is None else type(self)(self.cls, self.field, held_by(instance))

    @property
    def _set(self) -> CellSet:
        if self._owner is None:
            raise SpecError(self.field, "cells are there only while the agent runs in a mesh")
        return self._owner


class Cells(_Declared[T]):
    """Any number of cells of one class, by name; made by `cells`. Use it as `self.field`, in turns and queries only.

    What `get` returns is good for this turn: get it again in the next one.
    """

    __slots__ = ()

    async def get(self, name: str) -> T:
        """Return the cell to be read or changed in place, made without arguments if there is none.

        Raises StateUnreadable, Unreachable, SpecError for a name that is empty or over 128 bytes.
        """
        return cast("T", await self._set.get(self.field, name))

    def set(self, name: str, value: T) -> None:
        """Write the cell whole, without reading it. Raises SpecError."""
        self._set.put(self.field, name, value)

    def drop(self, name: str) -> None:
        """Remove the cell with this turn's commit; `get` then makes a new one."""
        self._set.drop(self.field, name)

    async def names(self) -> list[str]:
        """Return the names of the cells that are there, sorted."""
        return await self._set.names(self.field)


class OneCell(_Declared[T]):
    """One cell beside the state; made by `cell`. Otherwise as `Cells`."""

    __slots__ = ()

    async def get(self) -> T:
        """Return the cell to be read or changed in place, made without arguments if there is none."""
        return cast("T", await self._set.get(self.field, ""))

    def set(self, value: T) -> None:
        """Write the cell whole, without reading it. Raises SpecError."""
        self._set.put(self.field, "", value)

    def drop(self) -> None:
        """Remove the cell with this turn's commit."""
        self._set.drop(self.field, "")


def cells(cls: type[T]) -> Cells[T]:
    """Declare any number of cells, each a `cls`: a pydantic model or dataclass that can be made without arguments."""
    return Cells(cls)


def cell(cls: type[T]) -> OneCell[T]:
    """Declare one cell beside the state; see `cells`."""
    return OneCell(cls)


class CellField:
    """A declared field of cells."""

    __slots__ = ("cls", "codec", "many", "name", "unwritten")

    def __init__(self, name: str, cls: type, *, many: bool, codec: Codec) -> None:
        self.name = name
        self.cls = cls
        self.many = many
        self.codec = codec
        self.unwritten = codec.dump(cls())
        """A new cell that is still like this is not written."""

    def cell_name(self, name: str) -> str:
        """Return the name of one of its cells in the table. Raises SpecError."""
        if not self.many:
            return self.name
        if not isinstance(name, str) or not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            raise SpecError(self.name, f"{name!r} is no name of a cell: give text of 1 to {MAX_NAME_BYTES} bytes")
        return f"{self.name}/{name}"


def cell_fields_of(cls: type) -> dict[str, CellField]:
    """Return the declared cells of an agent class by field name. Raises SpecError."""
    found: dict[str, CellField] = {}
    for name in dir(cls):
        declared = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
        if not isinstance(declared, (Cells, OneCell)):
            continue
        where = f"{cls.__qualname__}.{name}"
        if name.startswith("_") or name == STATE:
            raise SpecError(where, "give a field of cells a name without a leading underscore, other than 'state'")
        if not (isinstance(declared.cls, type) and is_record(declared.cls)):
            raise SpecError(where, f"{declared.cls!r} must be a pydantic model or a dataclass")
        try:
            declared.cls()
        except (TypeError, ValidationError) as error:
            raise SpecError(where, f"{declared.cls.__name__} needs a default for every field ({error})") from error
        codec = Codec(f"{name} of {cls.__qualname__}", declared.cls, limit=limits.MAX_LARGE)
        found[name] = CellField(name, declared.cls, many=isinstance(declared, Cells), codec=codec)
    return found


@dataclass(slots=True)
class _Held:
    """A cell in memory. data: after the last good turn, None: not there; value: None until it is wanted again."""

    field: CellField
    data: bytes | None
    unread: bool = False
    """What it was before is not known: it is written or removed whatever that was."""
    value: Any = None
    dropped: bool = False


class CellSet:
    """The cells of one agent in memory: what its turns have loaded, and what the present turn does with them."""

    __slots__ = ("_fields", "_held", "_index", "_migrations", "_read", "_touched", "broken")

    def __init__(self, fields: Mapping[str, CellField], migrations: Migrations, read: Reader) -> None:
        self._fields = fields
        self._migrations = migrations
        self._read = read
        self._held: dict[str, _Held] = {}
        self._touched: dict[str, None] = {}
        self._index: frozenset[str] | None = None
        self.broken: StateUnreadable | None = None
        """What the present turn was told of a cell that does not load."""

    @property
    def is_touched(self) -> bool:
        """Whether the present turn has asked for any cell."""
        return bool(self._touched)

    async def get(self, field: str, name: str) -> Any:
        found = self._fields[field]
        key = found.cell_name(name)
        held = self._held.get(key)
        if held is None:
            data = await self._load(found, key)
            held = self._held.setdefault(key, _Held(found, data))  # another part of this turn may have been faster
        if held.value is None:
            held.value = found.cls() if held.data is None or held.dropped else self._decoded(held)
            held.dropped = False
        self._touched[key] = None
        return held.value

    def put(self, field: str, name: str, value: Any) -> None:
        found = self._fields[field]
        if type(value) is not found.cls:
            raise SpecError(field, f"is given a {type(value).__name__}; its cells are {found.cls.__name__}")
        held = self._any(found, name)
        held.value, held.dropped = value, False

    def drop(self, field: str, name: str) -> None:
        held = self._any(self._fields[field], name)
        held.value, held.dropped = None, True

    def _any(self, field: CellField, name: str) -> _Held:
        key = field.cell_name(name)
        self._touched[key] = None
        return self._held.setdefault(key, _Held(field, None, unread=True))

    async def names(self, field: str) -> list[str]:
        prefix = f"{field}/"
        known = set(await self._load_index())
        for key in self._touched:
            held = self._held[key]
            (known.discard if held.dropped else known.add)(key)
        return sorted(key.removeprefix(prefix) for key in known if key.startswith(prefix))

    async def changes(self) -> dict[str, Cell]:
        """Return what the present turn has changed, by cell name, for its commit; then `keep` or `roll_back`.

        Raises DecodeError, TooLarge; Unreachable and StateUnreadable when the list of names has to be read.
        """
        found: dict[str, bytes | None] = {}
        for key in self._touched:
            held = self._held[key]
            if held.dropped:
                if held.unread or held.data is not None:
                    found[key] = None
                continue
            data = held.field.codec.dump(held.value)
            before = held.data if held.data is not None else held.field.unwritten
            if held.unread or data != before:
                found[key] = data
        if not found:
            return {}
        made = await self._indexed(found)
        in_place = (len(data) for data in made.values() if data is not None and len(data) <= limits.MAX_BODY)
        if sum(in_place) > limits.MAX_COMMIT:
            raise TooLarge(f"one turn changed more than {limits.MAX_COMMIT} bytes of cells; change less in a turn")
        return {key: Cell(self._migrations.version, data) for key, data in made.items()}

    def keep(self, changed: Mapping[str, Cell]) -> None:
        """The turn was good: what it changed is what the next one finds."""
        for key in self._touched:
            held = self._held.pop(key)
            if key in changed:
                held.data = changed[key].data
            held.unread = held.dropped = False
            self._held[key] = held
        if INDEX in changed:
            self._index = _names(changed[INDEX].data)
        self.broken = None
        self._touched.clear()

    def roll_back(self) -> None:
        """The turn failed: forget what it did."""
        for key in self._touched:
            held = self._held[key]
            if held.unread:
                del self._held[key]
            else:
                held.value, held.dropped = None, False
        self.broken = None
        self._touched.clear()

    def trim(self) -> None:
        """Drop what is over the limit from memory; only while nothing of this agent waits for its commit."""
        size_bytes = 0
        for key in reversed(list(self._held)):
            size_bytes += len(self._held[key].data or b"")
            if size_bytes > KEEP_BYTES:
                del self._held[key]

    async def all_gone(self) -> dict[str, Cell]:
        """Return the removal of every cell, for an agent that is destroyed."""
        known = await self._load_index()
        for name in known:
            field = self._fields.get(name.partition("/")[0])
            if field is not None:
                self._held.setdefault(name, _Held(field, None, unread=True))
        for name, held in self._held.items():
            held.value, held.dropped = None, True
            self._touched[name] = None
        gone = {*known, *(name for name, held in self._held.items() if held.data is not None)}
        return {name: Cell(self._migrations.version, None) for name in (*sorted(gone), INDEX)} if gone else {}

    async def _indexed(self, found: dict[str, bytes | None]) -> dict[str, bytes | None]:
        if all(self._held[key].data is not None and data is not None for key, data in found.items()):
            return found  # no name is new, none goes
        known = await self._load_index()
        there = {key for key, data in found.items() if data is not None}
        now = (known | there) - (found.keys() - there)
        if now != known:
            data = to_json(sorted(now))
            if len(data) > limits.MAX_BODY:
                raise TooLarge(f"the names of this agent's cells have more than {limits.MAX_BODY} bytes; use fewer")
            found[INDEX] = data
        return found

    async def _load(self, field: CellField, key: str) -> bytes | None:
        stored = (await self._read([key]))[key]
        if stored is None or stored.data is None:
            return None
        try:
            check_whole(stored.data)
            return self._migrations.upgraded(stored.data, stored.version, field.name)
        except StateUnreadable as error:
            self.broken = error
            raise

    async def _load_index(self) -> frozenset[str]:
        if self._index is None:
            stored = (await self._read([INDEX]))[INDEX]
            try:
                self._index = _names(stored.data if stored else None)
            except StateUnreadable as error:
                self.broken = error
                raise
        return self._index

    def _decoded(self, held: _Held) -> Any:
        assert held.data is not None
        try:
            return held.field.codec.load(held.data)
        except DecodeError as error:
            self.broken = StateUnreadable(str(error))
            raise self.broken from error


def check_whole(data: bytes) -> None:
    """Raise StateUnreadable for a cell that came as a reference: the object with its content is lost."""
    if data.startswith(MARK):
        reference = cell_reference(data)
        name = "with its content" if reference is None else reference.name
        raise StateUnreadable(f"the object {name} of this cell is missing or damaged, or packed: the log says which")


def _names(data: bytes | None) -> frozenset[str]:
    if data is None:
        return frozenset()
    try:
        return frozenset(from_json(data))
    except (ValueError, TypeError) as error:
        raise StateUnreadable(f"names of cells: {error}") from error


def names_in(index: bytes | None) -> Iterator[str]:
    """The cell names that a stored hidden cell lists. Raises StateUnreadable."""
    yield from sorted(_names(index))


_HELD: Final = "_starling_cells"


def give_cells(agent: object, held: CellSet | None) -> None:
    """Let an agent reach its cells."""
    setattr(agent, _HELD, held)


def held_by(agent: object) -> CellSet | None:
    return cast("CellSet | None", getattr(agent, _HELD, None))
