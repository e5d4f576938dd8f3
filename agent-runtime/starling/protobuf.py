"""Protobuf messages as bodies, for mailboxes that programs in other languages read: `starling-mesh[protobuf]`.

A message travels under the full name of its type, such as `birds.v1.Sighting`, and its body is what protobuf makes of
it: nothing is added. `docs/protocol/other-languages.md` says where it lies.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from starling.errors import SpecError
from starling.own_codec import register_codec

try:
    from google.protobuf.message import Message
except ImportError as missing:
    raise SpecError("protobuf", "is not installed: install starling-mesh[protobuf]") from missing

M = TypeVar("M", bound=Message)

CONTENT_TYPE: Final = "application/protobuf"


class ProtobufCodec(Generic[M]):
    """Reads and writes messages of one generated class."""

    content_types = (CONTENT_TYPE, "application/x-protobuf")
    """Taken from senders in other languages; our own leave it out, as for every codec."""

    def __init__(self, cls: type[M]) -> None:
        self._cls = cls

    def dump(self, value: M) -> bytes:
        """Return the bytes; the same ones for equal messages, maps included."""
        body: bytes = value.SerializeToString(deterministic=True)
        return body

    def load(self, body: bytes) -> M:
        """Fields that are not known here are kept, and written again."""
        return self._cls.FromString(body)  # type: ignore[no-any-return]


def register_protobuf(*classes: type[Message]) -> None:
    """Let messages of these generated classes be sent and handled, by the full names of their types.

    In every process that sends or handles them, before the first handler that names one. Raises SpecError.
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Message) and hasattr(cls, "DESCRIPTOR")):
            raise SpecError("protobuf", f"{cls!r} is no generated message class: give those that protoc has made")
        register_codec(cls, ProtobufCodec(cls), name=cls.DESCRIPTOR.full_name)
