"""Codecs from outside: for message classes that are neither pydantic models nor dataclasses, or need other bytes."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from starling.codec import Codec
from starling.core import limits
from starling.errors import DecodeError, SpecError, TooLarge
from starling.messages import full_name, registry

T = TypeVar("T")


class MessageCodec(Protocol[T]):
    """Turns values of one class into bytes and back. What it raises becomes DecodeError.

    It may have `content_types`, the content types under which other senders may name these bytes.
    """

    def dump(self, value: T) -> bytes: ...

    def load(self, body: bytes) -> T:
        """Return an equal value, of the same class."""
        ...


def register_codec(cls: type[T], codec: MessageCodec[T], *, name: str | None = None) -> None:
    """Let this codec read and write messages of a class, in every process that sends or handles them.

    name: on the wire, default the class's. Before the first handler that names the class. Raises SpecError.
    """
    for method in ("dump", "load"):
        if not callable(getattr(codec, method, None)):
            raise SpecError("codec", f"{type(codec).__name__} needs a method {method!r}")
    wire = cls.__name__ if name is None else name
    if not 0 < len(wire) <= limits.MAX_KEY_BYTES:
        raise SpecError("name", f"{wire!r} must have 1 to {limits.MAX_KEY_BYTES} characters")
    registry.take(_OwnCodec(wire, cls, codec))


class _OwnCodec(Codec):
    """A codec from outside, in the place of one of ours."""

    __slots__ = ("_own", "content_types")

    def __init__(self, name: str, cls: type, own: MessageCodec[Any]) -> None:
        self._own = own
        self.content_types = tuple(getattr(own, "content_types", Codec.content_types))
        super().__init__(name, cls, limit=limits.MAX_LARGE)

    def _build(self, *, may_wait: bool) -> None:
        pass

    def dump(self, value: Any) -> bytes:
        try:
            body = self._own.dump(value)
        except Exception as error:
            raise DecodeError(f"{self.name}: its codec cannot write it: {error}") from error
        if not isinstance(body, bytes):
            raise DecodeError(f"{self.name}: its codec made a {type(body).__name__}, not bytes")
        if len(body) > limits.MAX_LARGE:
            raise TooLarge(f"{self.name} has {len(body)} bytes, at most {limits.MAX_LARGE} fit into a message")
        return body

    written = dump

    def copied(self, value: Any) -> tuple[bytes, Any]:
        body = self.dump(value)
        return body, self.load(body)

    def load(self, body: bytes) -> Any:
        try:
            value = self._own.load(body)
        except Exception as error:
            raise DecodeError(f"{self.name}: its codec cannot read it: {error}") from error
        if type(value) is not self.cls:
            raise DecodeError(f"{self.name}: its codec made a {type(value).__name__}, not a {full_name(self.cls)}")
        return value
