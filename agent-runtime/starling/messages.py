"""Message classes by their name on the wire.

A message is a pydantic model, a dataclass or plain JSON (str, int, float, bool, list, dict, None). It is registered
when a handler names it, or by `@message`. Nothing is ever imported by a name from the wire, and nothing is unpickled.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, overload

from pydantic import BaseModel

from starling.codec import Codec, PlainCodec
from starling.core import limits
from starling.errors import DecodeError, SpecError, UnregisteredType

C = TypeVar("C", bound=type[Any])

JSON: Final = ""
"""The default content type: JSON, or what a codec of one's own makes of it."""

PLAIN: Final[dict[type, str]] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    list: "list",
    dict: "dict",
    NoneType: "none",
}


class Registry:
    """The message classes of a process, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Codec] = {}
        self._by_class: dict[Any, Codec] = {}
        for plain, name in PLAIN.items():
            self._add(PlainCodec(name, plain, limit=limits.MAX_LARGE))

    def _add(self, codec: Codec) -> Codec:
        self._by_name[codec.name] = self._by_class[codec.cls] = codec
        return codec

    def register(self, cls: Any, name: str | None = None) -> Codec:
        """Return the codec of a class, or of a `list[…]` or `dict[…]` of messages, made on first use.

        name: as in `@message`. Raises SpecError when the name is another class's, or the class has another name.
        """
        known = self._by_class.get(cls)
        if known is not None:
            if name is not None and name != known.name:
                raise SpecError("message", f"{full_name(cls)} is registered as {known.name!r}, not as {name!r}")
            return known
        wire = name if name is not None else self._name_of(cls)
        other = self._by_name.get(wire)
        if other is not None and not _is_same(other.cls, cls):
            raise SpecError(
                "message",
                f"{wire!r} is {full_name(other.cls)} already; pin another name with @message(...) on {full_name(cls)}",
            )
        return self._add(Codec(wire, cls, limit=limits.MAX_LARGE))

    def take(self, codec: Codec) -> None:
        """Use a codec that was made elsewhere. Raises SpecError when its class or name has one already."""
        if codec.cls in self._by_class:
            raise SpecError("codec", f"{full_name(codec.cls)} has a codec already; register its own before any handler")
        other = self._by_name.get(codec.name)
        if other is not None:
            raise SpecError("codec", f"{codec.name!r} is {full_name(other.cls)} already; give another name")
        self._add(codec)

    def derived(self, codecs: Iterable[Codec]) -> list[Codec]:
        """Return these codecs and those of the classes derived from theirs, as far as they are registered by now."""
        given = list(codecs)
        bases = tuple(codec.cls for codec in given if isinstance(codec.cls, type) and codec.cls not in PLAIN)
        known = [codec for cls, codec in self._by_class.items() if isinstance(cls, type) and issubclass(cls, bases)]
        return [*given, *(codec for codec in known if codec not in given)]

    def _name_of(self, cls: Any) -> str:
        if isinstance(cls, type) and typing.get_origin(cls) is None:
            if is_record(cls):
                return cls.__name__
            raise SpecError(
                "message", f"{full_name(cls)} is no message: use a pydantic model, a dataclass or a plain JSON type"
            )
        if typing.get_origin(cls) in (list, dict):
            parts = ", ".join(self._part_name(part) for part in typing.get_args(cls))
            return f"{typing.get_origin(cls).__name__}[{parts}]"
        raise SpecError("message", f"{cls!r} is no class: use a pydantic model, a dataclass or a plain JSON type")

    def _part_name(self, part: Any) -> str:
        if part is Any:
            return "any"
        if typing.get_origin(part) in (typing.Union, UnionType):
            return " | ".join(self._part_name(one) for one in typing.get_args(part))
        return self.register(part).name

    def encode(self, value: object) -> tuple[str, bytes]:
        """Return type name and body. Raises UnregisteredType, DecodeError, TooLarge; nothing is published then."""
        codec = self._by_class.get(type(value)) or self.codec_for(value)
        return codec.name, codec.dump(value)

    def codec_for(self, value: object) -> Codec:
        """Raises UnregisteredType."""
        codec = self._by_class.get(type(value))
        if codec is None:
            raise UnregisteredType(
                f"{full_name(type(value))} is not registered: put @message on it, or name it in a handler"
            )
        return codec

    def decode(self, name: str, body: bytes, content_type: str = JSON) -> Any:
        """Raises UnregisteredType, DecodeError."""
        return self.codec(name, content_type).load(body)

    def codec(self, name: str, content_type: str = JSON) -> Codec:
        """Raises UnregisteredType; DecodeError for a content type that is not taken."""
        codec = self._by_name.get(name)
        if codec is None:
            raise UnregisteredType(f"no message class is registered as {name!r}")
        if content_type and content_type not in codec.content_types:
            taken = " or ".join(codec.content_types)
            raise DecodeError(f"{name}: content type {content_type!r} is not taken, only {taken} is")
        return codec


def is_record(cls: type) -> bool:
    """Whether the class is a pydantic model or a dataclass."""
    return issubclass(cls, BaseModel) or "__dataclass_fields__" in vars(cls)


def _is_same(a: Any, b: Any) -> bool:
    """Whether `b` is `a` after its module was run again; the newer class then takes the name."""
    return isinstance(a, type) and isinstance(b, type) and full_name(a) == full_name(b)


def full_name(cls: Any) -> str:
    """Module and name of a class, for people."""
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else str(cls)


registry = Registry()
"""The message classes of this process."""

encode = registry.encode
decode = registry.decode


@overload
def message(name_or_class: str, /) -> Callable[[C], C]: ...
@overload
def message(name_or_class: C, /) -> C: ...
def message(name_or_class: Any, /) -> Any:
    """Register a message class that no handler of this process names; `@message("name")` also pins its name.

    Stands above `@dataclass`. A pinned name lets the class be renamed while old messages are under way.
    """
    if isinstance(name_or_class, type):
        registry.register(name_or_class)
        return name_or_class
    if not isinstance(name_or_class, str) or not 0 < len(name_or_class) <= limits.MAX_KEY_BYTES:
        raise SpecError("message", f"{name_or_class!r} is no name: write @message or @message('name')")

    def pin(cls: C) -> C:
        registry.register(cls, name_or_class)
        return cls

    return pin
