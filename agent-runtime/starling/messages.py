"""Message classes and their wire form: JSON through pydantic, strict, and only what was registered.

A message is a pydantic model, a dataclass or plain JSON. Its name on the wire is its class name unless pinned
with `@message("name")`. Nothing is ever imported by a name from the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from starling.core import limits
from starling.errors import DecodeError, SpecError, TooLarge, UnregisteredType

T = TypeVar("T")
C = TypeVar("C", bound=type)

JSON: Final = ""
"""The default content type."""
_JSON_NAMES: Final = ("", "application/json")

_PLAIN: Final[dict[type, str]] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    list: "list",
    dict: "dict",
    type(None): "none",
}


class Codec(Generic[T]):
    """Encodes and decodes one message class. Strict: a wrong field type is refused by its name, at the sender."""

    __slots__ = ("_dump", "_load", "cls", "name")

    def __init__(self, name: str, cls: type[T]) -> None:
        self.name = name
        self.cls = cls
        adapter = adapter_of(cls)
        self._dump = adapter.serializer.to_json
        self._load = adapter.validator.validate_json

    def dump(self, value: T) -> bytes:
        """Raises DecodeError naming the field, TooLarge."""
        try:
            body: bytes = self._dump(value, warnings="error")
        except (PydanticSerializationError, ValueError) as error:
            raise DecodeError(f"{self.name}: {_first_line(error)}") from error
        if len(body) > limits.MAX_BODY:
            raise TooLarge(f"{self.name} has {len(body)} bytes, at most {limits.MAX_BODY} fit into a message")
        return body

    def load(self, body: bytes) -> T:
        """Raises DecodeError naming the field."""
        try:
            return self._load(body, strict=True)  # type: ignore[no-any-return]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "body"
            raise DecodeError(f"{self.name}.{place}: {first['msg']}") from error


def adapter_of(cls: type[T]) -> TypeAdapter[T]:
    """Return pydantic's adapter; dataclasses get a configuration under which bytes and infinities survive JSON."""
    if hasattr(cls, "__dataclass_fields__") and not hasattr(cls, "__pydantic_config__"):
        cls.__pydantic_config__ = _DATACLASS  # type: ignore[attr-defined]
    return TypeAdapter(cls)


_DATACLASS: Final = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])


class Registry:
    """The message classes of a process, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Codec[Any]] = {}
        self._by_class: dict[Any, Codec[Any]] = {}
        for plain, name in _PLAIN.items():
            self._add(name, plain)

    def _add(self, name: str, cls: Any) -> Codec[Any]:
        codec = Codec[Any](name, cls)
        self._by_name[name] = self._by_class[cls] = codec
        return codec

    def register(self, cls: Any, name: str | None = None) -> Codec[Any]:
        """Return the class's codec, made on first use. Raises SpecError when the name is another class's."""
        known = self._by_class.get(cls)
        if known is not None:
            return known
        if not isinstance(cls, type):
            raise SpecError("message", f"{cls!r} is no class; use a pydantic model, a dataclass or a plain JSON type")
        wire = name if name is not None else getattr(cls, "__starling_name__", None) or cls.__name__
        other = self._by_name.get(wire)
        if other is not None:
            if _same(other.cls, cls):
                return self._add(wire, cls)  # the module was imported anew: the newer class counts
            raise SpecError(
                "message",
                f"{wire!r} is {_full_name(other.cls)} already; pin another name with @message(...) on {_full_name(cls)}",
            )
        if not (issubclass(cls, BaseModel) or hasattr(cls, "__dataclass_fields__")):
            raise SpecError("message", f"{_full_name(cls)} must be a pydantic model, a dataclass or a plain JSON type")
        return self._add(wire, cls)

    def encode(self, value: object) -> tuple[str, bytes]:
        """Return type name and body. Raises UnregisteredType, DecodeError, TooLarge; nothing is published then."""
        codec = self._by_class.get(type(value))
        if codec is None:
            cls = type(value)
            if not (issubclass(cls, BaseModel) or hasattr(cls, "__dataclass_fields__")):
                raise UnregisteredType(
                    f"{_full_name(cls)} is no message: use a pydantic model, a dataclass or plain JSON"
                )
            codec = self.register(cls)
        return codec.name, codec.dump(value)

    def decode(self, name: str, body: bytes, content_type: str = JSON) -> Any:
        """Raises UnregisteredType, DecodeError."""
        return self.codec(name, content_type).load(body)

    def codec(self, name: str, content_type: str = JSON) -> Codec[Any]:
        """Raises UnregisteredType; DecodeError for a content type that is not taken."""
        if content_type not in _JSON_NAMES:
            raise DecodeError(f"{name}: content type {content_type!r} is not taken, only JSON is")
        codec = self._by_name.get(name)
        if codec is None:
            raise UnregisteredType(f"no message class is registered as {name!r}")
        return codec


def _same(a: type, b: type) -> bool:
    return a is b or (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


registry = Registry()
"""The message classes of this process."""

encode = registry.encode
decode = registry.decode


def message(name: str) -> Callable[[C], C]:
    """Pin a class's name on the wire, so that the class may be renamed."""

    def pin(cls: C) -> C:
        cls.__starling_name__ = name  # type: ignore[attr-defined]
        registry.register(cls, name)
        return cls

    return pin
